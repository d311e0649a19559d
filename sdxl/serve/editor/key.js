// The server's key: asked for in a dialog, kept as a cookie that only this server gets.

import { byId } from "./dom.js";

const COOKIE = "sige-key"; // as in guard.py
const DAYS = 30;
/** @type {Promise<void> | null} */
let asking = null;

/**
 * Asks for the key, once for all requests that wait for it.
 * @param {boolean} isWrong the one before was refused
 * @returns {Promise<void>}
 */
export function askKey(isWrong) {
  asking ??= ask(isWrong).finally(() => (asking = null));
  return asking;
}

/** @param {boolean} isWrong */
function ask(isWrong) {
  const dialog = byId("key-dialog", HTMLDialogElement);
  const field = byId("key", HTMLInputElement);
  if (isWrong)
    byId("key-why", HTMLParagraphElement).textContent =
      "That key was refused. Look at the command that started the server, and type it again.";
  field.value = "";
  dialog.oncancel = (event) => event.preventDefault(); // without a key nothing works here
  dialog.showModal();
  field.focus();
  return /** @type {Promise<void>} */ (
    new Promise((resolve) => {
      dialog.onclose = () => {
        const secure = location.protocol === "https:" ? "; Secure" : "";
        document.cookie = `${COOKIE}=${quoted(field.value)}; Path=/; SameSite=Strict; Max-Age=${DAYS * 86400}${secure}`;
        resolve();
      };
    })
  );
}

/**
 * The value as cookies can hold it: signs that end a cookie are written as numbers.
 * @param {string} value
 */
function quoted(value) {
  const plain = /^[\w!#$%&'*+.^`|~-]*$/.test(value);
  const escaped = value.replace(
    /[^\w!#$%&'*+.^`|~ -]/g,
    (sign) => `\\${sign.charCodeAt(0).toString(8).padStart(3, "0")}`,
  );
  return plain ? value : `"${escaped}"`;
}
