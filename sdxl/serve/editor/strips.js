// The history and the staged results, as rows of thumbnails. One result is chosen, or none.

import { byId, make } from "./dom.js";

/** @import { Session } from "./session.js" */

/** Fires "choose" when another result is chosen, "go" with the number of an entry of the history. */
export class Strips extends EventTarget {
  /** @type {string | null} */
  chosen = null;
  #history = byId("history", HTMLOListElement);
  #results = byId("results", HTMLOListElement);

  /** @param {Session} session */
  constructor(session) {
    super();
    this.session = session;
    session.addEventListener("change", () => this.#show());
  }

  /**
   * Chooses a staged result, or none.
   * @param {string | null} result
   */
  choose(result) {
    this.chosen = result;
    this.#show();
    this.dispatchEvent(new Event("choose"));
  }

  /**
   * Chooses the next or the previous result.
   * @param {number} by
   */
  step(by) {
    const staged = this.session.facts?.staged ?? [];
    if (!staged.length) return;
    const at = staged.findIndex((one) => one.id === this.chosen);
    this.choose(staged[(at + by + staged.length) % staged.length].id);
  }

  #show() {
    const facts = this.session.facts;
    if (!facts) return;
    if (this.chosen && !facts.staged.some((one) => one.id === this.chosen)) {
      this.chosen = facts.staged.at(-1)?.id ?? null;
      this.dispatchEvent(new Event("choose"));
    }
    const dock = byId("dock", HTMLElement);
    dock.hidden = false;
    dock.classList.toggle("empty", facts.entries.length === 1 && !facts.staged.length);
    fill(
      this.#history,
      facts.entries.map((name, at) => {
        const label = at ? String(at) : "Start";
        const button = thumb(this.session.address(name), label, `Go to picture ${label}`, at === facts.at);
        button.classList.toggle("later", at > facts.at);
        button.addEventListener("click", () => this.dispatchEvent(new CustomEvent("go", { detail: at })));
        return button;
      }),
    );
    fill(
      this.#results,
      facts.staged.map((one, at) => {
        const button = thumb(
          this.session.address(one.picture),
          String(at + 1),
          `Result ${at + 1}, seed ${one.seed}`,
          one.id === this.chosen,
        );
        button.addEventListener("click", () => this.choose(one.id === this.chosen ? null : one.id));
        return button;
      }),
    );
  }
}

/**
 * @param {HTMLOListElement} list
 * @param {HTMLElement[]} items
 */
function fill(list, items) {
  const focused = [...list.children].findIndex((item) => item.contains(document.activeElement));
  list.replaceChildren(...items.map((item) => make("li", {}, item)));
  items[focused]?.focus();
  list.querySelector("[aria-current=true]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

/**
 * @param {string} address
 * @param {string} label
 * @param {string} title
 * @param {boolean} isCurrent
 */
function thumb(address, label, title, isCurrent) {
  const button = make("button", { type: "button", className: "thumb", title, ariaCurrent: String(isCurrent) });
  button.append(make("img", { src: address, alt: title, loading: "lazy" }), make("span", {}, label));
  return button;
}
