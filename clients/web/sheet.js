// View of one session: a list of final segments, followed by the open segments.

import { FORMATS, tidy, time, Transcript } from "./transcript.js";

const clone = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

/** The words of all sheets, by their elements. */
const wordOf = new WeakMap();

export class Sheet {
  #rows = new Map(); // open segments: number -> <li>
  #texts = new Map(); // finals: number -> <p>
  #list;
  #about;
  #progress;
  #stop;
  #began = new Date();

  /**
   * @param {string} name of the file, or of another source
   * @param {?{onSeek: (seconds: number) => void}} player of a source that can be played again
   * @param {() => void} onStop called when the user stops the session before its end
   */
  constructor(name, { player = null, onStop }) {
    this.transcript = new Transcript(name);
    this.player = player;
    this.element = clone("sheet");
    this.element.querySelector("h2").textContent = name;
    this.#list = this.element.querySelector(".segments");
    this.#list.tabIndex = 0;
    this.#list.setAttribute("aria-label", `${name}: arrow keys move from word to word`);
    this.#about = this.element.querySelector(".about");
    this.#progress = this.element.querySelector("progress");
    this.#stop = this.element.querySelector("[data-stop]");
    this.#stop.onclick = onStop;
    this.element.classList.toggle("playable", player !== null);
    for (const button of this.element.querySelectorAll("[data-format]"))
      button.onclick = () => this.#save(button.dataset.format);
    this.#list.onkeydown = (event) => this.#step(event);
    this.#list.onclick = ({ target }) => this.#seek(target);
    this.note("");
  }

  /** Show a message of the daemon. */
  show(message) {
    this.transcript.take(message);
    switch (message.type) {
      case "speech":
        this.#open(message);
        break;
      case "partial":
        this.#change(this.#open(message), message);
        break;
      case "final":
        this.#settle(message);
        break;
      case "words":
        this.#divide(message.segment);
        break;
      case "gap":
        this.#miss(message);
        break;
      case "resumed":
        this.#closeAll(); // partials are not repeated; new ones follow soon
        break;
      case "end":
      case "failed":
        this.#closeAll();
    }
  }

  /** Show facts and a text beside the name. */
  note(text) {
    const { duration, languages } = this.transcript;
    const clock = this.#began.toLocaleTimeString([], { hour: "numeric", minute: "2-digit" });
    const facts = [clock, duration ? time(duration) : "", languages.join(", "), text];
    this.#about.textContent = facts.filter(Boolean).join(" · ");
  }

  /** @param {?number} part fraction done, 0..1; null at the end */
  progress(part) {
    this.#progress.hidden = this.#stop.hidden = part === null;
    if (part !== null) this.#progress.value = part;
  }

  /** Return the element of the word spoken at a time. */
  wordAt(seconds) {
    for (const element of this.element.querySelectorAll(".word")) {
      const { start, end } = wordOf.get(element);
      if (start <= seconds && seconds < end) return element;
    }
    return null;
  }

  // Rows.

