// The hand that paints: the tool, its ink, and the layer of the mode it paints on.

import { Layer } from "./layer.js";
import { MASK_COLOUR } from "./mask.js";
import { beginStroke } from "./tools.js";

/** @import { Point, Stroke } from "./tools.js" */
/** @import { Settings } from "./settings.js" */

/**
 * Fires "begin" where a stroke begins, "draw" at each point, "stroke" where it has changed the layer, and "change" after
 * every change of a layer.
 */
export class Painter extends EventTarget {
  mask = new Layer();
  paint = new Layer();
  /** @type {Stroke | null} */
  #stroke = null;

  /** @param {Settings} settings */
  constructor(settings) {
    super();
    this.settings = settings;
    for (const layer of [this.mask, this.paint])
      layer.addEventListener("change", () => this.dispatchEvent(new Event("change")));
  }

  /** The layer of the mode: the mask, or the colours. */
  get layer() {
    return this.settings.values.mode === "paint" ? this.paint : this.mask;
  }

  get isPainting() {
    return this.#stroke !== null;
  }

  /** What the stroke would fill: points of the picture. */
  get outline() {
    return this.#stroke?.outline() ?? [];
  }

  /**
   * Empty layers for a picture of that size.
   * @param {number} width
   * @param {number} height
   */
  reset(width, height) {
    this.#stroke = null;
    this.mask.reset(width, height);
    this.paint.reset(width, height);
  }

  /**
   * Begins a stroke.
   * @param {Point} point
   * @param {boolean} erases
   */
  begin(point, erases) {
    const { tool, size, colour, mode } = this.settings.values;
    this.dispatchEvent(new Event("begin"));
    this.layer.begin();
    const ink = { size, colour: mode === "paint" ? colour : MASK_COLOUR, erases };
    this.#stroke = beginStroke(tool, this.layer.context, ink, point);
    this.dispatchEvent(new Event("draw"));
  }

  /**
   * Goes on to a point.
   * @param {Point} point
   */
  add(point) {
    this.#stroke?.add(point);
    this.dispatchEvent(new Event("draw"));
  }

  /** Ends the stroke. */
  end() {
    const stroke = this.#stroke;
    if (!stroke) return;
    this.#stroke = null;
    stroke.end();
    if (this.layer.finish()) this.dispatchEvent(new Event("stroke"));
    this.dispatchEvent(new Event("draw"));
  }

  /** Takes back the stroke that has begun. */
  abort() {
    if (!this.#stroke) return;
    this.#stroke = null;
    this.layer.abort();
    this.dispatchEvent(new Event("draw"));
  }
}
