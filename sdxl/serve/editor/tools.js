// What each tool draws on a layer, from the pointer's first point to its last.

/** @typedef {{x: number, y: number}} Point in pixels of the picture */
/** @typedef {{size: number, colour: string, erases: boolean}} Ink */
/** @typedef {{add: (point: Point) => void, end: () => void, outline: () => Point[]}} Stroke */

export const TOOLS = ["brush", "eraser", "rectangle", "lasso", "hand"];

/**
 * Begins a stroke; its outline is what it would fill, and empty where it draws at once.
 * @param {string} tool
 * @param {CanvasRenderingContext2D} context
 * @param {Ink} ink
 * @param {Point} point
 * @returns {Stroke}
 */
export function beginStroke(tool, context, ink, point) {
  if (tool === "rectangle") return rectangle(context, ink, point);
  if (tool === "lasso") return lasso(context, ink, point);
  return brush(context, { ...ink, erases: ink.erases || tool === "eraser" }, point);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Ink} ink
 * @param {Point} first
 * @returns {Stroke}
 */
function brush(context, ink, first) {
  let last = first;
  /** @param {Point} point */
  const add = (point) => {
    withInk(context, ink, () => {
      context.beginPath();
      context.moveTo(last.x, last.y);
      context.lineTo(point.x, point.y);
      context.stroke();
    });
    last = point;
  };
  withInk(context, ink, () => {
    context.beginPath(); // a tap is a dot; a line of no length is nothing, to some browsers
    context.arc(first.x, first.y, ink.size / 2, 0, 2 * Math.PI);
    context.fill();
  });
  return { add, end: () => {}, outline: () => [] };
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Ink} ink
 * @param {Point} first
 * @returns {Stroke}
 */
function rectangle(context, ink, first) {
  let last = first;
  const box = () => {
    const [left, right] = [first.x, last.x].sort(ascending).map(Math.round);
    const [top, bottom] = [first.y, last.y].sort(ascending).map(Math.round);
    return [
      { x: left, y: top },
      { x: right, y: top },
      { x: right, y: bottom },
      { x: left, y: bottom },
    ];
  };
  return {
    add: (point) => void (last = point),
    end: () => fill(context, ink, box()), // whole pixels: its edge is hard
    outline: box,
  };
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Ink} ink
 * @param {Point} first
 * @returns {Stroke}
 */
function lasso(context, ink, first) {
  const points = [first];
  return { add: (point) => void points.push(point), end: () => fill(context, ink, points), outline: () => points };
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Ink} ink
 * @param {Point[]} points
 */
function fill(context, ink, points) {
  withInk(context, ink, () => {
    context.beginPath();
    for (const { x, y } of points) context.lineTo(x, y);
    context.fill();
  });
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Ink} ink
 * @param {() => void} draw
 */
function withInk(context, ink, draw) {
  context.save();
  context.globalCompositeOperation = ink.erases ? "destination-out" : "source-over";
  context.strokeStyle = context.fillStyle = ink.colour;
  context.lineWidth = ink.size;
  context.lineCap = context.lineJoin = "round";
  draw();
  context.restore();
}

/**
 * @param {number} one
 * @param {number} other
 */
function ascending(one, other) {
  return one - other;
}
