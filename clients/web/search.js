// Finds text in the sheets, marks the matches, and moves from one match to the next.

const marks = globalThis.Highlight && new Highlight(); // all matches
const mark = globalThis.Highlight && new Highlight(); // the current match
if (marks) CSS.highlights.set("found", marks).set("here", mark);

export class Search {
  #container;
  #output;
  #pattern = null;
  #places = []; // ranges
  #at = -1;

  constructor(form, input, output, container) {
    this.#container = container;
    this.#output = output;
    input.oninput = () => this.#look(input.value.trim());
    form.onsubmit = (event) => event.preventDefault();
    input.onkeydown = (event) => {
      if (event.key === "Enter") this.#go(event.shiftKey ? -1 : 1);
      else if (event.key === "Escape") this.#look((input.value = ""));
    };
  }

  /** Search again after new text. */
  refresh() {
    if (!this.#pattern) return;
    this.#places = [...this.#container.querySelectorAll("li:not(.live) > p")].flatMap((p) =>
      findIn(p, this.#pattern),
    );
    this.#at = Math.min(this.#at, this.#places.length - 1);
    this.#show();
  }

  #look(text) {
    const literal = text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&").replace(/\s+/gu, "\\s+");
    this.#pattern = text ? new RegExp(literal, "giu") : null;
    this.#places = [];
    this.#at = -1;
    if (text) {
      this.refresh();
      this.#go(1);
    } else this.#show();
  }

  #go(by) {
    const n = this.#places.length;
    if (n) this.#at = (this.#at + by + n) % n;
    this.#show();
    this.#places[this.#at]?.startContainer.parentElement.scrollIntoView({ block: "center" });
  }

  #show() {
    marks?.clear();
    mark?.clear();
    for (const range of this.#places) marks?.add(range);
    if (this.#at >= 0) mark?.add(this.#places[this.#at]);
    const n = this.#places.length;
    this.#output.textContent = !this.#pattern ? "" : n ? `${this.#at + 1} of ${n}` : "no matches";
  }
}

/** Find a pattern in the text of an element, also across its child elements. */
function findIn(element, pattern) {
  const nodes = [];
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  let length = 0;
  while (walker.nextNode()) {
    nodes.push([length, walker.currentNode]);
    length += walker.currentNode.length;
  }
  const locate = (offset) => {
    const [start, node] = nodes.findLast(([start]) => start < offset || start === 0);
    return [node, offset - start];
  };
  return [...element.textContent.matchAll(pattern)].map(({ 0: { length }, index }) => {
    const range = new Range();
    range.setStart(...after(locate(index + 1)));
    range.setEnd(...locate(index + length));
    return range;
  });
}

const after = ([node, offset]) => [node, offset - 1];
