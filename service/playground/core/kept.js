/** The kept items, in the order in which they were kept. They survive a reload, in localStorage. */

import { keyOf, validItem } from "./items.js";

const STORAGE = "ganymede.kept";
const MOST = 500;

export class Kept extends EventTarget {
  #keys = new Set();

  constructor() {
    super();
    this.#set(read());
    // Another tab has kept or removed something.
    addEventListener("storage", (event) => {
      if (event.key !== STORAGE) return;
      this.#set(read());
      this.#changed();
    });
  }

  /** Whether an equal item is kept. */
  has(item) {
    return this.#keys.has(keyOf(item));
  }

  /** Keeps an item. Returns false if it is kept already, or if no more fit. */
  add(item) {
    if (this.has(item) || this.items.length >= MOST) return false;
    const { path, body, frame } = item;
    this.#replace([...this.items, frame === undefined ? { path, body } : { path, body, frame }]);
    return true;
  }

  /** Removes an item. */
  remove(item) {
    const key = keyOf(item);
    this.#replace(this.items.filter((each) => keyOf(each) !== key));
  }

  /** Removes all items. */
  clear() {
    this.#replace([]);
  }

  /** Puts `items` back in their order; those that were kept since then follow. */
  restore(items) {
    const keys = new Set(items.map(keyOf));
    const later = this.items.filter((each) => !keys.has(keyOf(each)));
    this.#replace([...items, ...later].slice(0, MOST));
  }

  #set(items) {
    this.items = items;
    this.#keys = new Set(items.map(keyOf));
  }

  #replace(items) {
    this.#set(items);
    try {
      localStorage.setItem(STORAGE, JSON.stringify(items));
    } catch {
      // No storage, or it is full: the items are kept until the page is closed.
      this.dispatchEvent(new Event("unsaved"));
    }
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

function read() {
  try {
    const items = JSON.parse(localStorage.getItem(STORAGE) ?? "[]");
    return Array.isArray(items) ? items.filter(validItem).slice(0, MOST) : [];
  } catch {
    return [];
  }
}
