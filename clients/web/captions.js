// Captions of a session with audio of another source; by default the daemon's microphone.

import { Subscription } from "./protocol.js";
import { join } from "./transcript.js";

const SHOWN_MS = 6_000; // after the last change
const KEPT = 400; // characters of finals

const options = new URLSearchParams(location.hash.slice(1)); // the fragment stays in the browser
const caption = document.getElementById("caption");
for (const name of ["size", "lines"])
  if (Number(options.get(name)) > 0)
    document.documentElement.style.setProperty(
      `--${name}`,
      name === "size" ? `${options.get(name)}px` : options.get(name),
    );

const partials = new Map(); // of open segments, by number
let finals = "";
let fading = 0;

function show(message) {
  switch (message.type) {
    case "partial":
      partials.set(message.segment, message);
      break;
    case "final":
      partials.delete(message.segment);
      finals = join([finals, message.text]).slice(-KEPT);
      break;
    case "gap":
    case "reconnecting":
    case "resumed":
      partials.clear();
      break;
    case "failed":
    case "end":
      partials.clear();
      finals = "";
      setTimeout(listen, SHOWN_MS); // the session may be created later
      break;
    default:
      return;
  }
  draw();
}

function draw() {
  const band = document.createElement("span");
  let shown = finals;
  band.append(piece("", finals));
  for (const { text, stable } of partials.values()) {
    const solid = [...text].slice(0, stable).join("");
    const unstable = text.slice(solid.length);
    const all = join([shown, text]);
    const end = all.length - unstable.length;
    band.append(piece("", all.slice(shown.length, end)), piece("unstable", all.slice(end)));
    shown = all;
  }
  const lines = document.createElement("div");
  lines.append(band);
  caption.replaceChildren(lines);
  caption.classList.remove("old");
  clearTimeout(fading);
  fading = setTimeout(forget, SHOWN_MS);
}

/** Hide old text, and do not show it again together with new text. */
function forget() {
  caption.classList.add("old");
  finals = "";
}

function piece(className, text) {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = text;
  return element;
}

function listen() {
  const session = options.get("session") ?? "microphone";
  new Subscription(session, { token: options.get("token") ?? "", onMessage: show }).open();
}

listen();
