// The picture that is edited: opened from a file or an example, downloaded with the settings that made it.

import { chooseFile, saveFile } from "./files.js";
import { settingsIn } from "./metadata.js";
import { complain, note } from "./toasts.js";

/** @import { Session } from "./session.js" */
/** @import { Settings, Values } from "./settings.js" */
/** @import { Painter } from "./painter.js" */
/** @import { Stage } from "./stage.js" */
/** @import { Strips } from "./strips.js" */

/** @type {Record<string, keyof Values>} our names in a picture's settings -> the panel's */
const READ = {
  prompt: "prompt",
  negative_prompt: "negative",
  seed: "seed",
  steps: "steps",
  scale: "guidance",
  strength: "strength",
};

/** Opens and saves pictures. */
export class Picture {
  /**
   * @param {Session} session
   * @param {Settings} settings
   * @param {Painter} painter
   * @param {Stage} stage
   * @param {Strips} strips
   */
  constructor(session, settings, painter, stage, strips) {
    this.session = session;
    this.settings = settings;
    this.painter = painter;
    this.stage = stage;
    this.strips = strips;
  }

  /** Lets the user choose a file, and opens it. */
  async choose() {
    const file = await chooseFile();
    if (file) await this.open(file);
  }

  /**
   * Begins with a picture; what was painted over the one before goes.
   * @param {Blob} file
   */
  async open(file) {
    try {
      await this.session.begin(file);
      this.#offer(await settingsIn(file));
    } catch (error) {
      complain(error);
    }
  }

  /** Opens a drawing of ours, and says what to make of it. */
  async openExample() {
    try {
      const { b64_json, prompt } = await this.session.api.json("/v1/example");
      const bytes = Uint8Array.from(atob(b64_json), (sign) => sign.charCodeAt(0));
      await this.open(new Blob([bytes], { type: "image/png" }));
      this.settings.set("prompt", prompt);
    } catch (error) {
      complain(error);
    }
  }

  /** Saves the chosen result, or the session's picture, as the server's file. */
  async download() {
    const facts = this.session.facts;
    if (!facts) return;
    const chosen = facts.staged.find((one) => one.id === this.strips.chosen);
    try {
      const name = chosen?.picture ?? facts.current;
      saveFile(await this.session.file(name), `sige-${name.slice(0, 8)}.png`);
    } catch (error) {
      complain(error);
    }
  }

  /** @param {Record<string, unknown> | null} said */
  #offer(said) {
    if (!said) return;
    const take = () => {
      for (const [theirs, ours] of Object.entries(READ)) {
        if (["string", "number"].includes(typeof said[theirs])) this.settings.set(ours, String(said[theirs]));
      }
    };
    note("This picture carries the settings that made it.", { label: "Use them", act: take });
  }
}
