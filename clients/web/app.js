// The page: actions of its buttons, and its state.

import { CLOCK } from "./pcm.js";
import { AudioSession } from "./protocol.js";
import { Search } from "./search.js";
import { Sheet, showTimes } from "./sheet.js";
import { decodeFile, Microphone, microphones, whyNoMicrophone } from "./sound.js";

const $ = (id) => document.getElementById(id);

/** Seconds of speech that are queued without a connection before the microphone is closed. */
const MAX_WAITING = 600;

/** Recorded after the button is pressed, because the last word ends and arrives later (ms). */
const TAIL = 400;

// Languages of Qwen3-ASR.
const LANGUAGES =
  "Arabic Cantonese Chinese Czech Danish Dutch English Filipino Finnish French German Greek Hindi " +
  "Hungarian Indonesian Italian Japanese Korean Macedonian Malay Persian Polish Portuguese Romanian " +
  "Russian Spanish Swedish Thai Turkish Vietnamese";

/** Settings stored on this device; browsers may forbid that. */
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
      // the setting is not stored
    }
  },
};

// State of the page.

const running = new Set(); // sessions

function showState(kind, text) {
  const state = $("state");
  if (state.textContent !== text) state.textContent = text;
  state.dataset.kind = kind;
}

function showAlert(text) {
  $("alert").textContent = text;
}

/** Show the state of the session with the worst trouble. */
function updateState() {
  const states = [...running].map((session) => session.state);
  const worst = ["busy", "lost", "behind", "connecting", "listening", "reading", "finishing"].find(
    (kind) => states.some((state) => state.kind === kind),
  );
  const state = states.find(({ kind }) => kind === worst);
  showState(state?.kind ?? "idle", state?.text ?? "Ready");
  document.title = listening ? "● streamasr" : "streamasr";
}

// Sessions.

class Session {
  constructor(sheet, settings, { isFile = false } = {}) {
    this.sheet = sheet;
    this.isFile = isFile;
    // Audio of the microphone is queued until the connection is open, so it is listening already.
    this.state = isFile
      ? { kind: "connecting", text: "Connecting…" }
      : { kind: "listening", text: "Listening" };
    this.stream = new AudioSession(settings, { token, onMessage: (message) => this.#take(message) });
    this.over = new Promise((resolve) => (this.end = resolve));
    running.add(this);
    $("welcome").hidden = true;
    $("sheets").append(sheet.element);
    toEnd();
    this.stream.open();
    updateState();
  }

  setState(kind, text) {
    this.state = { kind, text };
    updateState();
  }

  setNormalState() {
    if (this.isStopping) this.setState("finishing", "Finishing…");
    else if (this.isFile) this.setState("reading", "Reading the file");
    else this.setState("listening", "Listening");
  }

  /** End the audio of the session. */
  stop() {
    this.isStopping = true;
    this.stream.stop();
    if (this.stream.isConnected) this.setNormalState();
  }

  #take(message) {
    keepPosition(() => {
      this.sheet.show(message);
      this.sheet.note("");
    });
    switch (message.type) {
      case "ready":
      case "resumed":
        this.setNormalState();
        break;
      case "reconnecting":
        this.#reconnect(message);
        break;
      case "warning":
        if (message.code === "lagging") this.setState("behind", `${Math.round(message.lag)} s behind`);
        else showAlert(message.message);
        break;
      case "final":
        announce(message.text);
        this.setNormalState();
        search.refresh();
        break;
      case "words":
        search.refresh();
        break;
      case "end":
        if (listening === this) showAlert("The daemon has ended the session.");
        this.leave();
        break;
      case "failed":
        this.#fail(message);
    }
    this.onMessage?.(message);
  }

  #reconnect({ code, reason }) {
    const waits = this.isFile ? 0 : Math.round(this.stream.waiting);
    const kept = waits ? ` ${waits} s of speech are waiting to be sent.` : "";
    if (code === "overloaded") this.setState("busy", `The daemon is busy. Trying again…${kept}`);
    else this.setState("lost", `${reason} Reconnecting…${kept}`);
  }

  async #fail({ code, message }) {
    if (code === "http_401" && (await askForToken(message))) return this.stream.retry(token);
    showAlert(message);
    this.leave();
  }

  leave() {
    this.stream.close();
    running.delete(this);
    if (listening === this) stopMicrophone();
    this.sheet.progress(null);
    this.end();
    updateState();
  }
}

/** Pass a final to screen readers. */
function announce(text) {
  if (!text) return;
  const line = document.createElement("p");
  line.textContent = text;
  $("announcements").append(line);
  while ($("announcements").childElementCount > 3) $("announcements").firstChild.remove();
}

// The token, which is stored for this tab only.

let token = memory.read("sessionStorage", "token");
let tokenDialog = null; // one dialog for all sessions

function askForToken(why) {
  tokenDialog ??= new Promise((resolve) => {
    $("token-reason").textContent = token
      ? why
      : "Find it in the file named by server.token_file in the daemon’s settings.";
    $("token").value = "";
    $("token-dialog").returnValue = "";
    $("token-dialog").onclose = () => {
      tokenDialog = null;
      const isGiven = $("token-dialog").returnValue === "enter";
      if (isGiven) {
        token = $("token").value.trim();
        memory.write("sessionStorage", "token", token);
      }
      resolve(isGiven);
    };
    $("token-dialog").showModal();
  });
  return tokenDialog;
}

// The microphone.

let microphone = null;
let listening = null; // its session

const settings = () => ({
  language: $("language").value || null,
  context: $("context").value.trim(),
});

