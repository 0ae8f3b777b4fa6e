// Client of the streamasr protocol, version 1, for a browser. It reconnects after a loss, delivers
// every durable message exactly once and in order, and sends every sample to the daemon.
//
// A session delivers the messages of the daemon unchanged, and additionally
//   {type: "reconnecting", reason, code}   the connection is lost; another attempt follows
//   {type: "resumed", next_sample, ...}    the connection is back, and nothing is missing
//   {type: "failed", code, message}        the session is over without an `end`

import { CLOCK } from "./pcm.js";

const SUBPROTOCOL = "streamasr.v1";

/** Refusals that may be temporary. */
const TRANSIENT = new Set(["internal", "overloaded", "session_busy", "too_slow"]);
/** Close codes that mean another attempt would be refused as well. */
const LASTING = new Set([1002, 1003, 1007, 1008, 1009, 1010]);

/** Close code that gives the session up: the daemon may evict it. */
const CLOSE_FINAL = 1000;
/** Close code that keeps the session for a later connection. */
const CLOSE_RESUMABLE = 4000;

const SHORTEST_PAUSE = 250; // ms; doubles with each attempt
const LONGEST_PAUSE = 5_000;
const PING_EVERY = 15_000;
/** Silence after which a connection counts as lost, independent of the browser (ms). */
const SILENCE = 90_000;

/** Maximum number of bytes in the browser's send buffer: two minutes of audio, because timers of a
    page in the background fire once a minute. */
const MAX_BUFFERED = 1 << 22;
const FRAME = CLOCK / 2; // samples in one message, 0.5 s
const PUMP_EVERY = 100; // ms, while audio is waiting to be sent

/** Session of a client, over any number of consecutive WebSockets. */
export class ResumableSession {
  #path;
  #token;
  #onMessage;
  #socket = null;
  #last; // number of the last durable message; null: the next one is the first
  #tries = 0;
  #retry = 0; // timers
  #watch = 0;
  #receivedAt = 0;
  #refusal = null;
  ready = null; // last `ready` message
  isConnected = false;
  isOver = false;

  constructor(path, { token = "", since = null, onMessage }) {
    this.#path = path;
    this.#token = token;
    this.#last = since;
    this.#onMessage = onMessage;
  }

  open() {
    addEventListener("online", this.#retryNow);
    this.#connect();
    return this;
  }

  /** Give the session up. The daemon keeps it for a while, unless it has ended. */
  close() {
    this.isOver = true;
    removeEventListener("online", this.#retryNow);
    this.#drop(CLOSE_FINAL);
  }

  /** Try again with a token, after the daemon refused the connection for lack of one. */
  retry(token) {
    this.#token = token;
    this.isOver = false;
    this.open();
  }

  // Overridden by subclasses.

  path() {
    return this.#path;
  }

  onOpen() {}

  onReady() {}

  pump() {}

  get last() {
    return this.#last;
  }

  transmit(message) {
    this.#socket.send(message instanceof Int16Array ? message : JSON.stringify(message));
  }

  get buffered() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  // WebSockets.

  #connect() {
    const url = new URL(this.path(), location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const protocols = this.#token ? [SUBPROTOCOL, "bearer", this.#token] : [SUBPROTOCOL];
    let socket;
    try {
      socket = new WebSocket(url, protocols);
    } catch (error) {
      if (error.name !== "SyntaxError") throw error;
      this.#fail("http_401", "A browser cannot send this token; use only letters, digits, - and _.");
      return;
    }
    let wasOpen = false;
    this.#socket = socket;
    this.#refusal = null;
    socket.onopen = () => {
      wasOpen = true;
      this.#receivedAt = Date.now();
      this.#watch = setInterval(() => this.#check(), PING_EVERY);
      this.onOpen();
    };
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ code, reason }) => this.#lose(wasOpen, code, reason);
  }

