// The page: what its buttons do, and what it says about it.

import { CLOCK } from "./pcm.js";
import { Stream } from "./protocol.js";
import { Search } from "./search.js";
import { Sheet, showTimes } from "./sheet.js";
import { decodeFile, Microphone, microphones, whyNoMicrophone } from "./sound.js";

const $ = (id) => document.getElementById(id);

/** Seconds of speech that may wait for a connection; then the microphone is closed. */
const MAX_WAITING = 600;

/** The last word ends after people press the button, and comes later still (ms). */
const TAIL = 400;

// The languages of Qwen3-ASR.
const LANGUAGES =
  "Arabic Cantonese Chinese Czech Danish Dutch English Filipino Finnish French German Greek Hindi " +
  "Hungarian Indonesian Italian Japanese Korean Macedonian Malay Persian Polish Portuguese Romanian " +
  "Russian Spanish Swedish Thai Turkish Vietnamese";

/** What is remembered on this device; browsers may forbid even that. */
const memory = {
  read(storage, key) {
    try {
      return globalThis[storage].getItem(`streamasr.${key}`) ?? "";
    } catch {
      return "";
    }
  },
  write(storage, key, value) {
    try {
      globalThis[storage].setItem(`streamasr.${key}`, value);
    } catch {
      // then it is forgotten
    }
  },
};

// How things are.

const running = new Set(); // sessions

function say(kind, text) {
  const state = $("state");
  if (state.textContent !== text) state.textContent = text;
  state.dataset.kind = kind;
}

function complain(text) {
  $("alert").textContent = text;
}

/** Say how the sessions are, the one with the most trouble first. */
function tellState() {
  const states = [...running].map((session) => session.state);
  const worst = ["busy", "lost", "behind", "connecting", "listening", "reading", "finishing"].find(
    (kind) => states.some((state) => state.kind === kind),
  );
  const state = states.find(({ kind }) => kind === worst);
  say(state?.kind ?? "idle", state?.text ?? "Ready");
  document.title = listening ? "● streamasr" : "streamasr";
}

// Sessions.

class Session {
  constructor(sheet, wishes, { isFile = false } = {}) {
    this.sheet = sheet;
    this.isFile = isFile;
    // What the microphone hears is kept from the beginning, so it listens before it is connected.
    this.state = isFile
      ? { kind: "connecting", text: "Connecting…" }
      : { kind: "listening", text: "Listening" };
    this.stream = new Stream(wishes, { token, tell: (message) => this.#take(message) });
    this.over = new Promise((resolve) => (this.end = resolve));
    running.add(this);
    $("welcome").hidden = true;
    $("sheets").append(sheet.element);
    toEnd();
    this.stream.open();
    tellState();
  }

  be(kind, text) {
    this.state = { kind, text };
    tellState();
  }

  beWell() {
    if (this.isStopping) this.be("finishing", "Finishing…");
    else if (this.isFile) this.be("reading", "Reading the file");
    else this.be("listening", "Listening");
  }

  /** No more audio comes. */
  stop() {
    this.isStopping = true;
    this.stream.stop();
    if (this.stream.isConnected) this.beWell();
  }

  #take(message) {
    keepPlace(() => {
      this.sheet.show(message);
      this.sheet.note("");
    });
    switch (message.type) {
      case "ready":
      case "resumed":
        this.beWell();
        break;
      case "reconnecting":
        this.#reconnect(message);
        break;
      case "warning":
        if (message.code === "lagging") this.be("behind", `${Math.round(message.lag)} s behind`);
        else complain(message.message);
        break;
      case "final":
        announce(message.text);
        this.beWell();
        search.refresh();
        break;
      case "words":
        search.refresh();
        break;
      case "end":
        if (listening === this) complain("The daemon has ended the session.");
        this.leave();
        break;
      case "failed":
        this.#fail(message);
    }
    this.onMessage?.(message);
  }

  #reconnect({ code, reason }) {
    const waits = this.isFile ? 0 : Math.round(this.stream.waiting);
    const kept = waits ? ` ${waits} s of speech wait.` : "";
    if (code === "overloaded") this.be("busy", `The daemon is busy. Trying again…${kept}`);
    else this.be("lost", `${reason} Reconnecting…${kept}`);
  }

  async #fail({ code, message }) {
    if (code === "http_401" && (await askForToken(message))) return this.stream.retry(token);
    complain(message);
    this.leave();
  }

  leave() {
    this.stream.close();
    running.delete(this);
    if (listening === this) stopMicrophone();
    this.sheet.progress(null);
    this.end();
    tellState();
  }
}

