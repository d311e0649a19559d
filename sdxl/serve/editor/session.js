// The server's session: one picture, its history, and the results that nobody has accepted yet.

import { Api, ApiError } from "./api.js";
import { eventsOf } from "./stream.js";

/** @import { Facts } from "./api.js" */
/** @import { Event as Told } from "./stream.js" */

const REMEMBERED = "sige-session"; // of this tab
const MOST_KEPT = 12; // decoded pictures

/** Fires "change" when what the server holds has changed. */
export class Session extends EventTarget {
  /** @type {Facts | null} */
  facts = null;
  /** @type {Map<string, Promise<ImageBitmap>>} */
  #pictures = new Map();

  /** @param {Api} api */
  constructor(api) {
    super();
    this.api = api;
  }

  /** @param {string} rest */
  #path(rest) {
    if (!this.facts) throw new Error("no picture is open");
    return `/v1/sessions/${this.facts.id}${rest}`;
  }

  /** @param {Facts | null} facts */
  #tell(facts) {
    this.facts = facts;
    if (facts) sessionStorage.setItem(REMEMBERED, facts.id);
    this.dispatchEvent(new Event("change"));
  }

  /**
   * Begins anew with a picture; the session before is left to the server.
   * @param {Blob} picture
   */
  async begin(picture) {
    const form = new FormData();
    form.append("image", picture, "picture");
    const facts = await this.api.post("/v1/sessions", form);
    if (this.facts) void this.api.fetch(this.#path(""), { method: "DELETE" }).catch(() => {});
    this.#pictures.clear();
    this.#tell(facts);
  }

  /** Goes on with this tab's session, where the server still has it; says whether it does. */
  async resume() {
    const id = sessionStorage.getItem(REMEMBERED);
    if (!id) return false;
    try {
      this.#tell(await this.api.json(`/v1/sessions/${id}`));
      return true;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
      sessionStorage.removeItem(REMEMBERED);
      return false;
    }
  }

  /** Reads again what the server holds. */
  async refresh() {
    this.#tell(await this.api.json(this.#path("")));
  }

  /**
   * The address of a picture.
   * @param {string} name
   */
  address(name) {
    return this.#path(`/pictures/${name}`);
  }

  /**
   * A picture's pixels, as they are in its file: no colour is converted.
   * @param {string} name
   * @returns {Promise<ImageBitmap>}
   */
  picture(name) {
    let kept = this.#pictures.get(name);
    if (!kept) {
      kept = this.file(name).then((blob) =>
        createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" }),
      );
      kept.catch(() => this.#pictures.delete(name));
      this.#pictures.set(name, kept);
      if (this.#pictures.size > MOST_KEPT) this.#pictures.delete([...this.#pictures.keys()][0]);
    }
    return kept;
  }

  /**
   * A picture's file; its texts say how it was made.
   * @param {string} name
   */
  async file(name) {
    return (await this.api.fetch(this.address(name))).blob();
  }

  /**
   * Makes an edit, and yields what the server tells of it.
   * @param {FormData} form
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<Told>}
   */
  async *edit(form, signal) {
    form.append("stream", "true");
    const answer = await this.api.fetch(this.#path("/edits"), { method: "POST", body: form, signal });
    if (answer.body) yield* eventsOf(answer.body);
  }

  /** Ends the edits that wait or run. */
  async cancel() {
    await this.api.post(this.#path("/cancel"));
  }

  /**
   * Makes a staged result the session's picture.
   * @param {string} result
   */
  async commit(result) {
    this.#tell(await this.api.post(this.#path("/commit"), named(result)));
  }

  /**
   * Forgets a staged result.
   * @param {string} result
   */
  async discard(result) {
    this.#tell(await this.api.post(this.#path("/discard"), named(result)));
  }

  /**
   * Goes to an entry of the history.
   * @param {number} at
   */
  async goTo(at) {
    let facts = this.facts;
    if (!facts || at < 0 || at >= facts.entries.length) return;
    while (facts && facts.at !== at) facts = await this.api.post(this.#path(at < facts.at ? "/undo" : "/redo"));
    this.#tell(facts);
  }
}

/** @param {string} result */
function named(result) {
  const form = new FormData();
  form.append("result", result);
  return form;
}
