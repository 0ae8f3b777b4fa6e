// Conversion of samples to the format of the wire.

/** Samples per second of the session's clock, independent of the rate of the audio. */
export const CLOCK = 16_000;

const FULL_SCALE = 32_768;

/** Convert -1..1 to 16-bit integers; values beyond are clipped. */
export function toPcm(samples) {
  const pcm = new Int16Array(samples.length);
  for (let i = 0; i < samples.length; i++) {
    const scaled = Math.round(samples[i] * FULL_SCALE);
    pcm[i] = Math.max(-FULL_SCALE, Math.min(FULL_SCALE - 1, scaled));
  }
  return pcm;
}

/** Root mean square in dB of full scale. */
export function loudness(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return 10 * Math.log10(Math.max(1e-10, sum / samples.length));
}