  #open({ segment, start }) {
    const row = this.#rows.get(segment) ?? this.#add(start);
    if (!this.#rows.has(segment)) {
      row.classList.add("live");
      this.#rows.set(segment, row);
    }
    return row;
  }

  #add(start, className = "") {
    const row = clone("segment");
    const stamp = row.querySelector(".time");
    stamp.textContent = time(start);
    stamp.tabIndex = -1; // the keyboard moves by words
    stamp.disabled = this.player === null;
    stamp.setAttribute("aria-label", `Play from ${time(start)}`);
    wordOf.set(stamp, { start, end: start });
    row.className = className;
    row.dataset.start = start;
    this.#list.insertBefore(row, this.#after(start));
    return row;
  }

  /** Return the first row that starts later; a final may follow the start of the next segment. */
  #after(start) {
    let row = null;
    let before = this.#list.lastElementChild;
    while (before && before.dataset.start > start) [row, before] = [before, before.previousElementSibling];
    return row;
  }

  #change(row, { text, stable }) {
    const p = row.querySelector("p");
    const solid = document.createElement("span");
    const dim = document.createElement("span");
    dim.className = "unstable";
    solid.textContent = [...text].slice(0, stable).join(""); // `stable` counts code points
    dim.textContent = text.slice(solid.textContent.length);
    p.replaceChildren(solid, dim);
    // A partial that becomes shorter does not remove a line while it is being read.
    p.style.minHeight = `${Math.max(p.offsetHeight, parseFloat(p.style.minHeight) || 0)}px`;
  }

  #settle({ segment, start, text }) {
    if (!text) return this.#close(segment);
    const row = this.#open({ segment, start });
    this.#rows.delete(segment);
    row.classList.remove("live");
    const p = row.querySelector("p");
    this.#texts.set(segment, p);
    p.textContent = tidy(text);
    p.style.minHeight = "";
  }

  #divide(segment) {
    const { text, words } = this.transcript.segments.get(segment) ?? {};
    if (!words?.length) return;
    const parts = [];
    let at = 0;
    for (const word of words) {
      const element = document.createElement("span");
      element.className = "word";
      element.tabIndex = -1;
      element.textContent = word.text;
      wordOf.set(element, word);
      parts.push(text.slice(at, word.from), element);
      at = word.to;
    }
    this.#texts.get(segment).replaceChildren(...parts, text.slice(at));
  }

  #miss({ start, end, reason }) {
    for (const [segment, row] of this.#rows) if (row.dataset.start < end) this.#close(segment);
    const row = this.#add(start, "gap");
    row.querySelector("p").textContent = `${(end - start).toFixed(1)} s without text: ${reason}`;
  }

  #close(segment) {
    this.#rows.get(segment)?.remove();
    this.#rows.delete(segment);
  }

  #closeAll() {
    for (const segment of [...this.#rows.keys()]) this.#close(segment);
  }

  // Actions of the user.

  #seek(element) {
    if (this.player && wordOf.has(element)) this.player.onSeek(wordOf.get(element).start);
  }

  #step(event) {
    const { key, target } = event;
    if (key === "Enter" || key === " ") {
      if (!wordOf.has(target)) return;
      this.#seek(target);
    } else if (key === "ArrowRight" || key === "ArrowLeft") {
      const words = [...this.#list.querySelectorAll(".word")];
      const at = words.indexOf(target);
      const next = key === "ArrowRight" ? at + 1 : at < 0 ? words.length - 1 : at - 1;
      words[next]?.focus();
    } else return;
    event.preventDefault();
  }

  #save(format) {
    const { type, write } = FORMATS[format];
    const link = document.createElement("a");
    const url = URL.createObjectURL(new Blob([write(this.transcript)], { type }));
    const stem = this.player ? this.transcript.file.replace(/\.[^.]*$/, "") : stamp(this.#began);
    link.href = url;
    link.download = `${stem}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }
}

/** Name for a recording without one: microphone 2026-11-21 14.02. */
function stamp(date) {
  const two = (value) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `microphone ${day} ${two(date.getHours())}.${two(date.getMinutes())}`;
}

/** Show the times of the word under the pointer or with the focus. */
export function showTimes(container, tip) {
  const show = ({ target }) => {
    const word = target.classList?.contains("word") && wordOf.get(target);
    tip.hidden = !word;
    if (!word) return;
    tip.textContent = `${time(word.start, 2)} – ${time(word.end, 2)}`;
    const at = target.getClientRects()[0];
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(room, at.left + at.width / 2 - tip.offsetWidth / 2))}px`;
    tip.style.top = `${at.top - tip.offsetHeight - 6}px`;
  };
  container.addEventListener("pointerover", show);
  container.addEventListener("focusin", show);
  container.addEventListener("pointerleave", show);
  container.addEventListener("focusout", show);
  addEventListener("scroll", () => (tip.hidden = true), { passive: true });
}
