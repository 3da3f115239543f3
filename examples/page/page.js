// The page: buttons, meters and messages around a call.

import { Meter, devices, openMicrophone } from "./audio.js";
import { Call, Problem } from "./call.js";
import { Transcript } from "./transcript.js";

const $ = (id) => document.getElementById(id);
const AUDIBLE_DB = -45;

const transcript = new Transcript($("transcript"));
const config = fetch("api/config").then((response) => response.json());
let call = null;
let microphone = null; // the stream
let meters = {}; // of you and bot
let wait = null; // the answer that the user waits for: { since, heard, parts }

// --- the call -------------------------------------------------------------------------------

async function start(withMicrophone = true) {
  hideProblem();
  performance.mark("call clicked");
  setState("connecting");
  $("call").disabled = true; // until the microphone is allowed or refused
  try {
    if (withMicrophone) await useMicrophone();
    call = new Call((await config).iceServers);
    $("call").disabled = false;
    call.addEventListener("state", ({ detail }) => setState(detail));
    call.addEventListener("problem", ({ detail }) => showProblem(detail));
    call.addEventListener("message", ({ detail }) => receive(detail));
    call.addEventListener("track", ({ detail }) => useVoice(detail));
    await call.start(microphone?.getAudioTracks()[0] ?? null);
  } catch (error) {
    showProblem(error);
    setState("ended");
  }
}

function setState(state) {
  const live = state === "connecting" || state === "connected";
  const connected = state === "connected";
  $("call").textContent = live ? "Hang up" : "Start talking";
  $("call").classList.toggle("live", live);
  $("call").disabled = false;
  $("mute").disabled = !connected || !microphone;
  for (const control of $("typing").elements) control.disabled = !connected;
  document.body.dataset.state = state;
  performance.mark(`call ${state}`);
  announce({ connecting: "Connecting …", connected: "Connected: just talk" }[state] ?? "Not connected");
  if (connected && !microphone) $("text").focus();
  if (state === "ended") release();
}

function release() {
  call = null;
  wait = null;
  for (const track of microphone?.getTracks() ?? []) track.stop();
  microphone = null;
  for (const meter of Object.values(meters)) meter.close();
  meters = {};
  $("voice").srcObject = null;
  $("mute").textContent = "Mute";
  $("mute").setAttribute("aria-pressed", "false");
  transcript.heardAll();
  light("");
}

// --- what the bot reports -------------------------------------------------------------------

function receive({ type, data }) {
  switch (type) {
    case "user-input":
      if (data.text.trim()) {
        $("empty").hidden = true;
        transcript.hear(data.text.trim(), data.final);
      }
      break;
    case "vad-user-started-speaking":
      wait = null;
      light("you", "Hearing you");
      break;
    case "vad-user-stopped-speaking":
      config.then(({ stopSecs }) => {
        wait = { since: performance.now() - stopSecs * 1000, heard: null, parts: null };
      });
      light("", "Listening");
      break;
    case "user-stopped-speaking":
      if (wait) listen(wait);
      light("", "Thinking");
      break;
    case "bot-started-speaking":
      hideProblem();
      light("bot", "Speaking");
      break;
    case "bot-stopped-speaking":
      transcript.saidAll();
      light("", "Listening");
      break;
    case "bot-interrupted":
      transcript.interrupted();
      break;
    case "bot-output":
      $("empty").hidden = true;
      transcript.say(data);
      if (wait) report(wait);
      break;
    case "server-message":
      if (data.kind === "latency" && wait) {
        wait.parts = data.parts;
        report(wait);
      }
      break;
    case "error":
    case "error-response":
      showProblem(new Problem("The bot has a problem", data.error));
      break;
  }
}

// The wait ends with the first sound that comes out here, not with a message about it.
function listen(waiting) {
  const timer = setInterval(() => {
    const late = performance.now() - waiting.since > 30_000;
    if (waiting !== wait || late || document.hidden) return clearInterval(timer);
    if ((meters.bot?.decibels ?? -100) < AUDIBLE_DB) return;
    clearInterval(timer);
    waiting.heard = (performance.now() - waiting.since) / 1000;
    report(waiting);
  }, 10);
}

function report(waiting) {
  if (!waiting.parts || (waiting.heard === null && !document.hidden)) return;
  transcript.waited(waiting.heard, waiting.parts);
  $("legend").hidden = false;
  $("summary").textContent = transcript.summary;
}

// --- sound ----------------------------------------------------------------------------------