/** Read a final to those who cannot see it. */
function announce(text) {
  if (!text) return;
  const line = document.createElement("p");
  line.textContent = text;
  $("said").append(line);
  while ($("said").childElementCount > 3) $("said").firstChild.remove();
}

// The token; it stays in this tab.

let token = memory.read("sessionStorage", "token");
let door = null; // one question for all sessions

function askForToken(why) {
  door ??= new Promise((resolve) => {
    $("door-why").textContent = token ? why : "Whoever started it has one, in a file.";
    $("token").value = "";
    $("door").returnValue = "";
    $("door").onclose = () => {
      door = null;
      const isGiven = $("door").returnValue === "enter";
      if (isGiven) {
        token = $("token").value.trim();
        memory.write("sessionStorage", "token", token);
      }
      resolve(isGiven);
    };
    $("door").showModal();
  });
  return door;
}

// The microphone.

let microphone = null;
let listening = null; // its session

const wishes = () => ({
  language: $("language").value || null,
  context: $("context").value.trim(),
});

/** Let the button wait; were it disabled, the keyboard would lose its place. */
function hold(isHeld) {
  $("microphone").setAttribute("aria-disabled", isHeld);
}

async function startMicrophone() {
  hold(true);
  complain("");
  try {
    microphone = await Microphone.open($("device").value, () => {
      complain("The microphone is gone; what was said until then is kept.");
      stopMicrophone();
    });
  } catch (error) {
    complain(whyNoMicrophone(error));
    return;
  } finally {
    hold(false);
  }
  const sheet = new Sheet("Microphone", { onStop: stopMicrophone });
  listening = new Session(sheet, { ...wishes(), sample_rate: microphone.rate });
  microphone.tell(hear);
  $("microphone").setAttribute("aria-pressed", "true");
  listMicrophones();
  stayAwake();
  tellState();
}

function hear(pcm, level) {
  showLevel(level);
  if (!listening) return;
  const { stream } = listening;
  stream.send(pcm);
  if (stream.waiting > MAX_WAITING) {
    complain("There was no connection for ten minutes, so the microphone was turned off.");
    stopMicrophone();
  }
}

/** Stop when what was said last has come through. */
async function releaseMicrophone() {
  const released = listening;
  hold(true);
  await new Promise((resolve) => setTimeout(resolve, TAIL));
  hold(false);
  if (listening === released) stopMicrophone();
}

function stopMicrophone() {
  microphone?.close();
  microphone = null;
  const stopped = listening;
  listening = null;
  $("microphone").setAttribute("aria-pressed", "false");
  showLevel(null);
  awake?.release();
  if (stopped && running.has(stopped)) stopped.stop();
  tellState();
}

let levelShownAt = 0;

function showLevel(level) {
  const part = level === null ? 0 : Math.max(0, Math.min(1, (level + 60) / 50));
  $("microphone").style.setProperty("--level", part.toFixed(3));
  $("level").style.setProperty("--level", part.toFixed(3));
  if (level !== null && performance.now() - levelShownAt < 500) return;
  levelShownAt = performance.now();
  $("level").setAttribute("aria-valuenow", Math.round(Math.max(-60, Math.min(0, level ?? -60))));
  $("level").setAttribute("aria-valuetext", level === null ? "off" : `${Math.round(level)} decibels`);
}

async function listMicrophones() {
  const chosen = $("device").value || memory.read("localStorage", "device");
  const found = (await microphones()).filter(([id]) => id !== "default");
  const options = found.map(([id, name], i) => new Option(name || `Microphone ${i + 1}`, id));
  $("device").replaceChildren(new Option("Default", ""), ...options);
  $("device").value = chosen;
  if ($("device").selectedIndex < 0) $("device").value = "";
}

let awake = null;

/** A phone that goes to sleep hears nothing. */
async function stayAwake() {
  try {
    awake = await navigator.wakeLock?.request("screen");
  } catch {
    // it may refuse when its battery is low
  }
}

// Files, one after the other.

let lastFile = Promise.resolve();

function readFiles(files) {
  complain("");
  for (const file of files) lastFile = lastFile.then(() => readFile(file));
}

