// What the user has set: bound to the page's fields, and remembered by the browser.

import { byId } from "./dom.js";

const REMEMBERED = "sige-settings";
export const LARGEST_BRUSH = 256;
const FIELDS = {
  prompt: "prompt",
  negative: "negative",
  seed: "seed",
  variants: "variants",
  steps: "steps",
  strength: "strength",
  guidance: "guidance",
  dense: "dense",
  feather: "feather",
  match: "match",
  growBy: "grow-by",
  size: "size",
  colour: "colour",
  live: "live",
};
const DEFAULTS = {
  mode: "mask", // or "paint"
  tool: "brush",
  size: 32,
  colour: "#d62828",
  prompt: "",
  negative: "",
  seed: "", // numbers that may be left out are text: "" is the server's default
  locked: false,
  variants: 1,
  steps: "",
  strength: "",
  guidance: "",
  dense: "",
  feather: 0,
  match: 24,
  growBy: 8,
  live: false,
  theme: "system",
};

/** @typedef {typeof DEFAULTS} Values */

/** Fires "change" when a value has changed, from the page or from elsewhere. */
export class Settings extends EventTarget {
  /** @type {Values} */
  values = { ...DEFAULTS, ...remembered() };

  /** Binds the page's fields. */
  bind() {
    for (const [name, id] of Object.entries(FIELDS)) {
      const field = fieldOf(id);
      const key = /** @type {keyof Values} */ (name);
      field.addEventListener("input", () => {
        if (field.checkValidity() && !(field.value === "" && typeof DEFAULTS[key] === "number"))
          this.set(key, valueOf(field, DEFAULTS[key]));
      });
      field.addEventListener("blur", () => field.checkValidity() && this.#show());
    }
    for (const mode of modes()) mode.addEventListener("change", () => this.set("mode", mode.value));
    this.#show();
  }

  /**
   * Sets a value.
   * @template {keyof Values} K
   * @param {K} name
   * @param {Values[K]} value
   */
  set(name, value) {
    this.values[name] = value;
    try {
      localStorage.setItem(REMEMBERED, JSON.stringify(this.values));
    } catch {
      // the browser keeps nothing for this page: the values hold until it is closed
    }
    this.#show();
    this.dispatchEvent(new Event("change"));
  }

  #show() {
    for (const [name, id] of Object.entries(FIELDS)) {
      const [field, value] = [fieldOf(id), this.values[/** @type {keyof Values} */ (name)]];
      if (field instanceof HTMLInputElement && field.type === "checkbox") field.checked = Boolean(value);
      else if (field !== document.activeElement && field.value !== String(value)) field.value = String(value);
      else if (field.type === "range") field.value = String(value);
    }
    for (const mode of modes()) mode.checked = mode.value === this.values.mode;
  }
}

/** @returns {Partial<Values>} */
function remembered() {
  try {
    const said = JSON.parse(localStorage.getItem(REMEMBERED) ?? "{}");
    return Object.fromEntries(
      Object.entries(DEFAULTS).flatMap(([name, value]) =>
        typeof said?.[name] === typeof value ? [[name, said[name]]] : [],
      ),
    );
  } catch {
    return {};
  }
}

/**
 * @param {HTMLInputElement | HTMLTextAreaElement} field
 * @param {string | number | boolean} like
 * @returns {any}
 */
function valueOf(field, like) {
  if (field instanceof HTMLInputElement && field.type === "checkbox") return field.checked;
  return typeof like === "number" ? Number(field.value) : field.value;
}

/** @param {string} id */
function fieldOf(id) {
  const field = document.getElementById(id);
  return field instanceof HTMLTextAreaElement ? field : byId(id, HTMLInputElement);
}

/** @returns {NodeListOf<HTMLInputElement>} */
function modes() {
  return document.querySelectorAll("#modes input");
}
