// Sources of samples: the microphone, or a file.

import { CLOCK, toPcm } from "./pcm.js";

const UNPROCESSED = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };

/** Open microphone. Its rate stays the same when it changes to another device. */
export class Microphone {
  #context;
  #node;
  #source = null;
  #onEnd;

  /**
   * Ask for permission, and begin to record. The samples are queued until `deliverTo`.
   * @param {string} device id of the device; "" lets the browser choose
   * @param {() => void} onEnd called when it is unplugged, or the permission is withdrawn
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
      await this.#context.close(); // this browser does not resample microphones, so the daemon must
      this.#context = new AudioContext();
    }
    await this.#context.audioWorklet.addModule("capture.js");
    const mono = { channelCount: 1, channelCountMode: "explicit" };
    this.#node = new AudioWorkletNode(this.#context, "capture", mono);
    this.#node.connect(this.#context.destination); // silent, but not run without a connection
    this.#use(sound);
    await this.#context.resume();
  }

  /**
   * Deliver all samples since the beginning, and those to come.
   * @param {(pcm: Int16Array, level: number) => void} onBlock gets the level in dB of full scale
   */
  deliverTo(onBlock) {
    this.#node.port.onmessage = ({ data }) => onBlock(data.pcm, data.level);
  }

  async change(device) {
    const sound = await ask(device);
    if (this.#context.state === "closed") stop(sound); // closed meanwhile
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
  const audio = { ...UNPROCESSED, channelCount: { ideal: 1 } };
  if (device) audio.deviceId = { exact: device };
  return navigator.mediaDevices.getUserMedia({ audio });
}

function stop(sound) {
  sound.getTracks().forEach((track) => track.stop());
}

/** List the microphones as [id, name]; names are empty until one has been allowed. */
export async function microphones() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return devices
    .filter((device) => device.kind === "audioinput" && device.deviceId)
    .map((device) => [device.deviceId, device.label]);
}

/** Return the message for the user about a microphone that cannot be opened. */
export function whyNoMicrophone(error) {
  if (!window.isSecureContext)
    return "Browsers allow the microphone only on pages from https or localhost.";
  switch (error.name) {
    case "NotAllowedError":
      return "The microphone is not allowed here. Allow it in the browser’s settings for this page.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "The microphone was not found. Check that it is plugged in.";
    case "NotReadableError":
      return "The microphone is in use by another program, or does not work.";
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
