// The settings that a PNG carries: the server writes them into every result, and so does the command line.

const KEY = "sige";
const HEADER = 8; // bytes before the first chunk
const MOST = 1_000_000; // bytes of a text

/**
 * The settings in a PNG that we wrote; null where it has none.
 * @param {Blob} file
 * @returns {Promise<Record<string, unknown> | null>}
 */
export async function settingsIn(file) {
  const bytes = new DataView(await file.arrayBuffer());
  if (bytes.byteLength < HEADER || bytes.getUint32(0) !== 0x89504e47) return null;
  for (let at = HEADER; at + 12 <= bytes.byteLength;) {
    const [length, kind] = [bytes.getUint32(at), asText(bytes, at + 4, 4)];
    if (kind === "IDAT" || at + 12 + length > bytes.byteLength) return null; // texts come before the pixels
    const text = kind === "tEXt" && length < MOST ? asText(bytes, at + 8, length) : "";
    if (text.startsWith(`${KEY}\0`)) return parsed(text.slice(KEY.length + 1));
    at += 12 + length;
  }
  return null;
}

/**
 * @param {DataView} bytes
 * @param {number} start
 * @param {number} length
 */
function asText(bytes, start, length) {
  return new TextDecoder("latin1").decode(new Uint8Array(bytes.buffer, start, length));
}

/** @param {string} text */
function parsed(text) {
  try {
    const said = JSON.parse(text);
    return said && typeof said === "object" ? said : null;
  } catch {
    return null;
  }
}
