// The form at the side: what to paint, and the edit that runs.

import { byId, onPress } from "./dom.js";
import { anySeed } from "./runner.js";
import { complain } from "./toasts.js";

/** @import { Defaults } from "./api.js" */
/** @import { How, Runner } from "./runner.js" */
/** @import { Session } from "./session.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Painter } from "./painter.js" */
/** @import { Results } from "./results.js" */
/** @typedef {{session: Session, settings: Settings, painter: Painter, runner: Runner, results: Results}} Parts */

const HINTS = { mask: "Paint over what should change", paint: "Paint roughly what should be there" };

/**
 * Wires the form.
 * @param {Parts} parts
 */
export function addPanel(parts) {
  return new Panel(parts);
}

class Panel {
  /** @type {Defaults | null} */
  #defaults = null;

  /** @param {Parts} parts */
  constructor(parts) {
    this.parts = parts;
    const { session, settings, painter, runner } = parts;
    for (const one of [session, settings, painter]) one.addEventListener("change", () => this.#show());
    painter.addEventListener("draw", () => this.#showHint());
    for (const kind of ["progress", "end"]) runner.addEventListener(kind, () => this.#show());
    runner.addEventListener("error", (event) => this.#complain(/** @type {CustomEvent} */ (event).detail));
    byId("panel", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.generate();
    });
    onPress("cancel", () => this.cancel());
    onPress("dice", () => settings.set("seed", anySeed()));
    onPress("lock", () => settings.set("locked", !settings.values.locked));
  }

  /**
   * Shows what holds where a field is empty.
   * @param {Defaults} defaults
   */
  showDefaults(defaults) {
    this.#defaults = defaults;
    byId("model", HTMLSpanElement).textContent = defaults.model;
    byId("variants", HTMLInputElement).max = String(defaults.most_pictures);
    this.#show();
  }

  /**
   * Begins an edit, where there is something to edit.
   * @param {How} [how]
   */
  generate(how = {}) {
    const { session, painter, runner } = this.parts;
    if (!session.facts || (runner.progress && !how.isLive)) return;
    if (painter.layer.isEmpty || !byId("panel", HTMLFormElement).reportValidity()) return;
    void runner.run(how);
  }

  /** Ends the edit that runs. */
  async cancel() {
    try {
      await this.parts.runner.cancel();
    } catch (error) {
      complain(error);
    }
  }

  /** @param {Error & {code?: string}} error */
  #complain(error) {
    const { session, runner } = this.parts;
    if (error.code === "session_not_found")
      return complain(error, { label: "Open a picture", act: () => byId("open", HTMLButtonElement).click() });
    if (error.code === "invalid_value" || !session.facts) return complain(error);
    complain(error, { label: "Try again", act: () => !runner.progress && this.generate() });
  }

  #show() {
    const { session, settings, painter, runner } = this.parts;
    const { mode, locked, feather, match } = settings.values;
    const isPaint = mode === "paint";
    const isEmpty = painter.layer.isEmpty;
    byId("mask-box", HTMLFieldSetElement).hidden = isPaint;
    byId("lock", HTMLButtonElement).ariaPressed = String(locked);
    byId("feather-text", HTMLOutputElement).value = `${feather} px`;
    byId("match-text", HTMLOutputElement).value = `${match} px`;
    byId("generate", HTMLButtonElement).disabled = !session.facts || isEmpty || Boolean(runner.progress);
    for (const id of ["clear", "grow", "mask-export"]) byId(id, HTMLButtonElement).disabled = isEmpty || !session.facts;
    for (const id of ["invert", "mask-import", "mask-difference"])
      byId(id, HTMLButtonElement).disabled = !session.facts;
    this.#showHint();
    this.#showProgress();
    if (!this.#defaults) return;
    const { steps, guidance_scale, strength } = this.#defaults;
    const shown = { steps, guidance: guidance_scale, strength: isPaint ? strength.painted : strength.mask };
    for (const [id, value] of Object.entries(shown)) byId(id, HTMLInputElement).placeholder = String(value);
  }

  #showHint() {
    const { session, settings, painter } = this.parts;
    const hint = byId("hint", HTMLParagraphElement);
    hint.hidden = !session.facts || painter.isPainting || !painter.layer.isEmpty || settings.values.tool === "hand";
    hint.textContent = settings.values.mode === "paint" ? HINTS.paint : HINTS.mask;
  }

  #showProgress() {
    const { progress } = this.parts.runner;
    byId("progress", HTMLDivElement).hidden = !progress;
    if (!progress) return;
    byId("progress-text", HTMLSpanElement).textContent = progress.text;
    byId("progress-bar", HTMLProgressElement).value = progress.done;
  }
}
