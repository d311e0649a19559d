// Runs edits: what is painted and set becomes a request, and its events become progress and results.

import { maskFile } from "./mask.js";
import { drawing, pngOf } from "./dom.js";
import { ApiError, sentence } from "./api.js";

/** @import { Result } from "./api.js" */
/** @import { Session } from "./session.js" */
/** @import { Painter } from "./painter.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Event as Told } from "./stream.js" */

/** @typedef {{isLive?: boolean, isRetry?: boolean, replaces?: string | null}} How */
/** @typedef {{text: string, done: number}} Progress */

const SEEDS = 2 ** 32;

/**
 * Fires "progress", "preview", "result", "error" and "end". Only the newest edit is heard: an older one's results are
 * discarded.
 */
export class Runner extends EventTarget {
  /** @type {Progress | null} null: nothing runs */
  progress = null;
  /** @type {Map<string, Result>} */
  results = new Map();
  #newest = 0;
  /** @type {string | null} the last result of the live mode: the next one takes its place */
  #live = null;
  /** @type {Promise<void>} */
  #running = Promise.resolve();
  #sending = new AbortController(); // of a request that the server has not answered yet

  /**
   * @param {Session} session
   * @param {Painter} painter
   * @param {Settings} settings
   */
  constructor(session, painter, settings) {
    super();
    this.session = session;
    this.painter = painter;
    this.settings = settings;
  }

  /**
   * Makes an edit.
   * @param {How} [how]
   */
  run(how = {}) {
    const number = ++this.#newest;
    this.#say({ text: "Sending", done: 0 });
    this.#running = this.#run(number, how);
    return this.#running;
  }

  /** Ends the edit that runs, and waits until it has ended. */
  async cancel() {
    if (!this.progress) return;
    this.#newest++;
    this.#say(null);
    this.#sending.abort();
    await this.session.cancel();
    await this.#running; // its last step may still make a result, which goes
  }

  /**
   * @param {number} number
   * @param {How} how
   */
  async #run(number, how) {
    try {
      const form = await this.#form(how);
      if (number !== this.#newest) return;
      const sending = (this.#sending = new AbortController());
      for await (const told of this.session.edit(form, sending.signal)) {
        if (sending === this.#sending) this.#sending = new AbortController();
        await this.#hear(told, number, how);
      }
    } catch (error) {
      if (number === this.#newest) this.dispatchEvent(new CustomEvent("error", { detail: error }));
    } finally {
      if (number === this.#newest) this.#say(null);
    }
  }

  /** @param {Progress | null} progress */
  #say(progress) {
    this.progress = progress;
    this.dispatchEvent(new Event(progress ? "progress" : "end"));
  }

  /**
   * @param {Told} told
   * @param {number} number
   * @param {How} how
   */
  async #hear(told, number, how) {
    if (told.type === "result") return this.#take(/** @type {any} */ (told), number, how);
    if (number !== this.#newest) return;
    if (told.type === "queued")
      this.#say({ text: told.before ? `${told.before} before you` : "Next in the queue", done: 0 });
    if (told.type === "started") this.#say({ text: "Starting", done: 0 });
    if (told.type === "step")
      this.#say({ text: `Step ${told.number} of ${told.steps}`, done: told.number / told.steps });
    if (told.type === "error") throw new ApiError(sentence(told.message), 0, told.code);
    if (told.type === "preview") {
      const bytes = Uint8Array.from(atob(told.b64_jpeg), (sign) => sign.charCodeAt(0));
      const preview = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
      if (number === this.#newest) this.dispatchEvent(new CustomEvent("preview", { detail: preview }));
    }
  }

  /**
   * @param {Result} result
   * @param {number} number
   * @param {How} how
   */
  async #take(result, number, how) {
    if (number !== this.#newest) return this.session.discard(result.id);
    this.results.set(result.id, result);
    await this.session.refresh();
    this.dispatchEvent(new CustomEvent("result", { detail: result }));
    const old = how.isLive ? this.#live : how.replaces;
    how.replaces = null;
    if (how.isLive) this.#live = result.id;
    if (old && this.session.facts?.staged.some((one) => one.id === old)) await this.session.discard(old);
  }

  /**
   * The request. A seed that is not locked is another one for each edit, but stays from stroke to stroke.
   * @param {How} how
   */
  async #form({ isLive, isRetry }) {
    const { settings, painter } = this;
    const values = settings.values;
    if (values.seed === "" || isRetry || (!values.locked && !isLive)) settings.set("seed", anySeed());
    const said = {
      prompt: values.prompt,
      negative_prompt: values.negative,
      seed: values.seed,
      steps: values.steps,
      strength: values.strength,
      guidance_scale: values.guidance,
      dense_steps: values.dense,
      n: isLive || isRetry ? 1 : values.variants,
      live: Boolean(isLive),
    };
    const form = new FormData();
    for (const [name, value] of Object.entries(said)) form.append(name, String(value));
    if (painter.layer === painter.paint) {
      form.append("painted", await this.#painted(), "painted.png");
    } else {
      form.append("mask", await maskFile(painter.mask), "mask.png");
      form.append("mask_polarity", "white");
      form.append("mask_blur", String(values.feather));
      form.append("match_edge", String(values.match));
    }
    return form;
  }

  /** The session's picture with the colours on it. */
  async #painted() {
    const picture = await this.session.picture(this.session.facts?.current ?? "");
    const context = drawing(picture.width, picture.height);
    context.drawImage(picture, 0, 0);
    context.drawImage(this.painter.paint.canvas, 0, 0);
    return pngOf(context.canvas);
  }
}

/** A seed that nobody has chosen. */
export function anySeed() {
  return String(Math.floor(Math.random() * SEEDS));
}
