// Short messages at the edge of the window. An error says what to do.

import { byId, make } from "./dom.js";
import { ApiError } from "./api.js";

const SECONDS = 8; // of a note; an error stays until it is closed
const MOST = 4;

/** @typedef {{label: string, act: () => unknown}} Action */

/**
 * Shows a note.
 * @param {string} text
 * @param {Action} [action]
 */
export function note(text, action) {
  const toast = show(text, "note", action);
  setTimeout(() => toast.remove(), SECONDS * 1000);
}

/**
 * Shows an error, and what can be done.
 * @param {unknown} error
 * @param {Action} [action] that may mend it
 */
export function complain(error, action) {
  if (error instanceof DOMException && error.name === "AbortError") return; // somebody has cancelled it
  if (!(error instanceof ApiError)) console.error(error);
  show(error instanceof Error ? error.message : String(error), "bad", action);
}

/**
 * @param {string} text
 * @param {string} kind
 * @param {Action} [action]
 */
function show(text, kind, action) {
  const box = byId("toasts", HTMLDivElement);
  for (const old of box.children) if (old.firstChild?.textContent === text) old.remove();
  const toast = make("div", { className: `toast ${kind}` }, make("p", {}, text));
  const close = make("button", { className: "close", type: "button", textContent: "✕", title: "Close" });
  close.addEventListener("click", () => toast.remove());
  toast.append(close);
  if (action) {
    const button = make("button", { className: "act", type: "button", textContent: action.label });
    button.addEventListener("click", () => {
      toast.remove();
      action.act();
    });
    toast.append(button);
  }
  box.append(toast);
  while (box.children.length > MOST) box.firstElementChild?.remove();
  return toast;
}
