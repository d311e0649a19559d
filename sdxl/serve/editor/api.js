// Requests to the server, and its errors as sentences that say what to do.

/** @typedef {{height: number, width: number, share: number, bits: string}} Level */
/** @typedef {{id: string, picture: string, seed: number}} Staged */
/**
 * @typedef {{id: string, current: string, entries: string[], at: number, undo: number, redo: number,
 *   staged: Staged[]}} Facts
 */
/**
 * @typedef {{model: string, steps: number, guidance_scale: number, strength: {mask: number, painted: number},
 *   most_pictures: number}} Defaults
 */
/**
 * @typedef {{id: string, picture: string, seed: number, seconds: number, steps: number, computed: number,
 *   passes: Record<string, number>, levels: Level[]}} Result
 */

/** An answer that is not what was asked for. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {number} status 0 where no answer came
   * @param {string} code
   * @param {number} [seconds] after which to try again
   */
  constructor(message, status, code, seconds) {
    super(message);
    this.status = status;
    this.code = code;
    this.seconds = seconds;
  }
}

/** Sends requests; where the server wants a key, it asks for one and sends the request again. */
export class Api {
  /** @param {(isWrong: boolean) => Promise<void>} askKey */
  constructor(askKey) {
    this.askKey = askKey;
  }

  /**
   * The answer, whatever its kind.
   * @param {string} path
   * @param {RequestInit} [init]
   * @returns {Promise<Response>}
   */
  async fetch(path, init = {}) {
    for (let tries = 0; ; tries++) {
      const answer = await this.#send(path, init);
      if (answer.ok) return answer;
      if (answer.status !== 401) throw await errorOf(answer);
      await this.askKey(tries > 0);
    }
  }

  /**
   * The answer as JSON.
   * @param {string} path
   * @param {RequestInit} [init]
   * @returns {Promise<any>}
   */
  async json(path, init) {
    return (await this.fetch(path, init)).json();
  }

  /**
   * Posts a form, or nothing, and returns the answer as JSON.
   * @param {string} path
   * @param {FormData} [body]
   * @returns {Promise<any>}
   */
  async post(path, body) {
    return this.json(path, { method: "POST", body });
  }

  /**
   * @param {string} path
   * @param {RequestInit} init
   */
  async #send(path, init) {
    try {
      /** @type {Record<string, string>} */
      const headers = { "X-Requested-With": "XMLHttpRequest" }; // or a 401 would open the browser's own dialog
      const session = /^\/v1\/sessions\/([0-9a-f]+)/.exec(path);
      if (session) headers["X-Session-Id"] = session[1]; // a cluster sends it to the replica with the recordings
      return await fetch(path, { ...init, headers });
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") throw error;
      throw new ApiError(
        "The server does not answer. Look whether sige-serve still runs, then try again.",
        0,
        "unreachable",
      );
    }
  }
}

/** @param {Response} answer */
async function errorOf(answer) {
  const seconds = Number(answer.headers.get("Retry-After")) || undefined;
  try {
    const { error } = await answer.json();
    return new ApiError(sentence(error.message), answer.status, error.code, seconds);
  } catch {
    return new ApiError(`The server answered with ${answer.status}. Try again.`, answer.status, "unknown", seconds);
  }
}

/**
 * The server's message with a capital and a full stop.
 * @param {string} message
 * @returns {string}
 */
export function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
