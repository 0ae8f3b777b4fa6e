// Transcript of a session, and its file formats. Times are seconds, as on the wire. The files are
// those of `streamasr transcribe`; `streamasr/pipeline/formats.py` gives the reasons.

import { CLOCK } from "./pcm.js";

const MAX_COLUMNS = 42; // of a subtitle; an ideograph counts as two
const MAX_CUE = 7000; // ms
const MIN_CUE = 1000;
const MIN_SENTENCE = 500;
const COMMA_WORTH = 12; // columns

const CLOSING = "[\"'\u2019\u201d»)\\]）」』】》]*$";
const SENTENCE_END = new RegExp("[.!?…。！？؟।]" + CLOSING, "u");
const CLAUSE_END = new RegExp("[,;:，、；：،—.!?…。！？؟।]" + CLOSING, "u");

const CJK = "[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff9f\u{20000}-\u{3ffff}]";
const CJK_SEAM = new RegExp(`(?<=${CJK})\n(?=${CJK})`, "gu");
const PIECE = /\p{Script=Han}|[^\s\p{Script=Han}]+/gu;
const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u;
const MARK = /[\p{Mn}\p{Me}\p{Cf}]/u;

/** Add `from` and `to`, the places in the text of the segment, to its words. */
export function place(text, words) {
  const placed = [];
  let at = 0;
  for (const word of words) {
    const from = text.indexOf(word.text, at);
    if (from < 0) return []; // the words belong to another text
    at = from + word.text.length;
    placed.push({ ...word, from, to: at });
  }
  return placed;
}

/** Replace each run of white space by a space. */
export const tidy = (text) => text.split(/\s+/u).filter(Boolean).join(" ");

/** Join consecutive texts; ideographs are joined without a space. */
export function join(texts) {
  return texts.filter(Boolean).join("\n").replace(CJK_SEAM, "").replaceAll("\n", " ");
}

export class Transcript {
  segments = new Map(); // number -> {id, start, end, language, text, words}
  model = null;
  duration = 0;
  isOver = false;

  constructor(file) {
    this.file = file;
  }

  /** Add a durable message. */
  take(message) {
    switch (message.type) {
      case "ready":
        this.model = message.model;
        break;
      case "final": {
        const { segment: id, start, end, language, text } = message;
        if (text) this.segments.set(id, { id, start, end, language, text: tidy(text), words: [] });
        this.duration = Math.max(this.duration, end);
        break;
      }
      case "words": {
        const segment = this.segments.get(message.segment);
        if (segment) segment.words = place(segment.text, message.words);
        break;
      }
      case "end":
        this.duration = message.duration;
        this.isOver = true;
    }
  }

  get text() {
    return join([...this.segments.values()].map(({ text }) => text));
  }

  /** Languages spoken, by descending length of speech. */
  get languages() {
    const spoken = new Map();
    for (const { language, start, end } of this.segments.values())
      if (language) spoken.set(language, (spoken.get(language) ?? 0) + end - start);
    return [...spoken.keys()].sort((one, other) => spoken.get(other) - spoken.get(one));
  }
}

// Files.

export const FORMATS = {
  txt: { type: "text/plain", write: writeText },
  srt: { type: "application/x-subrip", write: writeSrt },
  vtt: { type: "text/vtt", write: writeVtt },
  json: { type: "application/json", write: writeJson },
};

function writeText({ segments }) {
  return [...segments.values()].map(({ text }) => `${text}\n`).join("");
}

function writeJson(transcript) {
  const { file, model, text } = transcript;
  const [language = null] = transcript.languages;
  const segments = [...transcript.segments.values()].map(({ words, ...segment }) => ({
    ...segment,
    start: round(segment.start),
    end: round(segment.end),
    words: words.map(({ text, start, end, score }) => ({
      text,
      start: round(start),
      end: round(end),
      score: score === null ? null : round(score),
    })),
  }));
  const duration = round(transcript.duration);
  return JSON.stringify({ file, model, language, duration, text, segments }, null, 2) + "\n";
}

function writeSrt(transcript) {
  const cue = ({ start, end, text }, i) =>
    `${i + 1}\n${clock(start, ",")} --> ${clock(end, ",")}\n${text.replaceAll("-->", "→")}\n\n`;
  return makeCues(transcript).map(cue).join("");
}

