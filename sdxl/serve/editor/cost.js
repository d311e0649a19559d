// What an edit cost, and what was recomputed at each level.

import { byId, drawing, make } from "./dom.js";

/** @import { Level, Result } from "./api.js" */

const PASSES = { dense: "dense", half: "half dense", outer: "without the deepest level", packed: "sparse" };
const COLOUR = [255, 122, 26, 255];

/**
 * Shows what a result cost; nothing where the server said nothing of it.
 * @param {Result | undefined} result
 * @param {number} shown the level that lies over the picture; -1: none
 * @param {(level: number) => void} choose
 */
export function showCost(result, shown, choose) {
  byId("cost", HTMLFieldSetElement).hidden = !result;
  byId("summary", HTMLOutputElement).value = result
    ? `${secondsOf(result)} · ${percent(result.computed)} of the dense work`
    : "";
  if (!result) return;
  const figures = {
    Time: secondsOf(result),
    Passes: passesOf(result),
    Steps: result.passes.skipped ? `${result.steps}, ${result.passes.skipped} skipped` : String(result.steps),
    Work: `${percent(result.computed)} of the dense edit`,
    Seed: String(result.seed),
  };
  const rows = Object.entries(figures).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
  byId("figures", HTMLDListElement).replaceChildren(...rows);
  const buttons = levelsOf(result).map((level, at) =>
    levelButton(level, at === shown, () => choose(at === shown ? -1 : at)),
  );
  byId("levels", HTMLDivElement).replaceChildren(...buttons);
}

/**
 * The levels at which only a part was recomputed; none where every pass was dense.
 * @param {Result | undefined} result
 * @returns {Level[]}
 */
export function levelsOf(result) {
  return result && (result.passes.packed || result.passes.half) ? result.levels : [];
}

/** @param {Result} result */
function secondsOf({ seconds }) {
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

/** @param {Result} result */
function passesOf({ passes }) {
  const parts = Object.entries(PASSES).flatMap(([kind, name]) => (passes[kind] ? [`${passes[kind]} ${name}`] : []));
  return parts.join(", ") || "none";
}

/**
 * @param {Level} level
 * @param {boolean} isShown
 * @param {() => void} act
 */
function levelButton(level, isShown, act) {
  const title = `Show what was recomputed at the level of ${level.width} × ${level.height} positions`;
  const button = make("button", { type: "button", title, ariaPressed: String(isShown) }, percent(level.share));
  button.append(make("small", {}, `${level.width} × ${level.height}`));
  button.addEventListener("click", act);
  return button;
}

/**
 * The positions of a level that were recomputed, a pixel for each.
 * @param {Level} level
 * @returns {HTMLCanvasElement}
 */
export function drawLevel({ height, width, bits }) {
  const bytes = Uint8Array.from(atob(bits), (sign) => sign.charCodeAt(0));
  const context = drawing(width, height);
  const image = context.createImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    if ((bytes[at >> 3] >> (7 - (at & 7))) & 1) image.data.set(COLOUR, 4 * at);
  }
  context.putImageData(image, 0, 0);
  return context.canvas;
}

/** @param {number} share */
function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}
