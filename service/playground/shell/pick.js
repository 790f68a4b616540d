/**
 * Combines two images: by drag and drop, or by picking one up and choosing the other.
 *
 * Picking up (the key M, or "Combine with…" in the details) is the equivalent for keyboards and
 * touch screens. Where an image can be dropped, a click drops the image that is picked up.
 */

import { h, iconButton } from "../core/dom.js";
import { absoluteUrl } from "../core/api.js";
import { addressOf, labelOf, validItem } from "../core/items.js";
import { tileItem } from "./tiles.js";

const TYPE = "application/x-ganymede-item";
const zones = new WeakMap();

/**
 * Lets items be dropped on `element`, or put down there with a click or the key M. `onItem(item)`
 * receives them. With `hasTargets`, the tiles in it are targets of their own.
 */
export function dropZone(element, onItem, { hasTargets = false } = {}) {
  zones.set(element, { onItem, hasTargets });
  element.classList.add("drop-zone");
  return element;
}

export class Pick {
  /** `combine(first, second)` is called for an item that is dropped on another. */
  constructor({ combine }) {
    this.combine = combine;
    this.item = null;
    this.bar = h("div", { class: "pick-bar", hidden: true });
    document.body.append(this.bar);
    document.addEventListener("dragstart", (event) => this.#dragStart(event));
    document.addEventListener("dragover", (event) => this.#dragOver(event));
    document.addEventListener("dragleave", (event) => unmark(event.target));
    document.addEventListener("dragend", () => this.#endDrag());
    document.addEventListener("drop", (event) => this.#drop(event));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.item) this.put();
    });
    // Before the listeners of tiles and buttons, which then do nothing.
    document.addEventListener("click", (event) => this.#click(event), true);
  }

  /** Picks up the item of a tile, or puts down there what is picked up. */
  toggle(tile) {
    if (this.item) this.#putOn(target(tile));
    else this.take(tileItem(tile));
  }

  /** Picks an item up. */
  take(item) {
    this.item = item;
    document.body.classList.add("is-picking");
    const text = `Picked up ${labelOf(item)}. Choose another image to combine it with.`;
    const cancel = iconButton("close", "Put it down", () => this.put());
    this.bar.replaceChildren(h("span", { role: "status" }, text), cancel);
    this.bar.hidden = false;
  }

  /** Puts down what is picked up. */
  put() {
    this.item = null;
    this.bar.hidden = true;
    document.body.classList.remove("is-picking");
  }

  #click(event) {
    const found = target(event.target);
    if (!this.item || !found.element) return;
    event.preventDefault();
    event.stopPropagation();
    this.#putOn(found);
  }

  #putOn({ item, zone }) {
    const picked = this.item;
    this.put();
    if (zone) zone(picked);
    else if (picked !== item) this.combine(picked, item);
  }

  #dragStart(event) {
    const item = tileItem(event.target.closest?.(".tile-image"));
    if (!item) return;
    this.dragged = item;
    const { dataTransfer } = event;
    dataTransfer.effectAllowed = "copyLink";
    dataTransfer.setData(TYPE, JSON.stringify(item));
    const address = addressOf(item);
    if (address) dataTransfer.setData("text/uri-list", absoluteUrl(address));
    const image = event.target.querySelector("img");
    dataTransfer.setDragImage(image, image.width / 2, image.height / 2);
    // A change of the layout in the handler itself would end the drag in Chromium.
    setTimeout(() => document.body.classList.add("is-dragging"));
  }

  #dragOver(event) {
    if (!event.dataTransfer.types.includes(TYPE)) return;
    const { element, item, zone } = target(event.target);
    if (!zone && (!item || item === this.dragged)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    element.classList.add("is-target");
  }

  #drop(event) {
    const text = event.dataTransfer.getData(TYPE);
    if (!text) return;
    const { item, zone } = target(event.target);
    unmark(event.target);
    if (!zone && !item) return;
    event.preventDefault();
    const dropped = JSON.parse(text);
    this.#endDrag();
    if (!validItem(dropped)) return;
    if (zone) zone(dropped);
    else this.combine(dropped, item);
  }

  #endDrag() {
    this.dragged = null;
    document.body.classList.remove("is-dragging");
    for (const element of document.querySelectorAll(".is-target")) {
      element.classList.remove("is-target");
    }
  }
}

/** Returns what an image can be dropped on at an element: a zone, or a tile with its item. */
function target(element) {
  const zone = element.closest?.(".drop-zone");
  const tile = element.closest?.(".tile");
  const { onItem, hasTargets } = zones.get(zone) ?? {};
  if (tile && (!zone || hasTargets)) return { element: tile, item: tileItem(tile) };
  return zone ? { element: zone, zone: onItem } : {};
}

function unmark(element) {
  target(element).element?.classList.remove("is-target");
}
