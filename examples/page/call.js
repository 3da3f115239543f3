// One call: a peer connection to the bot, with RTVI messages on its data channel.
//
// Nothing here knows the page. Events: "state" (connecting, connected, ended), "message" (RTVI),
// "problem" (a Problem) and "track" (the bot's voice, a MediaStream).

const RTVI_VERSION = "2.2.0";
const CONNECT_TIMEOUT_MS = 15_000;
const PING_MS = 1_000; // the bot hangs up on a page that falls silent

/** What went wrong, in words for a person: a title, an explanation, and what to do. */
export class Problem extends Error {
  constructor(title, text, steps = [], microphone = false) {
    super(title);
    Object.assign(this, { title, text, steps, microphone });
  }
}

export class Call extends EventTarget {
  #peer;
  #channel;
  #id = null;
  #candidates = [];
  #sent = 0;
  #timer;
  #pinging;
  #over = false;

  constructor(iceServers) {
    super();
    this.#peer = new RTCPeerConnection({ iceServers, bundlePolicy: "max-bundle" });
    this.sender = this.#peer.addTransceiver("audio", { direction: "sendrecv" }).sender;
    this.#channel = this.#peer.createDataChannel("rtvi");
    this.#channel.onopen = () => this.#greet();
    this.#channel.onmessage = (event) => this.#receive(event.data);
    this.#peer.ontrack = ({ track }) => this.#emit("track", new MediaStream([track]));
    this.#peer.onicecandidate = ({ candidate }) => candidate && this.#found(candidate);
    this.#peer.onconnectionstatechange = () => this.#changed();
  }

  /** Connect, with a microphone's track or null; throws a Problem if the bot refuses. */
  async start(track) {
    this.#emit("state", "connecting");
    await this.sender.replaceTrack(track);
    this.#timer = setTimeout(() => this.#fail(noPath()), CONNECT_TIMEOUT_MS);
    try {
      await this.#peer.setLocalDescription();
      const { sdp, type } = this.#peer.localDescription;
      const answer = await ask("POST", { sdp, type });
      if (this.#over) return;
      await this.#peer.setRemoteDescription(answer);
      this.#id = answer.pc_id;
      if (this.#candidates.length) this.#tell(this.#candidates.splice(0));
    } catch (error) {
      this.end();
      throw error;
    }
  }

  /** Send an RTVI message. */
  send(type, data = {}) {
    if (this.#channel.readyState !== "open") return;
    const id = String(++this.#sent);
    this.#channel.send(JSON.stringify({ label: "rtvi-ai", type, id, data }));
  }

  /** Hang up; the bot's line is free at once. */
  end() {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    clearInterval(this.#pinging);
    this.send("disconnect-bot");
    this.#peer.close();
    this.#emit("state", "ended");
  }

  #greet() {
    this.#pinging = setInterval(() => this.#channel.send("ping"), PING_MS);
    const about = { library: "speech-runtime" };
    this.send("client-ready", { version: RTVI_VERSION, about });
  }

  #receive(text) {
    const message = JSON.parse(text);
    if (message.type === "bot-ready") {
      clearTimeout(this.#timer);
      this.#emit("state", "connected");
    }
    if (message.label === "rtvi-ai") this.#emit("message", message);
    else if (message.message?.type === "peerLeft") this.#fail(goodbye());
  }

  // Candidates that are found before the answer wait for the call's name.
  #found(candidate) {
    if (this.#id === null) this.#candidates.push(candidate);
    else this.#tell([candidate]);
  }

  #tell(candidates) {
    const body = {
      pc_id: this.#id,
      candidates: candidates.map(({ candidate, sdpMid, sdpMLineIndex }) => ({
        candidate,
        sdp_mid: sdpMid,
        sdp_mline_index: sdpMLineIndex,
      })),
    };
    ask("PATCH", body).catch((problem) => this.#fail(problem));
  }

  #changed() {
    const state = this.#peer.connectionState;
    if (state === "failed") this.#fail(this.#channel.readyState === "open" ? lost() : noPath());
    if (state === "closed") this.end();
  }

  #fail(problem) {
    if (this.#over) return;
    this.#emit("problem", problem);
    this.end();
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

async function ask(method, body) {
  let response;
  try {
    response = await fetch("api/offer", {
      method,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Problem("The bot does not answer", "Its program may have stopped.", [
      "Look into the terminal in which it runs, and start it again with: make bot",
    ]);
  }
  if (response.ok) return response.json();
  const { detail } = await response.json().catch(() => ({}));
  if (response.status === 503) throw new Problem("The line is busy", detail);
  throw new Problem("The bot refused the call", detail ?? `It answered with ${response.status}.`);
}

const noPath = () =>
  new Problem("No way through for the audio", "The bot answered, but its audio cannot reach here.", [
    "On one machine: check that it has a network interface besides loopback, and that no firewall stops UDP.",
    "Across networks: give the bot STUN or TURN servers in BOT_ICE_SERVERS.",
  ]);

const goodbye = () =>
  new Problem("The bot hung up", "It does so after five minutes of silence, and when it is stopped.");

const lost = () => new Problem("The connection was lost", "Call again when the network is back.");
