// What becomes of results: shown, compared, accepted, discarded, tried again; and the way through the history.

import { byId, onPress } from "./dom.js";
import { clear } from "./mask.js";
import { drawLevel, levelsOf, showCost } from "./cost.js";
import { complain } from "./toasts.js";

/** @import { Session } from "./session.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Painter } from "./painter.js" */
/** @import { Stage } from "./stage.js" */
/** @import { Strips } from "./strips.js" */
/** @import { Runner } from "./runner.js" */

/**
 * @typedef {{session: Session, settings: Settings, painter: Painter, stage: Stage, strips: Strips, runner: Runner,
 *   placeHandle: () => void, keepMask: (session: string) => void}} Parts
 */

/** Puts the chosen result, or the session's picture, on the stage. */
export class Results {
  #compares = false;
  #level = -1; // none
  #session = ""; // whose picture is shown
  #turn = 0; // of the pictures that load, only the last one is shown

  /** @param {Parts} parts */
  constructor(parts) {
    this.parts = parts;
    const { session, painter, strips, runner } = parts;
    session.addEventListener("change", () => this.#show());
    strips.addEventListener("choose", () => this.#choose());
    strips.addEventListener("go", (event) => this.goTo(/** @type {CustomEvent} */ (event).detail));
    runner.addEventListener("result", (event) => strips.choose(/** @type {CustomEvent} */ (event).detail.id));
    runner.addEventListener("preview", (event) => this.#preview(/** @type {CustomEvent} */ (event).detail));
    runner.addEventListener("end", () => this.#preview(null));
    painter.addEventListener("begin", () => this.#paintOn());
    painter.addEventListener("change", () => this.#showLayer(true));
    const acts = {
      accept: this.accept,
      discard: this.discard,
      retry: this.retry,
      compare: this.compare,
      recomputed: this.nextLevel,
    };
    for (const [id, act] of Object.entries(acts)) onPress(id, act.bind(this));
    onPress("picture-undo", () => this.walk(-1));
    onPress("picture-redo", () => this.walk(1));
  }

  /** Makes the chosen result the picture to edit on. The mask stays; colours are in the picture now. */
  accept() {
    return this.#change(async (chosen) => {
      const { session, painter, runner } = this.parts;
      await runner.cancel(); // of the same picture: its results would come too late
      await session.commit(chosen);
      if (painter.layer === painter.paint) clear(painter.paint);
      this.#showLayer(painter.layer === painter.paint);
    });
  }

  /** Forgets the chosen result. */
  discard() {
    return this.#change((chosen) => this.parts.session.discard(chosen));
  }

  /** Makes another result in place of the chosen one. */
  retry() {
    return this.#change((chosen) => this.parts.runner.run({ isRetry: true, replaces: chosen }));
  }

  /** Begins or ends the comparison of before and after. */
  compare() {
    this.#compares = !this.#compares;
    this.#show();
  }

  /** Shows the levels that were recomputed, one after the other, then none. */
  nextLevel() {
    const levels = levelsOf(this.#result).length;
    if (levels) this.#chooseLevel(this.#level + 1 < levels ? this.#level + 1 : -1);
  }

  /**
   * Goes back or forward in the history.
   * @param {number} by
   */
  walk(by) {
    return this.goTo((this.parts.session.facts?.at ?? 0) + by);
  }

  /**
   * Goes to an entry of the history. The mask stays.
   * @param {number} at
   */
  async goTo(at) {
    try {
      await this.parts.runner.cancel();
      await this.parts.session.goTo(at);
    } catch (error) {
      complain(error);
    }
  }

  get #result() {
    return this.parts.runner.results.get(this.parts.strips.chosen ?? "");
  }

  /** @param {(chosen: string) => Promise<unknown>} act */
  async #change(act) {
    const { chosen } = this.parts.strips;
    if (!chosen) return;
    try {
      await act(chosen);
    } catch (error) {
      complain(error);
    }
  }

  /** A stroke on a result means the picture under it, except in live mode, where the next result replaces it. */
  #paintOn() {
    const { strips, settings } = this.parts;
    if (strips.chosen && !settings.values.live) strips.choose(null);
    this.#showLayer(true);
  }

  /** @param {ImageBitmap | null} preview */
  #preview(preview) {
    this.parts.stage.preview?.close();
    this.parts.stage.preview = preview;
    this.parts.stage.draw();
  }

  /** @param {boolean} isShown */
  #showLayer(isShown) {
    this.parts.stage.showsLayer = isShown;
    this.parts.stage.draw();
  }

  #choose() {
    this.#showLayer(!this.parts.strips.chosen);
    void this.#show();
  }

  /** @param {number} level */
  #chooseLevel(level) {
    this.#level = level;
    void this.#show();
  }

  async #show() {
    const { session, stage, strips, placeHandle } = this.parts;
    const facts = session.facts;
    if (!facts) return;
    const turn = ++this.#turn;
    const chosen = facts.staged.find((one) => one.id === strips.chosen);
    this.#showButtons();
    try {
      const [picture, current] = await Promise.all([
        session.picture(chosen?.picture ?? facts.current),
        session.picture(facts.current),
      ]);
      if (turn !== this.#turn) return;
      const isOther = stage.picture?.width !== picture.width || stage.picture.height !== picture.height;
      stage.picture = picture;
      stage.before = chosen && this.#compares ? current : null;
      if (isOther || this.#session !== facts.id) this.#begin(facts.id, picture);
    } catch (error) {
      complain(error);
    }
    const level = levelsOf(this.#result)[this.#level];
    stage.level = level ? drawLevel(level) : null;
    placeHandle();
    stage.draw();
  }

  /**
   * @param {string} session
   * @param {ImageBitmap} picture
   */
  #begin(session, picture) {
    this.#session = session;
    void this.parts.runner.cancel(); // of the picture before
    this.parts.painter.reset(picture.width, picture.height);
    this.parts.keepMask(session);
    this.parts.stage.fit();
    byId("welcome", HTMLDivElement).hidden = true;
  }

  #showButtons() {
    const { session, strips } = this.parts;
    const facts = session.facts;
    for (const id of ["accept", "discard", "retry", "compare"]) byId(id, HTMLButtonElement).disabled = !strips.chosen;
    byId("recomputed", HTMLButtonElement).disabled = !levelsOf(this.#result).length;
    byId("recomputed", HTMLButtonElement).ariaPressed = String(this.#level >= 0);
    byId("compare", HTMLButtonElement).ariaPressed = String(this.#compares);
    byId("picture-undo", HTMLButtonElement).disabled = !facts?.undo;
    byId("picture-redo", HTMLButtonElement).disabled = !facts?.redo;
    byId("download", HTMLButtonElement).disabled = !facts;
    showCost(this.#result, this.#level, (level) => this.#chooseLevel(level));
  }
}
