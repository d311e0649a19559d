// A layer over the picture that strokes are drawn on, with its own undo.

import { drawing } from "./dom.js";

/** @typedef {{x: number, y: number, before: ImageData, after: ImageData}} Change */

const MOST_CHANGES = 100;
const MOST_BYTES = 256 << 20; // of all changes that can be undone

/** Fires "change" after each stroke, undo and redo. */
export class Layer extends EventTarget {
  context = drawing(1, 1);
  /** @type {Change[]} */
  #done = [];
  /** @type {Change[]} */
  #undone = [];
  #before = drawing(1, 1);
  /** @type {boolean | null} */
  #isEmpty = true;

  get canvas() {
    return this.context.canvas;
  }

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  /** Says whether nothing is painted. */
  get isEmpty() {
    this.#isEmpty ??= !boxOf(this.context.getImageData(0, 0, this.canvas.width, this.canvas.height));
    return this.#isEmpty;
  }

  /**
   * An empty layer of that size, without anything to undo.
   * @param {number} width
   * @param {number} height
   */
  reset(width, height) {
    this.context = drawing(width, height);
    this.#before = drawing(width, height);
    this.#done = [];
    this.#undone = [];
    this.#changed();
  }

  /** Begins a stroke: `finish` makes it one step of the undo, `abort` takes it back. */
  begin() {
    copy(this.context.canvas, this.#before);
    this.#isEmpty = null;
  }

  /** Ends a stroke; says whether it has changed a pixel. */
  finish() {
    const { width, height } = this.canvas;
    const before = this.#before.getImageData(0, 0, width, height);
    const box = boxOf(this.context.getImageData(0, 0, width, height), before);
    this.#isEmpty = null;
    if (!box) return false;
    this.#done.push({
      x: box.x,
      y: box.y,
      before: this.#before.getImageData(box.x, box.y, box.width, box.height),
      after: this.context.getImageData(box.x, box.y, box.width, box.height),
    });
    while (this.#done.length > MOST_CHANGES || (this.#done.length > 1 && bytesOf(this.#done) > MOST_BYTES))
      this.#done.shift();
    this.#undone = [];
    this.#changed();
    return true;
  }

  /** Takes back a stroke that has begun. */
  abort() {
    copy(this.#before.canvas, this.context);
    this.#isEmpty = null;
  }

  /**
   * Changes the layer by a function, as one step of the undo.
   * @param {(context: CanvasRenderingContext2D) => void} draw
   */
  change(draw) {
    this.begin();
    this.context.save();
    draw(this.context);
    this.context.restore();
    return this.finish();
  }

  /** Takes back the last stroke. */
  undo() {
    const change = this.#done.pop();
    if (!change) return;
    this.#undone.push(change);
    this.context.putImageData(change.before, change.x, change.y);
    this.#changed();
  }

  /** Draws again what was taken back. */
  redo() {
    const change = this.#undone.pop();
    if (!change) return;
    this.#done.push(change);
    this.context.putImageData(change.after, change.x, change.y);
    this.#changed();
  }

  #changed() {
    this.#isEmpty = null;
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * @param {HTMLCanvasElement} from
 * @param {CanvasRenderingContext2D} to
 */
function copy(from, to) {
  to.save();
  to.globalCompositeOperation = "copy";
  to.drawImage(from, 0, 0);
  to.restore();
}

/** @param {Change[]} changes */
function bytesOf(changes) {
  return changes.reduce((sum, change) => sum + 2 * change.before.data.byteLength, 0);
}

/**
 * The box around the pixels that are not transparent, or that differ from another picture's.
 * @param {ImageData} image
 * @param {ImageData} [other]
 * @returns {{x: number, y: number, width: number, height: number} | null}
 */
export function boxOf(image, other) {
  const { width, height } = image;
  const pixels = new Uint32Array(image.data.buffer);
  const others = other ? new Uint32Array(other.data.buffer) : null;
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (pixels[at] === (others ? others[at] : 0)) continue;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      bottom = y;
    }
  }
  return right < 0 ? null : { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
}
