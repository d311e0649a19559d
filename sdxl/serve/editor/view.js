// Where the picture is on the screen, and how large.

/** @import { Point } from "./tools.js" */

const [SMALLEST, LARGEST] = [0.02, 40];
const MARGIN = 24; // pixels of the screen around a picture that fits

/** Screen = picture × scale + (x, y). Fires "change". */
export class View extends EventTarget {
  scale = 1;
  x = 0;
  y = 0;
  isFitted = true; // it fits again where the window changes

  /**
   * @param {Point} point of the screen
   * @returns {Point} of the picture
   */
  toPicture(point) {
    return { x: (point.x - this.x) / this.scale, y: (point.y - this.y) / this.scale };
  }

  /**
   * @param {Point} point of the picture
   * @returns {Point} of the screen
   */
  toScreen(point) {
    return { x: point.x * this.scale + this.x, y: point.y * this.scale + this.y };
  }

  /**
   * Moves the picture by that many pixels of the screen.
   * @param {number} x
   * @param {number} y
   */
  pan(x, y) {
    this.#set(this.scale, this.x + x, this.y + y);
  }

  /**
   * Zooms by a factor; the point of the screen stays where it is.
   * @param {Point} point
   * @param {number} factor
   */
  zoom(point, factor) {
    const scale = Math.min(Math.max(this.scale * factor, SMALLEST), LARGEST);
    const fixed = this.toPicture(point);
    this.#set(scale, point.x - fixed.x * scale, point.y - fixed.y * scale);
  }

  /**
   * Shows a whole picture in a window.
   * @param {{width: number, height: number}} picture
   * @param {{width: number, height: number}} window
   */
  fit(picture, window) {
    const room = Math.min((window.width - 2 * MARGIN) / picture.width, (window.height - 2 * MARGIN) / picture.height);
    const scale = Math.min(Math.max(room, SMALLEST), LARGEST);
    this.#set(scale, (window.width - picture.width * scale) / 2, (window.height - picture.height * scale) / 2, true);
  }

  /**
   * @param {number} scale
   * @param {number} x
   * @param {number} y
   * @param {boolean} isFitted
   */
  #set(scale, x, y, isFitted = false) {
    Object.assign(this, { scale, x, y, isFitted });
    this.dispatchEvent(new Event("change"));
  }
}