/** Mark the button as busy; a disabled one would lose the keyboard focus. */
function setBusy(isBusy) {
  $("microphone").setAttribute("aria-disabled", isBusy);
}

async function startMicrophone() {
  setBusy(true);
  showAlert("");
  try {
    microphone = await Microphone.open($("device").value, () => {
      showAlert("The microphone was disconnected; the text so far is kept.");
      stopMicrophone();
    });
  } catch (error) {
    showAlert(whyNoMicrophone(error));
    return;
  } finally {
    setBusy(false);
  }
  const sheet = new Sheet("Microphone", { onStop: stopMicrophone });
  listening = new Session(sheet, { ...settings(), sample_rate: microphone.rate });
  microphone.deliverTo(receiveAudio);
  $("microphone").setAttribute("aria-pressed", "true");
  listMicrophones();
  keepScreenOn();
  updateState();
}

function receiveAudio(pcm, level) {
  showLevel(level);
  if (!listening) return;
  const { stream } = listening;
  stream.send(pcm);
  if (stream.waiting > MAX_WAITING) {
    showAlert("The microphone was turned off after ten minutes without a connection.");
    stopMicrophone();
  }
}

/** Stop after the tail, so that the last word is complete. */
async function releaseMicrophone() {
  const released = listening;
  setBusy(true);
  await new Promise((resolve) => setTimeout(resolve, TAIL));
  setBusy(false);
  if (listening === released) stopMicrophone();
}

function stopMicrophone() {
  microphone?.close();
  microphone = null;
  const stopped = listening;
  listening = null;
  $("microphone").setAttribute("aria-pressed", "false");
  showLevel(null);
  wakeLock?.release();
  if (stopped && running.has(stopped)) stopped.stop();
  updateState();
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

let wakeLock = null;

/** Keep the screen on: a phone that goes to sleep stops recording. */
async function keepScreenOn() {
  try {
    wakeLock = await navigator.wakeLock?.request("screen");
  } catch {
    // refused, for example because the battery is low
  }
}

// Files, one after the other.

let lastFile = Promise.resolve();

function readFiles(files) {
  showAlert("");
  for (const file of files) lastFile = lastFile.then(() => readFile(file));
}

async function readFile(file) {
  showState("reading", `Opening ${file.name}`);
  let pcm;
  try {
    pcm = await decodeFile(file);
  } catch {
    updateState();
    const remedy = "convert it, or use streamasr transcribe";
    showAlert(`${file.name} is not audio that this browser can decode; ${remedy}.`);
    return;
  }
  const url = URL.createObjectURL(file); // for as long as the page is open
  const player = { onSeek: (seconds) => play(url, sheet, seconds) };
  const sheet = new Sheet(file.name, { player, onStop: () => reading.leave() });
  // Without partials, which would only take time; the text equals that of `streamasr transcribe`.
  const reading = new Session(sheet, { ...settings(), partials: false }, { isFile: true });
  sheet.progress(0);
  reading.onMessage = ({ end }) => {
    if (end && running.has(reading)) sheet.progress((end * CLOCK) / pcm.length);
  };
  reading.stream.send(pcm);
  reading.stream.stop();
  await reading.over;
  const missing = pcm.length / CLOCK - sheet.transcript.duration;
  if (sheet.transcript.isOver && missing > 1)
    showAlert(`The daemon ended early; the last ${Math.round(missing)} s of the file have no text.`);
}

// Playback of files.

const player = $("player");
let playing = null; // the sheet

function play(url, sheet, seconds) {
  if (player.src !== url) player.src = url;
  playing = sheet;
  player.hidden = false;
  player.currentTime = seconds;
  player.play().catch((error) => {
    if (error.name !== "AbortError") showAlert("This browser cannot play the file.");
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

// The latest text stays in view, unless the user has scrolled back.

let isAtEnd = true;
let scrolledTo = 0;
let frame = 0; // requested, to scroll the page

const pageEnd = () => document.documentElement.scrollHeight - innerHeight;

function keepPosition(change) {
  change();
  if (isAtEnd) frame ||= requestAnimationFrame(stay); // one for all changes before it
  else $("follow").hidden = running.size === 0;
}

function stay() {
  frame = 0;
  if (isAtEnd) toEnd(); // unless the user has scrolled back since
}

function toEnd() {
  scrollTo({ top: pageEnd(), behavior: "instant" });
}

addEventListener(
  "scroll",
  () => {
    const isNear = scrollY >= pageEnd() - 48;
    if (isNear || scrollY < scrolledTo) isAtEnd = isNear; // new text also increases the distance
    scrolledTo = scrollY;
    if (isAtEnd) $("follow").hidden = true;
  },
  { passive: true },
);
$("follow").onclick = toEnd;

// Light and dark.

const THEMES = { "": "System", light: "Light", dark: "Dark" };

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

// Buttons and options.

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
    showAlert(whyNoMicrophone(error));
  }
};

for (const id of ["language", "context"])
  $(id).onchange = () => {
    if (id === "language") memory.write("localStorage", id, $(id).value);
    for (const { stream } of running) stream.configure(settings());
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
  if (running.size) event.preventDefault(); // the browser asks for confirmation
});

for (const name of LANGUAGES.split(" ")) $("language").append(new Option(name, name));
$("language").value = memory.read("localStorage", "language");
setTheme(memory.read("localStorage", "theme"));
showTimes($("sheets"), $("when"));
const search = new Search($("search"), $("query"), $("hits"), $("sheets"));
navigator.mediaDevices?.addEventListener("devicechange", listMicrophones);
listMicrophones();
