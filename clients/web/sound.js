// Where samples come from: the microphone, or a file.

import { CLOCK, toPcm } from "./pcm.js";

const AS_IT_IS = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };

/** A microphone that is open. Its rate stays the same when another device takes its place. */
export class Microphone {
  #context;
  #node;
  #source = null;
  #onEnd;

  /**
   * Ask for permission, and begin. What it hears waits for `tell`.
   * @param {string} device its id; "" lets the browser choose
   * @param {() => void} onEnd it was unplugged, or the permission was taken back
   */
  static async open(device, onEnd) {
    const sound = await ask(device);
    const microphone = new Microphone();
    try {
      await microphone.#begin(sound, onEnd);
    } catch (error) {
      stop(sound);
      throw error;
    }
    return microphone;
  }

  get rate() {
    return this.#context.sampleRate;
  }

  async #begin(sound, onEnd) {
    this.#onEnd = onEnd;
    this.#context = new AudioContext({ sampleRate: CLOCK, latencyHint: "interactive" });
    try {
      this.#context.createMediaStreamSource(sound);
    } catch {
      await this.#context.close(); // this browser does not resample microphones; the daemon does
      this.#context = new AudioContext();
    }
    await this.#context.audioWorklet.addModule("capture.js");
    const mono = { channelCount: 1, channelCountMode: "explicit" };
    this.#node = new AudioWorkletNode(this.#context, "capture", mono);
    this.#node.connect(this.#context.destination); // it says nothing, but is not run otherwise
    this.#use(sound);
    await this.#context.resume();
  }

  /**
   * Tell what was heard from the beginning, and what will be.
   * @param {(pcm: Int16Array, level: number) => void} onBlock the level in dB of full scale
   */
  tell(onBlock) {
    this.#node.port.onmessage = ({ data }) => onBlock(data.pcm, data.level);
  }

  async change(device) {
    const sound = await ask(device);
    if (this.#context.state === "closed") stop(sound); // nobody listens any more
    else this.#use(sound);
  }

  #use(sound) {
    this.#release();
    this.#source = this.#context.createMediaStreamSource(sound);
    this.#source.connect(this.#node);
    sound.getTracks().forEach((track) => (track.onended = this.#onEnd));
  }

  #release() {
    if (!this.#source) return;
    stop(this.#source.mediaStream);
    this.#source.disconnect();
    this.#source = null;
  }

  close() {
    this.#release();
    this.#node.port.onmessage = null;
    this.#context.close();
  }
}

function ask(device) {
  const audio = { ...AS_IT_IS, channelCount: { ideal: 1 } };
  if (device) audio.deviceId = { exact: device };
  return navigator.mediaDevices.getUserMedia({ audio });
}

function stop(sound) {
  sound.getTracks().forEach((track) => track.stop());
}

/** The microphones there are, as [id, name]; the names are known once one has been allowed. */
export async function microphones() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return devices
    .filter((device) => device.kind === "audioinput" && device.deviceId)
    .map((device) => [device.deviceId, device.label]);
}

/** What to tell a person about a microphone that cannot be opened. */
export function whyNoMicrophone(error) {
  if (!window.isSecureContext)
    return "Browsers lend the microphone only to pages from https or from localhost.";
  switch (error.name) {
    case "NotAllowedError":
      return "The microphone is not allowed here. Allow it in the browser’s settings of this page.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "There is no such microphone. Is it plugged in?";
    case "NotReadableError":
      return "The microphone is in use, or does not work.";
    default:
      return `The microphone cannot be opened: ${error.message}`;
  }
}

/** Decode an audio or video file to mono at the session's clock. */
export async function decodeFile(file) {
  const context = new OfflineAudioContext(1, 1, CLOCK);
  const audio = await context.decodeAudioData(await file.arrayBuffer());
  const mixed = audio.getChannelData(0);
  const n = audio.numberOfChannels;
  for (let channel = 1; channel < n; channel++) {
    const samples = audio.getChannelData(channel);
    for (let i = 0; i < mixed.length; i++) mixed[i] += samples[i];
  }
  if (n > 1) for (let i = 0; i < mixed.length; i++) mixed[i] /= n;
  return toPcm(mixed);
}
