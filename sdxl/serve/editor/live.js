// Live mode: an edit follows the strokes, once none has come for a moment.

const WAIT = 250; // milliseconds

/**
 * A function that calls `act` once it has not been called for a moment.
 * @param {() => unknown} act
 * @returns {() => void}
 */
export function afterStrokes(act) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, WAIT);
  };
}
