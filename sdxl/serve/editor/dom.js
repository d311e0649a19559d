// The page's elements, by their kind.

/**
 * The element of that id; an error names what the page lacks.
 * @template {Element} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function byId(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`#${id}: expected a ${kind.name} in the page`);
  return found;
}

/**
 * A new element with some of its properties, and what is in it.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Partial<HTMLElementTagNameMap[K]>} [properties]
 * @param {(Node | string)[]} inside
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, properties = {}, ...inside) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inside);
  return element;
}

/**
 * Calls the function when the button of that id is pressed.
 * @param {string} id
 * @param {() => unknown} act
 */
export function onPress(id, act) {
  byId(id, HTMLButtonElement).addEventListener("click", () => void act());
}

/**
 * A canvas in memory, and its context. Its pixels are read often, so they stay out of the graphics card.
 * @param {number} width
 * @param {number} height
 * @returns {CanvasRenderingContext2D}
 */
export function drawing(width, height) {
  const canvas = make("canvas", { width, height });
  return contextOf(canvas, true);
}

/**
 * The 2D context of a canvas.
 * @param {HTMLCanvasElement} canvas
 * @param {boolean} [isRead] its pixels are read often
 * @returns {CanvasRenderingContext2D}
 */
export function contextOf(canvas, isRead = false) {
  const context = canvas.getContext("2d", { willReadFrequently: isRead });
  if (!context) throw new Error("this browser has no canvas: take a newer one");
  return context;
}

/**
 * The canvas as a PNG.
 * @param {HTMLCanvasElement} canvas
 * @returns {Promise<Blob>}
 */
export function pngOf(canvas) {
  return new Promise((resolve, reject) => {
    canvas.toBlob(
      (blob) => (blob ? resolve(blob) : reject(new Error("the picture is too large for this browser"))),
      "image/png",
    );
  });
}
