// The keyboard: one table, which the dialog shows, too.

import { byId, make } from "./dom.js";

const BY_HAND = [
  { keys: ["Wheel"], does: "Zoom" },
  { keys: ["Shift+Wheel", "Space+drag"], does: "Move the view" },
  { keys: ["Alt+Wheel"], does: "Size of the brush" },
  { keys: ["Right button"], does: "Erase" },
  { keys: ["Two fingers"], does: "Zoom and move the view" },
  { keys: ["Arrows", "Enter"], does: "Move the brush, put it down or lift it" },
];

/** @typedef {{keys: string[], does: string, act: () => unknown}} Binding */

/**
 * Listens for the keys, and lists them in the dialog.
 * @param {Binding[]} bindings keys as "Ctrl+Shift+z": modifiers in this order, letters small
 */
export function listen(bindings) {
  const acts = new Map(bindings.flatMap(({ keys, act }) => keys.map((key) => [key, act])));
  addEventListener("keydown", (event) => {
    const act = acts.get(nameOf(event));
    if (!act || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    if (isTyping(event.target) && !event.ctrlKey && !event.metaKey && event.key !== "Escape") return;
    if (isTyping(event.target) && /^Ctrl\+(Shift\+)?[zy]$/.test(nameOf(event))) return; // the text's own undo
    event.preventDefault();
    act();
  });
  const rows = [...bindings, ...BY_HAND].map(({ keys, does }) =>
    make("div", {}, make("dt", {}, ...keys.flatMap((key) => [make("kbd", {}, shown(key)), " "])), make("dd", {}, does)),
  );
  byId("keys-list", HTMLDListElement).replaceChildren(...rows);
}

/** @param {KeyboardEvent} event */
function nameOf(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const shifts = event.shiftKey && (event.key.length > 1 || /[a-z]/.test(key)); // "?" needs no name for its Shift
  return [event.ctrlKey || event.metaKey ? "Ctrl+" : "", event.altKey ? "Alt+" : "", shifts ? "Shift+" : "", key].join(
    "",
  );
}

/** @param {string} key */
function shown(key) {
  const parts = key === "+" ? [key] : key.split("+");
  return parts.map((part) => (part.length === 1 ? part.toUpperCase() : part)).join(" ");
}

/** @param {EventTarget | null} target */
function isTyping(target) {
  if (target instanceof HTMLTextAreaElement) return true;
  return target instanceof HTMLInputElement && !["range", "radio", "checkbox", "color", "file"].includes(target.type);
}
