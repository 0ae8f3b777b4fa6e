// The protocol of streamasr, version 1, for a browser: lost connections are mended, every durable
// message is told exactly once and in order, and the daemon gets every sample.
//
// A conversation tells what the daemon says, as it came, and besides
//   {type: "reconnecting", reason, code}   there is no connection; another try follows
//   {type: "resumed", next_sample, ...}    it is back, and nothing is missing
//   {type: "failed", code, message}        it is over, and not by `end`

import { CLOCK } from "./pcm.js";

const SUBPROTOCOL = "streamasr.v1";

/** Refusals that may be over soon. */
const TRANSIENT = new Set(["internal", "overloaded", "session_busy", "too_slow"]);
/** Close codes of a daemon that will not take the same again. */
const LASTING = new Set([1002, 1003, 1007, 1008, 1009, 1010]);

/** Closed with this, the daemon need not wait for us. */
const GOODBYE = 1000;
/** Closed with this, it waits for us. */
const COMING_BACK = 4000;

const SHORTEST_PAUSE = 250; // ms; it doubles from try to try
const LONGEST_PAUSE = 5_000;
const PING_EVERY = 15_000;
/** A connection that is silent for so long is lost, whatever the browser thinks of it (ms). */
const SILENCE = 90_000;

/** With more than so many bytes on their way, nothing is added to them; two minutes, since the
    timers of a page in the background come once a minute. */
const MAX_BUFFERED = 1 << 22;
const FRAME = CLOCK / 2; // samples in one message, 0.5 s
const PUMP_EVERY = 100; // ms, while something waits to be sent

/** A session as its client sees it, over as many connections as it takes. */
export class Conversation {
  #path;
  #token;
  #tell;
  #socket = null;
  #last; // durable message; null: whichever comes is the first
  #tries = 0;
  #retry = 0; // timers
  #watch = 0;
  #heardAt = 0;
  #refusal = null;
  ready = null; // what the daemon said last about the session
  isConnected = false;
  isOver = false;

  constructor(path, { token = "", since = null, tell }) {
    this.#path = path;
    this.#token = token;
    this.#last = since;
    this.#tell = tell;
  }

  open() {
    addEventListener("online", this.#hurry);
    this.#connect();
    return this;
  }

  /** Leave. The session waits for a while, unless it has ended. */
  close() {
    this.isOver = true;
    removeEventListener("online", this.#hurry);
    this.#drop(GOODBYE);
  }

  /** Go on after the daemon wanted a token. */
  retry(token) {
    this.#token = token;
    this.isOver = false;
    this.open();
  }

  // What subclasses say.

  path() {
    return this.#path;
  }

  greet() {}

  receive() {}

  pump() {}

  get last() {
    return this.#last;
  }

  say(message) {
    this.#socket.send(message instanceof Int16Array ? message : JSON.stringify(message));
  }

  get buffered() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  // Connections.

  #connect() {
    const url = new URL(this.path(), location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const protocols = this.#token ? [SUBPROTOCOL, "bearer", this.#token] : [SUBPROTOCOL];
    let socket;
    try {
      socket = new WebSocket(url, protocols);
    } catch (error) {
      if (error.name !== "SyntaxError") throw error;
      this.#fail("http_401", "A browser cannot send this token; letters, digits, - and _ it can.");
      return;
    }
    let wasOpen = false;
    this.#socket = socket;
    this.#refusal = null;
    socket.onopen = () => {
      wasOpen = true;
      this.#heardAt = Date.now();
      this.#watch = setInterval(() => this.#check(), PING_EVERY);
      this.greet();
    };
    socket.onmessage = ({ data }) => this.#hear(JSON.parse(data));
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

  #hurry = () => {
    if (!this.#socket) this.#again();
  };

  #again() {
    clearTimeout(this.#retry);
    this.#connect();
  }

  #check() {
    if (Date.now() - this.#heardAt > SILENCE) this.#lose(true, 1006, "");
    else if (this.isConnected) this.say({ type: "ping", id: null });
  }

  async #lose(wasOpen, code, reason) {
    const refusal = this.#refusal;
    this.#drop(COMING_BACK);
    if (refusal && !TRANSIENT.has(refusal.code)) return this.#fail(refusal.code, refusal.message);
    if (!refusal && LASTING.has(code))
      return this.#fail("policy", `The daemon closed the connection: ${reason || code}.`);
    const status = wasOpen ? 0 : await this.#status();
    if (this.isOver) return;
    if (status in REFUSED) return this.#fail(`http_${status}`, REFUSED[status]);
    const why = refusal?.message ?? (wasOpen ? "The connection is lost." : "There is no daemon.");
    const pause = Math.min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** Math.min(this.#tries++, 10));
    this.#retry = setTimeout(() => this.#again(), pause * (0.5 + Math.random() / 2));
    this.#tell({ type: "reconnecting", code: refusal?.code ?? "", reason: why });
  }

  /** The HTTP status that a WebSocket which does not open keeps to itself; 0: no answer. */
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
    this.#tell({ type: "failed", code, message });
  }

  // Messages.

  #hear(message) {
    this.#heardAt = Date.now();
    switch (message.type) {
      case "error":
        this.#refusal = message; // the connection closes next
        return;
      case "ready":
        return this.#beReady(message);
      case "pong":
        break;
      default:
        if (!("seq" in message) || this.#isNew(message)) this.#deliver(message);
    }
    this.pump();
  }

  #deliver(message) {
    if (message.type === "end") this.close();
    this.#tell(message);
  }

  #isNew({ seq }) {
    if (this.#last !== null && seq <= this.#last) return false;
    if (this.#last !== null && seq > this.#last + 1) {
      this.#fail("protocol", `The daemon left out message ${this.#last + 1}.`);
      return false;
    }
    this.#last = seq;
    return true;
  }

  #beReady(ready) {
    if (this.#last !== null && ready.seq < this.#last)
      return this.#fail("protocol", "The session has begun anew since it was left.");
    this.#last ??= ready.seq;
    const isFirst = this.ready === null;
    this.ready = ready;
    this.#tries = 0;
    const complaint = this.receive(ready);
    if (complaint) return this.#fail("protocol", complaint);
    this.isConnected = true;
    this.#tell(isFirst ? ready : { ...ready, type: "resumed" });
    this.pump();
  }
}

const REFUSED = {
  401: "The daemon wants a token that it knows.",
  403: "The daemon does not let this page in; see allow_origin in its configuration.",
  404: "This daemon does not know the protocol of this page.",
};

/** Reads what others say to a session. */
export class Subscription extends Conversation {
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

/** Sends audio to a session of its own. */
export class Stream extends Conversation {
  #wishes; // the fields of `start`
  #tape = new Tape();
  #hasNewWishes = false;
  #isStopping = false;
  #hasSaidStop = false;
  #timer = 0;

