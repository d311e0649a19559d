// Pictures that come in by a dialog, by dropping and by pasting, and go out as files.

import { byId, make } from "./dom.js";

/**
 * Lets the user choose a picture's file; null where the user chooses none.
 * @returns {Promise<File | null>}
 */
export function chooseFile() {
  const field = byId("file", HTMLInputElement);
  field.value = "";
  return new Promise((resolve) => {
    field.onchange = () => resolve(field.files?.[0] ?? null);
    field.oncancel = () => resolve(null);
    field.click();
  });
}

/**
 * Takes pictures that are dropped or pasted anywhere in the window.
 * @param {HTMLElement} stage shows that a drop is awaited
 * @param {(picture: File) => void} take
 */
export function receiveFiles(stage, take) {
  /** @param {DataTransfer | null} data */
  const first = (data) => [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) stage.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("dropping");
    const file = first(event.dataTransfer);
    if (file) take(file);
  });
  addEventListener("paste", (event) => {
    const file = first(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    take(file);
  });
}

/**
 * Saves a file under a name.
 * @param {Blob} blob
 * @param {string} name
 */
export function saveFile(blob, name) {
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000); // the browser still reads it
}

/**
 * The pixels of a file, as they are in it.
 * @param {Blob} file
 * @returns {Promise<ImageBitmap>}
 */
export async function decoded(file) {
  try {
    return await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("That file is no picture that the browser can read. Take a PNG, a JPEG or a WebP.");
  }
}