async function readFile(file) {
  say("reading", `Opening ${file.name}`);
  let pcm;
  try {
    pcm = await decodeFile(file);
  } catch {
    tellState();
    complain(`${file.name} is no audio that this browser can read.`);
    return;
  }
  const url = URL.createObjectURL(file); // for as long as the page is open
  const player = { onSeek: (seconds) => play(url, sheet, seconds) };
  const sheet = new Sheet(file.name, { player, onStop: () => reading.leave() });
  // Without partials: they would only cost time, and the text is that of `streamasr transcribe`.
  const reading = new Session(sheet, { ...wishes(), partials: false }, { isFile: true });
  sheet.progress(0);
  reading.onMessage = ({ end }) => {
    if (end && running.has(reading)) sheet.progress((end * CLOCK) / pcm.length);
  };
  reading.stream.send(pcm);
  reading.stream.stop();
  await reading.over;
  const missing = pcm.length / CLOCK - sheet.transcript.duration;
  if (sheet.transcript.isOver && missing > 1)
    complain(`The daemon ended the session before the last ${Math.round(missing)} s of the file.`);
}

// Listening again.

const player = $("player");
let playing = null; // the sheet

function play(url, sheet, seconds) {
  if (player.src !== url) player.src = url;
  playing = sheet;
  player.hidden = false;
  player.currentTime = seconds;
  player.play().catch((error) => {
    if (error.name !== "AbortError") complain("This browser cannot play the file.");
  });
}

function followPlayer() {
  const now = playing?.wordAt(player.currentTime);
  const before = document.querySelector(".word.now");
  if (now === before) return;
  before?.classList.remove("now");
  now?.classList.add("now");
}

player.ontimeupdate = followPlayer;
player.onseeked = followPlayer;

// The newest words stay in view, unless somebody has gone back to read.

let isAtEnd = true;
let scrolledTo = 0;
let frame = 0; // in which the page is scrolled

const pageEnd = () => document.documentElement.scrollHeight - innerHeight;

function keepPlace(change) {
  change();
  if (isAtEnd) frame ||= requestAnimationFrame(stay); // once for all that comes with one
  else $("follow").hidden = running.size === 0;
}

function stay() {
  frame = 0;
  if (isAtEnd) toEnd(); // nobody has gone back since
}

function toEnd() {
  scrollTo({ top: pageEnd(), behavior: "instant" });
}

addEventListener(
  "scroll",
  () => {
    const isNear = scrollY >= pageEnd() - 48;
    if (isNear || scrollY < scrolledTo) isAtEnd = isNear; // further from the end by more text is not back
    scrolledTo = scrollY;
    if (isAtEnd) $("follow").hidden = true;
  },
  { passive: true },
);
$("follow").onclick = toEnd;

// Light and dark.

const THEMES = { "": "As the system", light: "Light", dark: "Dark" };

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = { "": "◐", light: "○", dark: "●" }[theme];
  $("theme").title = `Colours: ${THEMES[theme]}`;
  $("theme").setAttribute("aria-label", `Colours: ${THEMES[theme]}`);
  memory.write("localStorage", "theme", theme);
}

$("theme").onclick = () => {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
};

// Buttons and choices.

$("microphone").onclick = () => {
  if ($("microphone").getAttribute("aria-disabled") === "true") return;
  if (listening) releaseMicrophone();
  else startMicrophone();
};

$("device").onchange = async () => {
  memory.write("localStorage", "device", $("device").value);
  try {
    await microphone?.change($("device").value);
  } catch (error) {
    complain(whyNoMicrophone(error));
  }
};

for (const id of ["language", "context"])
  $(id).onchange = () => {
    if (id === "language") memory.write("localStorage", id, $(id).value);
    for (const { stream } of running) stream.configure(wishes());
  };

$("more").onclick = () => {
  const isOpen = $("choices").classList.toggle("open");
  $("more").setAttribute("aria-expanded", isOpen);
};

$("file").onchange = () => {
  readFiles([...$("file").files]);
  $("file").value = "";
};

let nested = 0; // elements that the pointer has entered with a file

addEventListener("dragenter", (event) => {
  if (event.dataTransfer.types.includes("Files")) $("drop").hidden = ++nested === 0;
});
addEventListener("dragleave", () => ($("drop").hidden = --nested <= 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  nested = 0;
  $("drop").hidden = true;
  readFiles([...event.dataTransfer.files]);
});

addEventListener("beforeunload", (event) => {
  if (running.size) event.preventDefault(); // the browser asks
});

for (const name of LANGUAGES.split(" ")) $("language").append(new Option(name, name));
$("language").value = memory.read("localStorage", "language");
setTheme(memory.read("localStorage", "theme"));
showTimes($("sheets"), $("when"));
const search = new Search($("search"), $("query"), $("hits"), $("sheets"));
navigator.mediaDevices?.addEventListener("devicechange", listMicrophones);
listMicrophones();