  /** @param {object} wishes of `start`: language, context, sample_rate, partials, words */
  constructor(wishes, options) {
    super("/v1/stream", { ...options, since: 0 });
    this.#wishes = wishes;
  }

  /** Seconds of audio that the daemon has not been given yet. */
  get waiting() {
    const samples = this.#tape.waiting + this.buffered / Int16Array.BYTES_PER_ELEMENT;
    return samples / this.#rate;
  }

  get #rate() {
    return this.#wishes.sample_rate ?? CLOCK;
  }

  /** Send audio, now or as soon as there is a connection. */
  send(pcm) {
    this.#tape.put(pcm);
    this.pump();
  }

  /** Wish something else from the next segment on. */
  configure(wishes) {
    Object.assign(this.#wishes, wishes);
    this.#hasNewWishes = true;
    this.pump();
  }

  /** No more audio comes; the daemon sends what it owes, then `end`. */
  stop() {
    this.#isStopping = true;
    this.pump();
  }

  close() {
    clearTimeout(this.#timer);
    super.close();
  }

  greet() {
    const resumed = this.ready && { session: this.ready.session, since: this.last };
    this.say({ type: "start", ...this.#wishes, ...resumed });
  }

  receive(ready) {
    this.#hasSaidStop = false;
    const position = Math.round((ready.next_sample * this.#rate) / ready.sample_rate);
    return this.#tape.rewind(position, this.#rate / 1000);
  }

  /** Send what waits, as much as the connection takes now. */
  pump() {
    clearTimeout(this.#timer);
    if (!this.isConnected) return;
    if (this.#hasNewWishes && !this.#hasSaidStop) {
      const { language = null, context = "" } = this.#wishes;
      this.say({ type: "configure", language, context });
      this.#hasNewWishes = false;
    }
    while (this.#tape.waiting && this.buffered < MAX_BUFFERED) this.say(this.#tape.take(FRAME));
    if (this.#tape.waiting) {
      this.#timer = setTimeout(() => this.pump(), PUMP_EVERY);
    } else if (this.#isStopping && !this.#hasSaidStop) {
      this.say({ type: "stop" });
      this.#hasSaidStop = true;
    }
  }
}

/** Audio: what was sent, the oldest forgotten, and what waits. Positions are samples. */
export class Tape {
  static KEEP = 300 * CLOCK;
  #blocks = []; // {start, pcm}
  #index = 0; // of the block that `#at` is in
  #at = 0; // what is sent next
  #end = 0;

  get waiting() {
    return this.#end - this.#at;
  }

  put(pcm) {
    if (!pcm.length) return;
    this.#blocks.push({ start: this.#end, pcm });
    this.#end += pcm.length;
  }

  /** The next samples, of one block; at most so many. */
  take(n) {
    const { start, pcm } = this.#blocks[this.#index];
    const taken = pcm.subarray(this.#at - start, this.#at - start + n);
    this.#at += taken.length;
    if (this.#at === start + pcm.length) this.#index++;
    this.#forget();
    return taken;
  }

  #forget() {
    const old = this.#at - Tape.KEEP;
    let n = 0;
    while (n < this.#index && this.#blocks[n].start + this.#blocks[n].pcm.length <= old) n++;
    if (n) this.#blocks.splice(0, n);
    this.#index -= n;
  }

  /**
   * Let everything wait again from a position on.
   * @param {number} tolerance how far behind the end it may be, where the daemon has resampled
   * @returns {string|undefined} why that is impossible
   */
  rewind(position, tolerance = 0) {
    if (position > this.#end + tolerance)
      return "The daemon claims to have audio that was never sent.";
    position = Math.min(position, this.#end);
    const first = this.#blocks[0]?.start ?? this.#end;
    if (position < first) return "The daemon lost more audio than was kept to be sent again.";
    this.#at = position;
    const index = this.#blocks.findIndex(({ start, pcm }) => position < start + pcm.length);
    this.#index = index < 0 ? this.#blocks.length : index;
  }
}
