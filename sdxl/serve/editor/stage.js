// The canvas: the picture, what is painted over it, and what came before it.

import { byId, contextOf, drawing } from "./dom.js";
import { View } from "./view.js";

/** @import { Painter } from "./painter.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Point } from "./tools.js" */

const MASK_OPACITY = 0.5;
const LEVEL_OPACITY = 0.45;
const SHARP = 6; // from this scale on, pixels show as squares

/** Draws once for each frame of the screen in which something has changed. */
export class Stage {
  canvas = byId("canvas", HTMLCanvasElement);
  view = new View();
  /** @type {ImageBitmap | null} */
  picture = null;
  /** @type {ImageBitmap | null} the picture before, left of the split */
  before = null;
  split = 0.5;
  /** @type {ImageBitmap | null} of the edit that runs */
  preview = null;
  /** @type {HTMLCanvasElement | null} the positions that were recomputed */
  level = null;
  /** @type {Point | null} of the screen */
  cursor = null;
  showsLayer = true;
  width = 0;
  height = 0;
  #context = contextOf(this.canvas);
  #clip = drawing(1, 1);
  #isDue = false;

  /**
   * @param {Painter} painter
   * @param {Settings} settings
   */
  constructor(painter, settings) {
    this.painter = painter;
    this.settings = settings;
    this.view.addEventListener("change", () => this.draw());
    painter.addEventListener("draw", () => this.draw());
    painter.addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.#resize()).observe(this.canvas);
  }

  /** Shows the whole picture. */
  fit() {
    if (this.picture && this.width) this.view.fit(this.picture, this);
  }

  /**
   * Zooms around the middle.
   * @param {number} factor
   */
  zoom(factor) {
    this.view.zoom({ x: this.width / 2, y: this.height / 2 }, factor);
  }

  /** Draws before the next frame. */
  draw() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#draw();
    });
  }

  #resize() {
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.round(this.width * devicePixelRatio);
    this.canvas.height = Math.round(this.height * devicePixelRatio);
    if (this.view.isFitted) this.fit();
    this.draw();
  }

  #draw() {
    const [context, { view, picture }] = [this.#context, this];
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    if (!picture) return;
    context.save();
    context.translate(view.x, view.y);
    context.scale(view.scale, view.scale);
    context.imageSmoothingQuality = "high";
    context.imageSmoothingEnabled = view.scale < SHARP;
    context.shadowColor = "rgb(0 0 0 / 25%)";
    context.shadowBlur = 16 * devicePixelRatio;
    context.drawImage(picture, 0, 0);
    context.shadowColor = "transparent";
    if (this.preview) context.drawImage(this.#clipped(this.preview), 0, 0);
    if (this.before) this.#drawBefore(this.before, picture);
    if (this.level) this.#drawLevel(this.level, picture);
    if ((this.showsLayer && !this.preview) || this.painter.isPainting) this.#drawLayer();
    this.#drawOutline();
    context.restore();
    this.#drawCursor();
  }

  /**
   * A preview where the layer is painted; elsewhere the edit changes nothing.
   * @param {ImageBitmap} preview
   */
  #clipped(preview) {
    const { canvas } = this.painter.layer;
    if (this.#clip.canvas.width !== canvas.width || this.#clip.canvas.height !== canvas.height) {
      this.#clip = drawing(canvas.width, canvas.height);
    }
    const clip = this.#clip;
    clip.globalCompositeOperation = "copy";
    clip.drawImage(canvas, 0, 0);
    clip.globalCompositeOperation = "source-in";
    clip.drawImage(preview, 0, 0, canvas.width, canvas.height);
    return clip.canvas;
  }

  /**
   * @param {ImageBitmap} before
   * @param {ImageBitmap} picture
   */
  #drawBefore(before, picture) {
    const context = this.#context;
    context.save();
    context.beginPath();
    context.rect(0, 0, picture.width * this.split, picture.height);
    context.clip();
    context.drawImage(before, 0, 0);
    context.restore();
  }

  /**
   * @param {HTMLCanvasElement} level
   * @param {ImageBitmap} picture
   */
  #drawLevel(level, picture) {
    const context = this.#context;
    context.save();
    context.imageSmoothingEnabled = false;
    context.globalAlpha = LEVEL_OPACITY;
    context.drawImage(level, 0, 0, picture.width, picture.height);
    context.restore();
  }

  #drawLayer() {
    const isMask = this.painter.layer === this.painter.mask;
    this.#context.globalAlpha = isMask ? MASK_OPACITY : 1;
    this.#context.drawImage(this.painter.layer.canvas, 0, 0);
    this.#context.globalAlpha = 1;
  }

  #drawOutline() {
    const [context, points, pixel] = [this.#context, this.painter.outline, 1 / this.view.scale];
    if (!points.length) return;
    context.beginPath();
    for (const { x, y } of points) context.lineTo(x, y);
    context.closePath();
    this.#strokeTwice(pixel, [6 * pixel, 4 * pixel]);
  }

  #drawCursor() {
    if (!this.cursor) return;
    const { tool, size } = this.settings.values;
    const [context, { x, y }] = [this.#context, this.cursor];
    context.beginPath();
    if (tool === "brush" || tool === "eraser") {
      context.arc(x, y, Math.max((size * this.view.scale) / 2, 1.5), 0, 2 * Math.PI);
    } else {
      context.moveTo(x - 9, y);
      context.lineTo(x + 9, y);
      context.moveTo(x, y - 9);
      context.lineTo(x, y + 9);
    }
    this.#strokeTwice(1, []);
  }

  /**
   * Dark under light, so that a line is seen on every picture.
   * @param {number} width
   * @param {number[]} dashes
   */
  #strokeTwice(width, dashes) {
    const context = this.#context;
    context.lineWidth = 3 * width;
    context.strokeStyle = "rgb(0 0 0 / 55%)";
    context.stroke();
    context.setLineDash(dashes);
    context.lineWidth = 1.5 * width;
    context.strokeStyle = "#fff";
    context.stroke();
    context.setLineDash([]);
  }
}
