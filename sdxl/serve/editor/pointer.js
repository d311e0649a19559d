// Mouse, pen, fingers, wheel and arrow keys over the picture: they paint, or they move the view.

import { LARGEST_BRUSH } from "./settings.js";

/** @import { Painter } from "./painter.js" */
/** @import { Stage } from "./stage.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Point } from "./tools.js" */

const WHEEL = 1.0015; // zoom for each pixel of the wheel
const PINCH = 4; // times more: a touchpad's pinch comes as a wheel with Ctrl, in small steps
const LINE = 20; // pixels of the wheel that a line is

/** Turns events of the canvas into strokes and views. One finger paints, two move and zoom. */
export class Pointer {
  isSpaceHeld = false;
  isInside = false;
  /** @type {Map<number, Point>} */
  #fingers = new Map();
  /** @type {"paint" | "move" | null} */
  #does = null;

  /**
   * @param {Stage} stage
   * @param {Painter} painter
   * @param {Settings} settings
   */
  constructor(stage, painter, settings) {
    this.stage = stage;
    this.painter = painter;
    this.settings = settings;
    const { canvas } = stage;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#up(event, true));
    canvas.addEventListener("pointerenter", () => (this.isInside = true));
    canvas.addEventListener("pointerleave", () => this.#leave());
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.painter.end());
    settings.addEventListener("change", () => this.showCursor());
  }

  /** Shows what a press would do here. */
  showCursor() {
    const moves = this.isSpaceHeld || this.settings.values.tool === "hand";
    const { classList } = this.stage.canvas;
    classList.toggle("grab", moves && this.#does !== "move");
    classList.toggle("grabbing", this.#does === "move");
    classList.toggle("plain", !this.stage.picture);
    if (moves) this.stage.cursor = null;
    this.stage.draw();
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (!this.stage.picture) return;
    const { canvas } = this.stage;
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    const point = pointOf(event);
    this.#fingers.set(event.pointerId, point);
    if (this.#fingers.size > 1) {
      this.painter.abort(); // the first finger's stroke was the begin of a pinch
      this.#does = "move";
    } else if (event.button === 1 || this.isSpaceHeld || this.settings.values.tool === "hand") {
      this.#does = "move";
    } else if (event.button === 0 || event.button === 2) {
      this.#does = "paint";
      this.painter.begin(this.stage.view.toPicture(point), event.button === 2 || event.buttons === 32);
    }
    this.showCursor();
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const point = pointOf(event);
    const before = this.#fingers.get(event.pointerId);
    if (event.pointerType !== "touch" && this.#does !== "move") this.stage.cursor = point;
    if (before) this.#fingers.set(event.pointerId, point);
    if (before && this.#does === "move") this.#moveView(event.pointerId, before, point);
    if (before && this.#does === "paint") {
      const passed = event.getCoalescedEvents?.() ?? [];
      for (const one of passed.length ? passed : [event]) this.painter.add(this.stage.view.toPicture(pointOf(one)));
    }
    this.showCursor();
  }

  /**
   * @param {number} finger
   * @param {Point} before
   * @param {Point} now
   */
  #moveView(finger, before, now) {
    const { view } = this.stage;
    const other = [...this.#fingers].find(([id]) => id !== finger)?.[1];
    if (!other) return view.pan(now.x - before.x, now.y - before.y);
    view.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
    const apart =
      Math.hypot(now.x - other.x, now.y - other.y) / Math.max(Math.hypot(before.x - other.x, before.y - other.y), 1);
    view.zoom({ x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 }, apart);
  }

  /**
   * @param {PointerEvent} event
   * @param {boolean} isLost
   */
  #up(event, isLost = false) {
    if (!this.#fingers.delete(event.pointerId)) return;
    if (this.#does === "paint") isLost ? this.painter.abort() : this.painter.end();
    if (!this.#fingers.size) this.#does = null; // one finger of two that stays does not paint
    this.showCursor();
  }

  #leave() {
    this.isInside = false;
    this.stage.cursor = null;
    this.stage.draw();
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    event.preventDefault();
    if (!this.stage.picture) return;
    const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? LINE : 1;
    const [x, y] = [event.deltaX * unit, event.deltaY * unit];
    if (event.altKey) this.settings.set("size", resized(this.settings.values.size, y < 0));
    else if (event.shiftKey) this.stage.view.pan(-(x || y), x ? -y : 0);
    else this.stage.view.zoom(pointOf(event), WHEEL ** -(y * (event.ctrlKey ? PINCH : 1)));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!this.stage.picture || event.ctrlKey || event.altKey || event.metaKey || (!way && event.key !== "Enter"))
      return;
    event.preventDefault();
    const { stage, painter } = this;
    const at = stage.cursor ?? { x: stage.width / 2, y: stage.height / 2 };
    const far = event.shiftKey ? 1 : 8;
    stage.cursor = way ? { x: at.x + far * way[0], y: at.y + far * way[1] } : at;
    const point = stage.view.toPicture(stage.cursor);
    if (!way) painter.isPainting ? painter.end() : painter.begin(point, false);
    else if (painter.isPainting) painter.add(point);
    stage.draw();
  }
}

/**
 * The next size of the brush.
 * @param {number} size
 * @param {boolean} larger
 */
export function resized(size, larger) {
  const next = larger ? Math.max(size * 1.2, size + 1) : Math.min(size / 1.2, size - 1);
  return Math.min(Math.max(Math.round(next), 1), LARGEST_BRUSH);
}

/** @param {MouseEvent} event */
function pointOf(event) {
  return { x: event.offsetX, y: event.offsetY };
}
