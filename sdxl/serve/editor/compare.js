// The handle between before and after.

import { byId } from "./dom.js";

/** @import { Stage } from "./stage.js" */

const STEP = 0.05; // of the picture's width, for an arrow key

/**
 * Lets the handle move the stage's split, and puts it where the split is.
 * @param {Stage} stage
 * @returns {() => void} to call when a comparison begins or ends
 */
export function addHandle(stage) {
  const handle = byId("handle", HTMLDivElement);
  const place = () => {
    const { before, picture, view, split } = stage;
    handle.hidden = !before || !picture;
    if (!picture) return;
    const top = Math.max(view.y, 0);
    handle.style.left = `${view.x + split * picture.width * view.scale}px`;
    handle.style.top = `${top}px`;
    handle.style.height = `${Math.max(Math.min(view.y + picture.height * view.scale, stage.height) - top, 0)}px`;
    handle.ariaValueNow = String(Math.round(100 * split));
  };
  /** @param {number} split */
  const move = (split) => {
    stage.split = Math.min(Math.max(split, 0), 1);
    place();
    stage.draw();
  };
  handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
  handle.addEventListener("pointermove", (event) => {
    if (!handle.hasPointerCapture(event.pointerId) || !stage.picture) return;
    const x = event.clientX - stage.canvas.getBoundingClientRect().left;
    move(stage.view.toPicture({ x, y: 0 }).x / stage.picture.width);
  });
  handle.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -STEP, ArrowRight: STEP, Home: -1, End: 1 }[event.key];
    if (!way) return;
    event.preventDefault();
    move(stage.split + way);
  });
  stage.view.addEventListener("change", place);
  return place;
}