  #drop(code) {
    clearTimeout(this.#retry);
    clearInterval(this.#watch);
    this.isConnected = false;
    if (!this.#socket) return;
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close(code);
    this.#socket = null;
  }

  #retryNow = () => {
    if (!this.#socket) this.#reconnect();
  };

  #reconnect() {
    clearTimeout(this.#retry);
    this.#connect();
  }

  #check() {
    if (Date.now() - this.#receivedAt > SILENCE) this.#lose(true, 1006, "");
    else if (this.isConnected) this.transmit({ type: "ping", id: null });
  }

  async #lose(wasOpen, code, reason) {
    const refusal = this.#refusal;
    this.#drop(CLOSE_RESUMABLE);
    if (refusal && !TRANSIENT.has(refusal.code)) return this.#fail(refusal.code, refusal.message);
    if (!refusal && LASTING.has(code))
      return this.#fail("policy", `The daemon closed the connection: ${reason || code}.`);
    const status = wasOpen ? 0 : await this.#status();
    if (this.isOver) return;
    if (status in REFUSED) return this.#fail(`http_${status}`, REFUSED[status]);
    const why =
      refusal?.message ?? (wasOpen ? "The connection was lost." : "The daemon does not answer.");
    const pause = Math.min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** Math.min(this.#tries++, 10));
    this.#retry = setTimeout(() => this.#reconnect(), pause * (0.5 + Math.random() / 2));
    this.#onMessage({ type: "reconnecting", code: refusal?.code ?? "", reason: why });
  }

  /** HTTP status of a refused WebSocket, which the browser does not report; 0: no answer. */
  async #status() {
    const headers = this.#token ? { Authorization: `Bearer ${this.#token}` } : {};
    try {
      return (await fetch(this.path(), { headers, cache: "no-store" })).status;
    } catch {
      return 0;
    }
  }

  #fail(code, message) {
    this.close();
    this.#onMessage({ type: "failed", code, message });
  }

  // Messages.

  #receive(message) {
    this.#receivedAt = Date.now();
    switch (message.type) {
      case "error":
        this.#refusal = message; // the connection closes next
        return;
      case "ready":
        return this.#accept(message);
      case "pong":
        break;
      default:
        if (!("seq" in message) || this.#isNew(message)) this.#deliver(message);
    }
    this.pump();
  }

  #deliver(message) {
    if (message.type === "end") this.close();
    this.#onMessage(message);
  }

  #isNew({ seq }) {
    if (this.#last !== null && seq <= this.#last) return false;
    if (this.#last !== null && seq > this.#last + 1) {
      const missing = this.#last + 1;
      this.#fail("protocol", `Message ${missing} of the daemon is missing; start a new session.`);
      return false;
    }
    this.#last = seq;
    return true;
  }

  #accept(ready) {
    if (this.#last !== null && ready.seq < this.#last)
      return this.#fail("protocol", "The daemon has restarted the session; start a new one.");
    this.#last ??= ready.seq;
    const isFirst = this.ready === null;
    this.ready = ready;
    this.#tries = 0;
    const problem = this.onReady(ready);
    if (problem) return this.#fail("protocol", problem);
    this.isConnected = true;
    this.#onMessage(isFirst ? ready : { ...ready, type: "resumed" });
    this.pump();
  }
}

const REFUSED = {
  401: "The daemon requires a valid token.",
  403: "The daemon refuses this page; add its address to allow_origin in the configuration.",
  404: "The daemon does not support the protocol of this page; reload the page.",
};

/** Receives the messages of a session with audio of another source. */
export class Subscription extends ResumableSession {
  #session;

  constructor(session, options) {
    super("/v1/events", options);
    this.#session = session;
  }

