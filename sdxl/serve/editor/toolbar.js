// Tools, the size and the colour of the brush, undo of strokes, zoom, and light or dark.

import { byId, onPress } from "./dom.js";

/** @import { Painter } from "./painter.js" */
/** @import { Pointer } from "./pointer.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Stage } from "./stage.js" */

const ZOOM = 1.25;
const THEMES = ["system", "light", "dark"];

/** Wires the buttons beside and above the picture. */
export class Toolbar {
  /** @type {NodeListOf<HTMLButtonElement>} */
  #tools = document.querySelectorAll("[data-tool]");

  /**
   * @param {Settings} settings
   * @param {Painter} painter
   * @param {Stage} stage
   * @param {Pointer} pointer
   */
  constructor(settings, painter, stage, pointer) {
    this.settings = settings;
    this.painter = painter;
    this.stage = stage;
    for (const button of this.#tools)
      button.addEventListener("click", () => settings.set("tool", button.dataset.tool ?? "brush"));
    onPress("stroke-undo", () => painter.layer.undo());
    onPress("stroke-redo", () => painter.layer.redo());
    onPress("zoom-in", () => stage.zoom(ZOOM));
    onPress("zoom-out", () => stage.zoom(1 / ZOOM));
    onPress("fit", () => stage.fit());
    onPress("theme", () => settings.set("theme", THEMES[(THEMES.indexOf(settings.values.theme) + 1) % THEMES.length]));
    for (const one of [settings, painter]) one.addEventListener("change", () => this.#show());
    stage.view.addEventListener("change", () => this.#show());
    this.#holdSpace(pointer);
    this.#show();
  }

  #show() {
    const { tool, size, mode, theme } = this.settings.values;
    for (const button of this.#tools) button.ariaPressed = String(button.dataset.tool === tool);
    byId("stroke-undo", HTMLButtonElement).disabled = !this.painter.layer.canUndo;
    byId("stroke-redo", HTMLButtonElement).disabled = !this.painter.layer.canRedo;
    byId("size-text", HTMLOutputElement).value = String(size);
    byId("colour", HTMLInputElement).hidden = mode !== "paint";
    byId("zoom", HTMLOutputElement).value = `${Math.round(100 * this.stage.view.scale)} %`;
    byId("theme", HTMLButtonElement).title = `Light, dark, or as the system (now: ${theme})`;
    document.documentElement.dataset.theme = theme;
  }

  /** @param {Pointer} pointer */
  #holdSpace(pointer) {
    addEventListener("keydown", (event) => {
      const isMeant = pointer.isInside || document.activeElement === this.stage.canvas;
      const isText = document.activeElement?.matches("input[type=number], textarea, #dense, #key");
      if (event.key !== " " || !isMeant || isText) return;
      event.preventDefault(); // the page would scroll, or the last button be pressed
      pointer.isSpaceHeld = true;
      pointer.showCursor();
    });
    addEventListener("keyup", (event) => {
      if (event.key !== " " || !pointer.isSpaceHeld) return;
      event.preventDefault();
      pointer.isSpaceHeld = false;
      pointer.showCursor();
    });
    addEventListener("blur", () => (pointer.isSpaceHeld = false));
  }
}
