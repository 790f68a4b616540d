/** Messages: what the page waits for, short notices, and the question for a key. */

import { h, iconButton } from "../core/dom.js";

const SHORT_MS = 6000;
const WAITS = {
  "queue-full": "The service is busy.",
  "rate-limited": "The rate limit is reached.",
  "not-ready": "The service is not ready.",
  unreachable: "",
};

/** Shows what requests wait for, with a countdown. There is one line for all of them. */
export class WaitLine {
  constructor(element) {
    this.element = element;
    this.waits = new Set();
    this.timer = 0;
  }

  /** Reports that a request waits `seconds`. Returns the function that ends it. */
  add(error, seconds) {
    const wait = { error, until: performance.now() + seconds * 1000 };
    this.waits.add(wait);
    this.#update();
    return () => {
      this.waits.delete(wait);
      // The repeated request may be refused as well; hiding the line at once would make it flicker.
      setTimeout(() => this.#update(), 400);
    };
  }

  #update() {
    clearTimeout(this.timer);
    const newest = [...this.waits].sort((a, b) => a.until - b.until).at(-1);
    this.element.hidden = !newest;
    if (!newest) {
      this.element.replaceChildren();
      return;
    }
    const left = Math.max(1, Math.ceil((newest.until - performance.now()) / 1000));
    const title = WAITS[newest.error.kind] ?? "The service is busy.";
    const text = `${title} ${sentence(newest.error.message)}`.trim();
    let [message, countdown] = this.element.children;
    if (!message) {
      message = h("span", { role: "status", class: "wait-message" });
      // Without a live region, or every second would be announced.
      countdown = h("span", { class: "wait-countdown" });
      this.element.append(message, countdown);
    }
    if (message.dataset.text !== text) {
      message.dataset.text = text;
      message.textContent = text;
    }
    countdown.textContent = `Trying again in ${left} s.`;
    this.timer = setTimeout(() => this.#update(), 500);
  }
}

/** Returns a message of the service as a sentence. */
export function sentence(text) {
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(start) ? start : `${start}.`;
}

/** Shows short notices; errors stay until they are closed. */
export class Notices {
  constructor(element) {
    this.element = element;
  }

  /** Shows a message, with an optional `action: {label, run}`. */
  show(text, kind = "info", action = null) {
    for (const same of [...this.element.children]) {
      if (same.dataset.text === text || same.dataset.kind === "info") same.remove();
    }
    const close = iconButton("close", "Close", () => notice.remove(), { quiet: true });
    const run = () => {
      notice.remove();
      action.run();
    };
    const button = action && h("button", { class: "button", onclick: run }, action.label);
    const notice = h(
      "div",
      { class: `notice notice-${kind}`, role: kind === "error" ? "alert" : "status", dataset: { text, kind } },
      h("span", {}, text),
      button,
      close,
    );
    this.element.append(notice);
    while (this.element.children.length > 3) this.element.firstElementChild.remove();
    if (kind !== "error") setTimeout(() => notice.remove(), SHORT_MS);
  }
}

/** Asks for a key in a dialog. Resolves to the key, or to null if the user closes the dialog. */
export function askForKey(message, isNeeded = true) {
  return new Promise((resolve) => {
    const input = h("input", {
      type: "password",
      id: "key-input",
      autocomplete: "off",
      spellcheck: false,
      placeholder: "gnm_…",
      required: isNeeded,
    });
    const submit = (event) => {
      event.preventDefault();
      close(input.value.trim());
    };
    const dialog = h(
      "dialog",
      { class: "dialog", "aria-labelledby": "key-title" },
      h(
        "form",
        { onsubmit: submit },
        h("h2", { id: "key-title" }, isNeeded ? "This service needs a key" : "API key"),
        h("p", {}, sentence(message)),
        h("label", { htmlFor: "key-input" }, "API key"),
        input,
        h("p", { class: "hint" }, "It is kept in this tab until you close it, and sent to this service only."),
        h(
          "div",
          { class: "dialog-buttons" },
          h("button", { class: "button", onclick: () => close(null) }, "Cancel"),
          h("button", { type: "submit", class: "button button-primary" }, "Use this key"),
        ),
      ),
    );
    const close = (key) => {
      dialog.close();
      dialog.remove();
      resolve(key);
    };
    dialog.addEventListener("cancel", () => close(null));
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
}
