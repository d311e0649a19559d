// The mask outlives a reload of the page, as the session does.

import { make } from "./dom.js";

/** @import { Painter } from "./painter.js" */

const REMEMBERED = "sige-mask"; // of this tab
const WAIT = 500; // milliseconds after a stroke

/**
 * Keeps the mask after each stroke. The function that comes back is called when a session's picture is shown first: it
 * brings back the mask that was painted on it.
 * @param {Painter} painter
 * @returns {(session: string) => void}
 */
export function keeper(painter) {
  let session = "";
  let timer = 0;
  const keep = () => {
    try {
      sessionStorage.setItem(
        REMEMBERED,
        JSON.stringify({ session, mask: painter.mask.isEmpty ? "" : painter.mask.canvas.toDataURL() }),
      );
    } catch {
      sessionStorage.removeItem(REMEMBERED); // too large for the browser: a reload loses it
    }
  };
  painter.mask.addEventListener("change", () => {
    clearTimeout(timer);
    if (session) timer = setTimeout(keep, WAIT);
  });
  return (shown) => {
    session = shown;
    clearTimeout(timer);
    const kept = JSON.parse(sessionStorage.getItem(REMEMBERED) ?? "{}");
    if (kept.session !== session || !kept.mask) return;
    const image = make("img", { src: kept.mask });
    image.onload = () => session === shown && painter.mask.change((context) => context.drawImage(image, 0, 0));
  };
}