async function useMicrophone() {
  const stream = await openMicrophone($("microphone").value, $("processing").checked);
  for (const track of microphone?.getTracks() ?? []) track.stop();
  microphone = stream;
  meters.you?.close();
  meters.you = new Meter(stream);
  await listDevices(); // their names are known once one has been allowed
}

function useVoice(stream) {
  $("voice").srcObject = stream;
  meters.bot = new Meter(stream);
}

async function changeMicrophone() {
  remember();
  if (!call || !microphone) return;
  try {
    const muted = $("mute").getAttribute("aria-pressed") === "true";
    await useMicrophone();
    const [track] = microphone.getAudioTracks();
    track.enabled = !muted;
    await call.sender.replaceTrack(track);
  } catch (error) {
    showProblem(error);
  }
}

async function changeSpeaker() {
  remember();
  await $("voice").setSinkId?.($("speaker").value).catch(() => {
    showProblem(new Problem("That speaker cannot be used", "Choose another one."));
  });
}

async function listDevices() {
  for (const [id, kind] of [["microphone", "audioinput"], ["speaker", "audiooutput"]]) {
    const select = $(id);
    const chosen = select.value || localStorage.getItem(id) || "";
    const found = await devices(kind);
    select.replaceChildren(new Option("The system's choice", ""), ...found.map(([value, name]) => new Option(name, value)));
    select.value = found.some(([value]) => value === chosen) ? chosen : "";
  }
}

function remember() {
  for (const id of ["microphone", "speaker"]) localStorage.setItem(id, $(id).value);
  localStorage.setItem("processing", $("processing").checked ? "on" : "off");
}

// --- what the page shows --------------------------------------------------------------------

// Read to those who do not see the page: the state of the call, and problems. The conversation
// is not, as it would talk over the bot.
function announce(text) {
  $("status").textContent = $("announcement").textContent = text;
}

function light(who, phase) {
  if (phase && call) $("status").textContent = phase;
  $("your-meter").classList.toggle("active", who === "you");
  $("bot-meter").classList.toggle("active", who === "bot");
}

function showProblem(problem) {
  const box = $("problem");
  const known = problem instanceof Problem;
  box.querySelector("h2").textContent = known ? problem.title : "Something went wrong on this page";
  box.querySelector("p").textContent = known ? problem.text : String(problem);
  const steps = known ? problem.steps : [];
  box.querySelector("ol").replaceChildren(
    ...steps.map((step) => Object.assign(document.createElement("li"), { textContent: step })),
  );
  box.querySelector("ol").hidden = !steps.length;
  $("without-microphone").hidden = !(known && problem.microphone);
  box.hidden = false;
}

function hideProblem() {
  $("problem").hidden = true;
}

// From -60 dB, a quiet room, to -10 dB, as loud as speech gets. Sixteen times a second, with CSS
// in between: drawing is most of what the page costs.
function draw() {
  for (const [who, id] of [["you", "your-meter"], ["bot", "bot-meter"]]) {
    const decibels = meters[who]?.decibels ?? -100;
    const level = Math.min(1, Math.max(0, (decibels + 60) / 50)).toFixed(2);
    const { style } = $(id);
    if (style.getPropertyValue("--level") !== level) style.setProperty("--level", level);
  }
}

// --- at the start ---------------------------------------------------------------------------

$("call").addEventListener("click", () => (call ? call.end() : start()));
$("without-microphone").addEventListener("click", () => start(false));
$("mute").addEventListener("click", () => {
  const [track] = microphone?.getAudioTracks() ?? [];
  if (!track) return;
  track.enabled = !track.enabled;
  $("mute").textContent = track.enabled ? "Mute" : "Muted";
  $("mute").setAttribute("aria-pressed", String(!track.enabled));
});
$("typing").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || !call) return;
  call.send("send-text", { content: text });
  $("text").value = "";
});
$("microphone").addEventListener("change", changeMicrophone);
$("processing").addEventListener("change", changeMicrophone);
$("speaker").addEventListener("change", changeSpeaker);
navigator.mediaDevices?.addEventListener("devicechange", listDevices);
addEventListener("pagehide", () => call?.end());

$("processing").checked = localStorage.getItem("processing") !== "off";
$("speaker-field").hidden = !("setSinkId" in HTMLMediaElement.prototype);
config.then(
  ({ model }) => ($("model").textContent = model ?? "A parrot, without a language model"),
  () => showProblem(new Problem("The bot does not answer", "Start it with: make bot")),
);
listDevices();
setInterval(draw, 60);