function writeVtt(transcript) {
  const escape = (text) =>
    text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const cue = ({ start, end, text }) =>
    `${clock(start, ".")} --> ${clock(end, ".")}\n${escape(text)}\n\n`;
  return "WEBVTT\n\n" + makeCues(transcript).map(cue).join("");
}

/** Divide a transcript into subtitles: {start, end, text}, in milliseconds. */
export function makeCues({ segments, duration }) {
  const lines = [...segments.values()].flatMap((segment) =>
    sentences(wordsOf(segment)).flatMap(fit),
  );
  const marks = lines.map(([first]) => ms(first.start));
  marks.push(ms(Math.max(duration, ...lines.map((line) => line.at(-1).end))));
  const cues = [];
  lines.forEach((line, i) => {
    const start = Math.max(marks[i], cues.at(-1)?.end ?? 0);
    const wanted = Math.max(ms(line.at(-1).end), start + MIN_CUE);
    const end = Math.max(Math.min(wanted, start + MAX_CUE, marks[i + 1]), start + 1);
    cues.push({ start, end, text: joined(line) });
  });
  return cues;
}

/** Return words with the space after each; without any, derive them from the length of the text. */
function wordsOf({ text, words, start, end }) {
  if (!words.length) {
    const pieces = [...text.matchAll(PIECE)];
    const at = (i) => start + ((end - start) * i) / text.length;
    words = pieces.map(({ 0: piece, index }) => ({
      text: piece,
      from: index,
      to: index + piece.length,
      start: at(index),
      end: at(index + piece.length),
    }));
  }
  return words.map((word) => ({ ...word, space: text[word.to] === " " ? " " : "" }));
}

const joined = (words) => words.map(({ text, space }) => text + space).join("").trimEnd();

function sentences(words) {
  const found = [];
  let begin = 0;
  for (let end = 1; end < words.length; end++) {
    const shown = ms(words[end].start - words[begin].start);
    if (SENTENCE_END.test(words[end - 1].text) && shown >= MIN_SENTENCE) {
      found.push(words.slice(begin, end));
      begin = end;
    }
  }
  if (words.length) found.push(words.slice(begin));
  return found;
}

function fit(words) {
  const columns = width(joined(words));
  const length = ms(words.at(-1).end) - ms(words[0].start);
  const n = Math.ceil(Math.max(columns / MAX_COLUMNS, length / MAX_CUE));
  if (n <= 1 || words.length === 1) return [words];
  const middle = bestBreak(words, (columns * Math.floor(n / 2)) / n);
  return [...fit(words.slice(0, middle)), ...fit(words.slice(middle))];
}

function bestBreak(words, target) {
  let [best, least, columns] = [1, Infinity, 0];
  for (let n = 1; n < words.length; n++) {
    const { text, space } = words[n - 1];
    columns += width(text) + space.length;
    const cost = Math.abs(columns - target) - (CLAUSE_END.test(text) ? COMMA_WORTH : 0);
    if (cost < least) [best, least] = [n, cost];
  }
  return best;
}

function width(text) {
  let columns = 0;
  for (const char of text) columns += MARK.test(char) ? 0 : WIDE.test(char) ? 2 : 1;
  return columns;
}

// Numbers.

/** Convert to milliseconds; halves are rounded to even, as in Python. */
function ms(seconds) {
  return halfToEven((Math.round(seconds * CLOCK) * 1000) / CLOCK);
}

function halfToEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

const round = (value) => Math.round(value * 1000) / 1000;

function clock(milliseconds, point) {
  const [minutes, rest] = [Math.floor(milliseconds / 60_000), milliseconds % 60_000];
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  const fraction = String(rest % 1000).padStart(3, "0");
  return `${two(minutes / 60)}:${two(minutes % 60)}:${two(rest / 1000)}${point}${fraction}`;
}

/** Format a time for display: 0:04, 1:02:03; with `digits` decimals of a second. */
export function time(seconds, digits = 0) {
  const scale = 10 ** digits;
  const all = Math.floor(seconds * scale + 1e-6) / scale;
  const [hours, minutes] = [Math.floor(all / 3600), Math.floor(all / 60) % 60];
  const rest = (all % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}