  path() {
    const query = new URLSearchParams({ session: this.#session });
    if (this.last !== null) query.set("since", this.last);
    return `${super.path()}?${query}`;
  }
}

/** Sends audio as a session of its own. */
export class AudioSession extends ResumableSession {
  #settings; // fields of `start`
  #audio = new ResendBuffer();
  #hasNewSettings = false;
  #isStopping = false;
  #hasSentStop = false;
  #timer = 0;

  /** @param {object} settings fields of `start`: language, context, sample_rate, partials, words */
  constructor(settings, options) {
    super("/v1/stream", { ...options, since: 0 });
    this.#settings = settings;
  }

  /** Seconds of audio that have not been sent yet. */
  get waiting() {
    const samples = this.#audio.waiting + this.buffered / Int16Array.BYTES_PER_ELEMENT;
    return samples / this.#rate;
  }

  get #rate() {
    return this.#settings.sample_rate ?? CLOCK;
  }

  /** Send audio now, or as soon as a connection is open. */
  send(pcm) {
    this.#audio.put(pcm);
    this.pump();
  }

  /** Change settings from the next segment on. */
  configure(settings) {
    Object.assign(this.#settings, settings);
    this.#hasNewSettings = true;
    this.pump();
  }

  /** End the audio; the daemon sends the pending messages, then `end`. */
  stop() {
    this.#isStopping = true;
    this.pump();
  }

  close() {
    clearTimeout(this.#timer);
    super.close();
  }

  onOpen() {
    const resumed = this.ready && { session: this.ready.session, since: this.last };
    this.transmit({ type: "start", ...this.#settings, ...resumed });
  }

  onReady(ready) {
    this.#hasSentStop = false;
    const position = Math.round((ready.next_sample * this.#rate) / ready.sample_rate);
    return this.#audio.rewind(position, this.#rate / 1000);
  }

  /** Send as much waiting audio as the connection accepts now. */
  pump() {
    clearTimeout(this.#timer);
    if (!this.isConnected) return;
    if (this.#hasNewSettings && !this.#hasSentStop) {
      const { language = null, context = "" } = this.#settings;
      this.transmit({ type: "configure", language, context });
      this.#hasNewSettings = false;
    }
    while (this.#audio.waiting && this.buffered < MAX_BUFFERED) this.transmit(this.#audio.take(FRAME));
    if (this.#audio.waiting) {
      this.#timer = setTimeout(() => this.pump(), PUMP_EVERY);
    } else if (this.#isStopping && !this.#hasSentStop) {
      this.transmit({ type: "stop" });
      this.#hasSentStop = true;
    }
  }
}

/** Buffer of audio: waiting audio, and recently sent audio for a resend. Positions are samples. */
export class ResendBuffer {
  static KEEP = 300 * CLOCK;
  #blocks = []; // {start, pcm}
  #index = 0; // of the block that contains `#at`
  #at = 0; // position of the next sample to send
  #end = 0;

  get waiting() {
    return this.#end - this.#at;
  }

  put(pcm) {
    if (!pcm.length) return;
    this.#blocks.push({ start: this.#end, pcm });
    this.#end += pcm.length;
  }

  /** Take the next samples of one block, at most n. */
  take(n) {
    const { start, pcm } = this.#blocks[this.#index];
    const taken = pcm.subarray(this.#at - start, this.#at - start + n);
    this.#at += taken.length;
    if (this.#at === start + pcm.length) this.#index++;
    this.#forget();
    return taken;
  }

  #forget() {
    const old = this.#at - ResendBuffer.KEEP;
    let n = 0;
    while (n < this.#index && this.#blocks[n].start + this.#blocks[n].pcm.length <= old) n++;
    if (n) this.#blocks.splice(0, n);
    this.#index -= n;
  }

  /**
   * Go back to a position, so that the audio after it is sent again.
   * @param {number} tolerance samples by which the position may exceed the end, due to resampling
   * @returns {string|undefined} the reason if that is impossible
   */
  rewind(position, tolerance = 0) {
    if (position > this.#end + tolerance)
      return "The daemon reports audio that was never sent; start a new session.";
    position = Math.min(position, this.#end);
    const first = this.#blocks[0]?.start ?? this.#end;
    if (position < first)
      return "The daemon lost more audio than the page keeps; start a new session.";
    this.#at = position;
    const index = this.#blocks.findIndex(({ start, pcm }) => position < start + pcm.length);
    this.#index = index < 0 ? this.#blocks.length : index;
  }
}
