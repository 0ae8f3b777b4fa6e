// Runs in the audio thread: collects the samples of the microphone into blocks of 40 ms.

import { loudness, toPcm } from "./pcm.js";

const BLOCK_S = 0.04;

class Capture extends AudioWorkletProcessor {
  #block = new Float32Array(Math.round(BLOCK_S * sampleRate));
  #filled = 0;

  process([[samples]]) {
    if (samples) this.#take(samples); // undefined while no microphone is connected
    return true;
  }

  #take(samples) {
    const room = this.#block.length - this.#filled;
    this.#block.set(samples.subarray(0, room), this.#filled);
    this.#filled += Math.min(room, samples.length);
    if (this.#filled < this.#block.length) return;
    const pcm = toPcm(this.#block);
    this.port.postMessage({ pcm, level: loudness(this.#block) }, [pcm.buffer]);
    this.#filled = 0;
    if (samples.length > room) this.#take(samples.subarray(room));
  }
}

registerProcessor("capture", Capture);
