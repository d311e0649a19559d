// The buttons that act on the whole mask.

import { onPress } from "./dom.js";
import { chooseFile, decoded, saveFile } from "./files.js";
import { clear, grow, importMask, invert, maskDifference, maskFile } from "./mask.js";
import { complain, note } from "./toasts.js";

/** @import { Painter } from "./painter.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Session } from "./session.js" */

/**
 * Wires the buttons.
 * @param {Painter} painter
 * @param {Settings} settings
 * @param {Session} session
 */
export function addMaskButtons(painter, settings, session) {
  onPress("clear", () => clear(painter.layer));
  onPress("invert", () => invert(painter.mask));
  onPress("grow", () => grow(painter.mask, settings.values.growBy));
  onPress("mask-export", async () => saveFile(await maskFile(painter.mask), "mask.png"));
  onPress("mask-import", () => withFile((picture) => importMask(painter.mask, picture)));
  onPress("mask-difference", () =>
    withFile(async (picture) => {
      const current = await session.picture(session.facts?.current ?? "");
      maskDifference(painter.mask, current, picture);
      if (painter.mask.isEmpty) note("The two pictures are the same. Take one in which something was changed.");
    }),
  );
}

/** @param {(picture: ImageBitmap) => unknown} act */
async function withFile(act) {
  try {
    const file = await chooseFile();
    if (file) await act(await decoded(file));
  } catch (error) {
    complain(error);
  }
}
