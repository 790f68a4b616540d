/**
 * Tiles: the images of items. A click keeps the image, a drag combines it with another, and the
 * keyboard does both. All listeners are on the document, so a tile is only a few elements.
 */

import { h, icon, imageUrl } from "../core/dom.js";
import { isAbort } from "../core/api.js";
import { WALK, labelOf, modelOf, render, stillOf } from "../core/items.js";

const items = new WeakMap();
const blobs = new WeakMap();

/** Returns the item that a tile shows, for the tile or an element in it. */
export function tileItem(element) {
  return items.get(element?.closest(".tile"));
}

/** Returns the file that a tile shows, if it has arrived. */
export function tileBlob(element) {
  return blobs.get(element?.closest(".tile"));
}

/**
 * Returns a tile for `item`. Without `blob`, the image is requested when the tile is visible, unless
 * `lazy` is false: then the caller sets it.
 */
export function createTile(app, item, blob, { lazy = true } = {}) {
  const element = h(
    "div",
    { class: "tile" },
    h(
      "button",
      { class: "tile-image", draggable: true, tabIndex: -1 },
      h("img", { alt: "", draggable: false, decoding: "async" }),
      h("span", { class: "tile-mark" }, icon("heart")),
      h("span", { class: "tile-caption" }),
    ),
    h("button", { class: "tile-more", tabIndex: -1 }, icon("more")),
  );
  setItem(app, element, item);
  if (blob) setBlob(element, blob);
  else if (lazy) requestWhenVisible(app, element);
  return element;
}

/** Makes a tile show another item. Its image stays until `setBlob`. */
export function setItem(app, element, item) {
  items.set(element, item);
  const [image, more] = element.children;
  const label = labelOf(item);
  const model = app.model(modelOf(item).name);
  const { width, height } = model?.image ?? { width: 1, height: 1 };
  element.classList.toggle("is-small", Math.max(width, height) <= 128);
  // The unit of enlargement: each pixel of the image takes whole pixels of the screen.
  const density = Math.max(1, Math.round(devicePixelRatio));
  element.style.setProperty("--image-width", `${width / density}px`);
  element.style.setProperty("--image-height", `${height / density}px`);
  element.classList.toggle("is-walk", item.path === WALK && item.frame === undefined);
  image.setAttribute("aria-label", `${modelOf(item).name}, ${label}`);
  image.setAttribute("aria-pressed", String(app.isKept(item)));
  image.setAttribute("aria-keyshortcuts", "I M");
  image.querySelector(".tile-caption").textContent = shortLabel(item, label);
  more.setAttribute("aria-label", `Details of ${label}`);
  more.title = "Details (I)";
}

function shortLabel({ body }, label) {
  if (body.prompt) return `${body.seed} ${body.prompt}`;
  return Number.isInteger(body.seed) ? String(body.seed) : label;
}

/** Shows a file in a tile. */
export function setBlob(element, blob) {
  blobs.set(element, blob);
  element.classList.add("is-loaded");
  element.classList.remove("is-failed");
  imageUrl(element.querySelector("img"), blob);
}

let observer = null;

function requestWhenVisible(app, element) {
  observer ??= new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        observer.unobserve(target);
        request(app, target);
      }
    },
    { rootMargin: "300px" },
  );
  observer.observe(element);
}

async function request(app, element) {
  const item = items.get(element);
  try {
    const blob = await render(app.api, stillOf(item));
    if (items.get(element) === item && element.isConnected) setBlob(element, blob);
  } catch (error) {
    if (isAbort(error)) return;
    element.classList.add("is-failed");
    element.title = error.message;
    element.querySelector(".tile-caption").textContent = error.message;
  }
}

/** The buttons of the tiles of a group, without those of groups inside of it. */
function buttonsOf(group) {
  return [...group.querySelectorAll(".tile-image")].filter((each) => each.closest(".tiles") === group);
}

/** Makes one tile of a group reachable with Tab; the arrow keys lead to the others. */
export function ensureTabStop(group) {
  const buttons = buttonsOf(group);
  if (buttons.length && !buttons.some((button) => button.tabIndex === 0)) buttons[0].tabIndex = 0;
}

/** Installs the listeners for all tiles of the document. */
export function installTiles(app) {
  app.kept.addEventListener("change", () => {
    for (const button of document.querySelectorAll(".tile-image")) {
      button.setAttribute("aria-pressed", String(app.isKept(tileItem(button))));
    }
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.(".tile button");
    if (!button) return;
    const item = tileItem(button);
    if (button.matches(".tile-more")) app.show(item, shown(button), { focus: true });
    else toggle(app, item, button);
  });
  document.addEventListener("keydown", (event) => {
    const button = event.target.closest?.(".tile-image");
    if (!button || event.ctrlKey || event.metaKey || event.altKey) return;
    if (handleKey(app, event.key, button)) event.preventDefault();
  });
  document.addEventListener("focusin", (event) => {
    const button = event.target.closest?.(".tile-image");
    const group = button?.closest(".tiles");
    if (!group || button.tabIndex === 0) return;
    for (const each of buttonsOf(group)) each.tabIndex = -1;
    button.tabIndex = 0;
  });
}

/** The file of a tile, unless the tile shows a still of what is animated. */
function shown(button) {
  const item = tileItem(button);
  return stillOf(item) === item ? tileBlob(button) : null;
}

function toggle(app, item, button) {
  if (app.isKept(item)) app.discard(item);
  else app.keep(item);
  app.show(item, shown(button));
}

/** Returns whether a key did something. */
function handleKey(app, key, button) {
  const item = tileItem(button);
  switch (key) {
    case "i":
    case "I":
      app.show(item, shown(button), { focus: true });
      return true;
    case "m":
    case "M":
      app.pick.toggle(button);
      return true;
    case "ArrowLeft":
    case "ArrowRight":
    case "ArrowUp":
    case "ArrowDown":
    case "Home":
    case "End": {
      const group = button.closest(".tiles");
      const next = group && neighbor(buttonsOf(group), button, key);
      next?.focus();
      return Boolean(next);
    }
    default:
      return false;
  }
}

/** Returns the tile in the direction of a key, or undefined. */
function neighbor(buttons, button, key) {
  const at = buttons.indexOf(button);
  if (key === "Home") return buttons[0];
  if (key === "End") return buttons.at(-1);
  if (key === "ArrowLeft") return buttons[at - 1];
  if (key === "ArrowRight") return buttons[at + 1];
  const boxOf = (each) => each.closest(".tile").getBoundingClientRect();
  const from = boxOf(button);
  const step = key === "ArrowDown" ? 1 : -1;
  let best;
  for (let i = at + step; buttons[i]; i += step) {
    const box = boxOf(buttons[i]);
    if (Math.abs(box.top - from.top) < 2) continue;
    if (best && Math.abs(box.top - best.top) > 2) break;
    const distance = Math.abs(box.left - from.left);
    if (!best || distance < best.distance) best = { button: buttons[i], top: box.top, distance };
  }
  return best?.button;
}
