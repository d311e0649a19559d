// Which key does what.

import { byId } from "./dom.js";
import { clear, invert } from "./mask.js";
import { resized } from "./pointer.js";
import { TOOLS } from "./tools.js";

/** @import { Binding } from "./keys.js" */
/** @import { Painter } from "./painter.js" */
/** @import { Picture } from "./picture.js" */
/** @import { Results } from "./results.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Stage } from "./stage.js" */

/**
 * @typedef {{settings: Settings, painter: Painter, stage: Stage, picture: Picture, results: Results,
 *   panel: {generate: () => void, cancel: () => Promise<void>}}} Parts
 */

/**
 * The keys, in the order of the dialog.
 * @param {Parts} parts
 * @returns {Binding[]}
 */
export function bindingsOf({ settings, painter, stage, picture, results, panel }) {
  const tools = TOOLS.map((tool) => ({ keys: [tool[0]], does: `The ${tool}`, act: () => settings.set("tool", tool) }));
  /** @param {boolean} larger */
  const resize = (larger) => settings.set("size", resized(settings.values.size, larger));
  return [
    { keys: ["Ctrl+Enter"], does: "Generate", act: () => panel.generate() },
    {
      keys: ["Escape"],
      does: "Take back the stroke, or cancel the edit",
      act: () => (painter.isPainting ? painter.abort() : panel.cancel()),
    },
    ...tools,
    { keys: ["["], does: "Smaller brush", act: () => resize(false) },
    { keys: ["]"], does: "Larger brush", act: () => resize(true) },
    { keys: ["Ctrl+z"], does: "Undo the stroke", act: () => painter.layer.undo() },
    { keys: ["Ctrl+Shift+z", "Ctrl+y"], does: "Redo the stroke", act: () => painter.layer.redo() },
    { keys: ["u"], does: "Back to the picture before", act: () => results.walk(-1) },
    { keys: ["Shift+u"], does: "To the picture after", act: () => results.walk(1) },
    { keys: ["a"], does: "Accept the result", act: () => results.accept() },
    { keys: ["d"], does: "Discard the result", act: () => results.discard() },
    { keys: ["t"], does: "Try again in its place", act: () => results.retry() },
    { keys: ["c"], does: "Compare before and after", act: () => results.compare() },
    { keys: ["v"], does: "Show what was recomputed", act: () => results.nextLevel() },
    { keys: ["Delete", "Backspace"], does: "Clear the mask or the colours", act: () => clear(painter.layer) },
    { keys: ["i"], does: "Invert the mask", act: () => painter.layer === painter.mask && invert(painter.mask) },
    { keys: ["f", "0"], does: "Show the whole picture", act: () => stage.fit() },
    { keys: ["=", "+"], does: "Zoom in", act: () => stage.zoom(1.25) },
    { keys: ["-"], does: "Zoom out", act: () => stage.zoom(1 / 1.25) },
    { keys: ["o"], does: "Open a picture", act: () => picture.choose() },
    { keys: ["s"], does: "Download the picture", act: () => picture.download() },
    { keys: ["?"], does: "These keys", act: () => byId("keys", HTMLDialogElement).showModal() },
  ];
}
