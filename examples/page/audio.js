// Microphones, speakers, and how loud they are.

import { Problem } from "./call.js";

/** The microphone's stream; throws a Problem that says why it cannot be had. */
export async function openMicrophone(deviceId, processing) {
  if (!navigator.mediaDevices) {
    throw new Problem(
      "This address may not use the microphone",
      "Browsers give it to pages from this machine or over HTTPS only.",
      ["Open the page as http://127.0.0.1, or put it behind HTTPS."],
      true,
    );
  }
  const audio = {
    deviceId: deviceId ? { exact: deviceId } : undefined,
    echoCancellation: processing,
    noiseSuppression: processing,
    autoGainControl: processing,
    channelCount: 1,
  };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    if (error.name === "OverconstrainedError" && deviceId) return openMicrophone("", processing);
    throw refusal(error);
  }
}

function refusal(error) {
  switch (error.name) {
    case "NotAllowedError":
      return new Problem(
        "The microphone was refused",
        "Without it the bot cannot hear you.",
        [
          "Click the icon before the address of this page and allow the microphone.",
          "If that does not help, allow this browser the microphone in the system's settings.",
          "Then start talking again.",
        ],
        true,
      );
    case "NotFoundError":
      return new Problem("There is no microphone", "Plug one in and start talking again.", [], true);
    case "NotReadableError":
      return new Problem(
        "The microphone is in use",
        "Another program holds it; close that one, or choose another under Devices.",
        [],
        true,
      );
    default:
      return new Problem("The microphone does not work", `${error.name}: ${error.message}`, [], true);
  }
}

/** The devices of a kind ("audioinput", "audiooutput"), as [id, name]. */
export async function devices(kind) {
  const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return all
    .filter((device) => device.kind === kind && device.deviceId && device.deviceId !== "default")
    .map((device) => [device.deviceId, device.label || "Unnamed device"]);
}

/** How loud a stream is now. */
export class Meter {
  static #context;
  #analyser;
  #source;
  #samples;

  constructor(stream) {
    const context = (Meter.#context ??= new AudioContext());
    context.resume();
    this.#analyser = new AnalyserNode(context, { fftSize: 1024 });
    this.#samples = new Float32Array(this.#analyser.fftSize);
    this.#source = context.createMediaStreamSource(stream);
    this.#source.connect(this.#analyser);
  }

  /** The root mean square of the last 20 ms, in dB of full scale; -100 for silence. */
  get decibels() {
    this.#analyser.getFloatTimeDomainData(this.#samples);
    const power = this.#samples.reduce((sum, sample) => sum + sample * sample, 0);
    return Math.max(-100, 10 * Math.log10(power / this.#samples.length + 1e-10));
  }

  close() {
    this.#source.disconnect();
  }
}
