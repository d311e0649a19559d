// What is done with a whole mask. A mask is a layer whose opacity says how much of each pixel is painted anew.

import { drawing, pngOf } from "./dom.js";

/** @import { Layer } from "./layer.js" */

export const MASK_COLOUR = "#a020f0"; // of the layer: few pictures have it; only its opacity counts
const [RED, GREEN, BLUE] = [0xa0, 0x20, 0xf0];
const SMALLEST_DIFFERENCE = 8; // of 255: what JPEG changes in a picture that looks the same

/**
 * Takes everything away.
 * @param {Layer} layer
 */
export function clear(layer) {
  return layer.change((context) => context.clearRect(0, 0, layer.canvas.width, layer.canvas.height));
}

/**
 * Masks what is not masked, and the other way round.
 * @param {Layer} layer
 */
export function invert(layer) {
  return reshape(layer, (alpha) => alpha.map((value) => 255 - value));
}

/**
 * Grows the mask by that many pixels to every side, diagonals included, as the server's `grow` does.
 * @param {Layer} layer
 * @param {number} by
 */
export function grow(layer, by) {
  return reshape(layer, (alpha, width, height) => {
    const wide = largestNear(alpha, height, width, width, 1, by);
    return largestNear(wide, width, height, 1, width, by);
  });
}

/**
 * The mask as the server takes it: a PNG, white on black.
 * @param {Layer} layer
 * @returns {Promise<Blob>}
 */
export function maskFile(layer) {
  const { width, height } = layer.canvas;
  const image = layer.context.getImageData(0, 0, width, height);
  for (let at = 0; at < image.data.length; at += 4) {
    image.data.fill(image.data[at + 3], at, at + 3);
    image.data[at + 3] = 255;
  }
  const context = drawing(width, height);
  context.putImageData(image, 0, 0);
  return pngOf(context.canvas);
}

/**
 * Takes a mask from a picture of the same size: what is transparent in it, else what is white.
 * @param {Layer} layer
 * @param {ImageBitmap} picture
 */
export function importMask(layer, picture) {
  const image = pixelsOf(picture, layer);
  let hasHoles = false;
  for (let at = 3; at < image.length && !hasHoles; at += 4) hasHoles = image[at] < 255;
  return reshape(layer, (alpha) =>
    alpha.map((_, at) => {
      const [red, green, blue, opacity] = image.subarray(4 * at, 4 * at + 4);
      return hasHoles ? 255 - opacity : Math.round(0.299 * red + 0.587 * green + 0.114 * blue);
    }),
  );
}

/**
 * Masks the pixels where two pictures of the layer's size differ.
 * @param {Layer} layer
 * @param {ImageBitmap} one
 * @param {ImageBitmap} other
 */
export function maskDifference(layer, one, other) {
  const [before, after] = [pixelsOf(one, layer), pixelsOf(other, layer)];
  return reshape(layer, (alpha) =>
    alpha.map((_, at) => {
      for (let channel = 4 * at; channel < 4 * at + 3; channel++) {
        if (Math.abs(before[channel] - after[channel]) > SMALLEST_DIFFERENCE) return 255;
      }
      return 0;
    }),
  );
}

/**
 * @param {ImageBitmap} picture
 * @param {Layer} layer
 */
function pixelsOf(picture, layer) {
  const { width, height } = layer.canvas;
  if (picture.width !== width || picture.height !== height) {
    const sizes = `${picture.width} × ${picture.height}, and the picture ${width} × ${height}`;
    throw new Error(`That file is ${sizes}. Resize it to the picture's size, then try again.`);
  }
  const context = drawing(width, height);
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, width, height).data;
}

/**
 * @param {Layer} layer
 * @param {(alpha: Uint8Array, width: number, height: number) => Uint8Array} shape
 */
function reshape(layer, shape) {
  const { width, height } = layer.canvas;
  return layer.change((context) => {
    const image = context.getImageData(0, 0, width, height);
    const alpha = shape(
      new Uint8Array(width * height).map((_, at) => image.data[4 * at + 3]),
      width,
      height,
    );
    alpha.forEach((value, at) => image.data.set([RED, GREEN, BLUE, value], 4 * at));
    context.putImageData(image, 0, 0);
  });
}

/**
 * The largest value at most `by` places away, along lines of values.
 * @param {Uint8Array} values
 * @param {number} lines
 * @param {number} length
 * @param {number} line from a line to the next
 * @param {number} step from a value to the next in its line
 * @param {number} by
 */
function largestNear(values, lines, length, line, step, by) {
  const largest = new Uint8Array(values.length);
  for (let start = 0, left = lines; left > 0; left--, start += line) {
    const queue = []; // places whose values fall: the first one is the largest of the window
    for (let at = 0; at < length + by; at++) {
      if (at < length) {
        while (queue.length && values[start + queue[queue.length - 1] * step] <= values[start + at * step]) queue.pop();
        queue.push(at);
      }
      if (queue[0] < at - 2 * by) queue.shift();
      if (at >= by) largest[start + (at - by) * step] = values[start + queue[0] * step];
    }
  }
  return largest;
}
