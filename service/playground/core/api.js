/**
 * Requests to the service.
 *
 * A busy service is retried as its `Retry-After` says, a key is asked for when one is needed, and
 * every other failure becomes an `ApiError` with the message of the problem document.
 */

const ATTEMPTS = 6;
/** A longer wait is an error that the user decides about. */
const LONGEST_WAIT_S = 90;
const KEY = "ganymede.key";

/** A failed request: `status` (0 without a response), `kind`, `message`, and invalid `fields`. */
export class ApiError extends Error {
  constructor(message, { status = 0, kind = "", fields = [], retryAfter } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.kind = kind;
    this.fields = fields;
    /** Seconds after which the request may succeed, if the service said so. */
    this.retryAfter = retryAfter;
  }
}

/** Returns the absolute URL of a path such as `/v1/models`, also behind a proxy with a prefix. */
export function absoluteUrl(path) {
  return new URL(path.replace(/^\//, ""), document.baseURI).href;
}

/** Whether an error only says that the request was superseded. */
export function isAbort(error) {
  return error?.name === "AbortError";
}

export class Api {
  /**
   * `onWait(error, seconds)` reports that a request waits, and returns a function to call when it
   * no longer does. `askForKey(message)` resolves to a key, or to null if the user gives none.
   */
  constructor({ onWait, askForKey }) {
    this.onWait = onWait;
    this.askForKey = askForKey;
    this.key = sessionStorage.getItem(KEY);
    this.asking = null;
    this.declined = false;
  }

  /** Sets the key for this tab; null forgets it. */
  setKey(key) {
    this.key = key || null;
    this.declined = false;
    if (this.key) sessionStorage.setItem(KEY, this.key);
    else sessionStorage.removeItem(KEY);
  }

  /** Sends JSON or a FormData (POST; GET without a body) and returns the parsed JSON. */
  async json(path, body, options) {
    return (await this.request(path, body, { accept: "application/json", ...options })).json();
  }

  /** The same for a response that is a file. */
  async blob(path, body, options) {
    return (await this.request(path, body, options)).blob();
  }

  /** The same for a response that is binary data. */
  async buffer(path, body, options) {
    return (await this.request(path, body, options)).arrayBuffer();
  }

  /** The same for JSON with images in base64: each gets its file as `blob`. */
  async images(path, body, options) {
    const { images } = await this.json(path, body, options);
    return images.map((image) => ({ ...image, blob: fromBase64(image.data, image.media_type) }));
  }

  /** Returns the response to a request. Rejects with ApiError or AbortError. */
  async request(path, body, { signal, accept } = {}) {
    for (let attempt = 1; ; attempt += 1) {
      const key = this.key;
      const { response, error } = await send(absoluteUrl(path), body, { signal, accept, key });
      if (response) return response;
      if (error.status === 401) {
        if (this.key === key) await this.#newKey(error, signal);
        attempt = 0;
      } else {
        if (attempt >= ATTEMPTS || !(error.retryAfter <= LONGEST_WAIT_S)) throw error;
        await this.#wait(error, signal);
      }
    }
  }

  /** Asks for a key once for all requests that need one. Rejects with `error` without a key. */
  async #newKey(error, signal) {
    if (this.declined) throw error;
    this.asking ??= this.askForKey(error.message).finally(() => {
      this.asking = null;
    });
    const key = await this.asking;
    signal?.throwIfAborted();
    if (key) {
      if (key !== this.key) this.setKey(key);
    } else {
      this.declined = true;
      throw error;
    }
  }

  async #wait(error, signal) {
    // Requests that were refused together do not come back together.
    const seconds = error.retryAfter * (1 + 0.3 * Math.random());
    const done = this.onWait(error, seconds);
    try {
      await sleep(seconds * 1000, signal);
    } finally {
      done();
    }
  }
}

/** Sends one request and returns its `response`, or the `error`. */
async function send(url, body, { signal, accept, key }) {
  const headers = {};
  if (accept) headers.accept = accept;
  if (key) headers.authorization = `Bearer ${key}`;
  const isForm = body instanceof FormData;
  if (body && !isForm) headers["content-type"] = "application/json";
  const content = body && !isForm ? JSON.stringify(body) : body;
  let response;
  try {
    response = await fetch(url, { method: body ? "POST" : "GET", headers, body: content, signal });
  } catch (error) {
    if (isAbort(error)) throw error;
    const message = "The service does not answer. It may be starting, or stopped.";
    return { error: new ApiError(message, { kind: "unreachable", retryAfter: 3 }) };
  }
  return response.ok ? { response } : { error: await problem(response) };
}

/** Returns the error that a response describes. */
async function problem(response) {
  const { status } = response;
  const retryAfter = retrySeconds(response.headers.get("retry-after"), status);
  let document = {};
  try {
    document = await response.json();
  } catch {
    // A proxy in front of the service answers with HTML.
  }
  return problemError(document, { status, retryAfter });
}

/** Returns the error that a problem document describes. */
export function problemError(document, { status = document.status, retryAfter } = {}) {
  const kind = String(document.type ?? "").split(":").pop();
  const message = document.detail || document.title || `The service answered with status ${status}.`;
  return new ApiError(message, { status, kind, fields: document.errors ?? [], retryAfter });
}

/** The seconds of `Retry-After`, if the request is worth repeating. */
function retrySeconds(header, status) {
  if (![429, 502, 503, 504].includes(status) || header === null) return undefined;
  const seconds = Number(header);
  if (Number.isFinite(seconds)) return Math.max(0, seconds);
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, (date - Date.now()) / 1000);
}

/** Resolves after a time; rejects with AbortError if `signal` is aborted. */
export function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

export function fromBase64(text, type) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i += 1) bytes[i] = binary.charCodeAt(i);
  return new Blob([bytes], { type });
}
