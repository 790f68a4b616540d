/**
 * The wall: the images of consecutive seeds, without end.
 *
 * The wall consists of pages of a few rows. A page requests its images when it comes near the
 * window and frees them when it is far away, so that memory stays bounded however far one scrolls.
 */

import { clear, h } from "../core/dom.js";
import { isAbort } from "../core/api.js";
import { GENERATE, MAX_SEED, fullName, generates, present, seedItem } from "../core/items.js";
import { latest } from "../core/latest.js";
import { createTile, ensureTabStop, setBlob, setItem } from "../shell/tiles.js";
import { modelControls } from "./controls.js";
import { rankControl } from "./rank.js";

/** The side of a tile in CSS pixels: from SMALLEST to LARGEST, for a narrow and a wide window. */
const SIDES = { narrow: [80, 124], wide: [96, 152] };
const GAP = 6;
/** The tiles of a page, of small and of large images. */
const PAGE_TILES = [36, 12];
const SMALL_PIXELS = 256 ** 2;
/** Larger requests would delay the first image. */
const REQUEST_PIXELS = 2 ** 20;

export const panel = {
  id: "wall",
  title: "Wall",
  fits: generates,
  mount(container, model, app) {
    const element = h("div", { class: "wall tiles", role: "group", "aria-label": `Images of ${model.name}` });
    const wall = new Wall(app, model, element);
    const controls = modelControls(app, model, () => wall.change());
    if (model.discriminator) {
      controls.hidden = false;
      controls.append(rankControl(app, model, () => wall.change()));
    }
    controls.classList.add("is-sticky");
    container.append(controls, element, wall.sentinel);
    wall.start();
    return () => wall.stop();
  },
};

class Wall {
  constructor(app, model, element) {
    this.app = app;
    this.model = model;
    this.element = element;
    this.sentinel = h("div", { class: "wall-end" });
    this.pages = [];
    this.layout = null;
    this.seed = app.parametersOf(model).seed;
    this.limit = Math.max(1, Math.min(64, Math.floor(REQUEST_PIXELS / pixels(model))));
  }

  start() {
    this.near = new IntersectionObserver((entries) => this.#seen(entries), { rootMargin: "80% 0px" });
    this.end = new IntersectionObserver((entries) => this.#extend(entries), { rootMargin: "150% 0px" });
    this.resize = new ResizeObserver(() => this.#arrange());
    this.#arrange();
    // The observer reports only after the page is drawn; the first images need not wait for that.
    const [first] = this.pages;
    first.isNear = true;
    first.load();
    this.resize.observe(this.element);
    this.end.observe(this.sentinel);
  }

  stop() {
    for (const observer of [this.near, this.end, this.resize]) observer.disconnect();
    for (const page of this.pages) page.load.cancel();
  }

  /** Requests the images again, after a change of the parameters. */
  change() {
    for (const page of this.pages) {
      if (page.isNear) page.load();
      else this.#unload(page);
    }
  }

  /** Computes the layout and, if it has changed, builds the pages again. */
  #arrange() {
    const layout = arrange(this.model, this.element.clientWidth);
    if (JSON.stringify(layout) === JSON.stringify(this.layout)) return;
    const top = this.#firstVisible();
    this.layout = layout;
    for (const page of this.pages) page.load.cancel();
    this.near.disconnect();
    clear(this.element);
    this.pages = [];
    const { style } = this.element;
    style.setProperty("--columns", layout.columns);
    style.setProperty("--tile-width", `${layout.width}px`);
    style.setProperty("--tile-height", `${layout.height}px`);
    style.setProperty("--column-gap", `${layout.gap}px`);
    style.setProperty("--row-gap", `${layout.rowGap}px`);
    do this.#addPage();
    while (this.pages.length * layout.perPage <= top);
    if (top > 0) this.pages.at(-1).element.scrollIntoView();
  }

  /** Returns the index of the first image in the window. */
  #firstVisible() {
    const at = this.pages.findIndex((page) => page.element.getBoundingClientRect().bottom > 0);
    return at < 0 ? 0 : at * this.layout.perPage;
  }

  #addPage() {
    const { perPage, rows, height, rowGap } = this.layout;
    const first = this.pages.length * perPage;
    if (first > MAX_SEED) return;
    const element = h("div", { class: "wall-page" });
    element.style.setProperty("min-block-size", `${rows * (height + rowGap)}px`);
    const page = { element, first, isNear: false, load: null };
    page.load = latest((_, signal) => this.#load(page, signal));
    this.pages.push(page);
    this.element.append(element);
    this.near.observe(element);
  }

  #extend(entries) {
    if (!entries.at(-1).isIntersecting) return;
    this.#addPage();
    // The observer reports changes only: look again, in case the end is still near.
    this.end.unobserve(this.sentinel);
    requestAnimationFrame(() => this.end.observe(this.sentinel));
  }

  #seen(entries) {
    for (const { target, isIntersecting } of entries) {
      const page = this.pages.find(({ element }) => element === target);
      if (!page || page.isNear === isIntersecting) continue;
      page.isNear = isIntersecting;
      if (isIntersecting) page.load();
      else this.#unload(page);
    }
  }

  #unload(page) {
    page.load.cancel();
    if (page.element.contains(document.activeElement)) return;
    clear(page.element);
    ensureTabStop(this.element);
  }

  /** Requests the images of a page, in place of those that it shows. */
  async #load(page, signal) {
    // A copy: the images belong to what is set now, not to what is set when they arrive.
    const parameters = { ...this.app.parametersOf(this.model) };
    // Of as many candidates, one image is kept; `seeds` are the first candidates of the images.
    const candidates = Math.round(1 / (parameters.rank ?? 1));
    const seeds = [];
    for (let i = 0; i < this.layout.perPage; i += 1) {
      const seed = parameters.seed + (page.first + i) * candidates;
      if (seed + candidates - 1 <= MAX_SEED) seeds.push(seed);
    }
    const tiles = this.#prepare(page, seeds, parameters);
    const chunks = [];
    const size = Math.max(1, Math.floor(this.limit / candidates));
    for (let i = 0; i < seeds.length; i += size) chunks.push(i);
    try {
      await Promise.all(
        chunks.map((from) => this.#fill(tiles, seeds, from, Math.min(from + size, seeds.length), parameters, signal)),
      );
      page.element.querySelector(".problem")?.remove();
    } catch (error) {
      if (!isAbort(error)) this.#showError(page, error);
      if (error.kind === "model-failed") this.app.loadModels();
    }
  }

  /** Returns a tile for each seed, with the tiles that the page has as far as possible. */
  #prepare(page, seeds, parameters) {
    const tiles = [...page.element.querySelectorAll(".tile")];
    for (const tile of tiles.splice(seeds.length)) tile.remove();
    seeds.forEach((seed, i) => {
      const item = seedItem(this.model, seed, parameters);
      if (tiles[i]) return;
      const tile = createTile(this.app, item, null, { lazy: false });
      tile.style.setProperty("--order", i % this.layout.columns);
      tiles.push(tile);
      page.element.append(tile);
    });
    ensureTabStop(this.element);
    return tiles;
  }

  async #fill(tiles, seeds, from, to, parameters, signal) {
    const { app, model } = this;
    const { class: class_, truncation, rank } = parameters;
    const common = present({ class: class_, truncation });
    // JPEG is the fastest encoding of large images.
    const format = pixels(model) > SMALL_PIXELS ? "jpeg" : "png";
    const chosen = rank ? { seed: seeds[from], n: to - from, rank } : { seeds: seeds.slice(from, to) };
    const body = { model: fullName(model), ...chosen, format, ...common };
    let images;
    try {
      images = await requestImages(app, body, signal);
    } catch (error) {
      const isTooMany = error.status === 422 && error.fields?.some(({ field }) => /^(n|seeds|rank)\b/.test(field));
      if (!isTooMany || to - from < 2) throw error;
      // The operator has set a lower limit of images per request.
      const half = Math.ceil((to - from) / 2);
      this.limit = half * Math.round(1 / (rank ?? 1));
      const middle = from + half;
      await this.#fill(tiles, seeds, from, middle, parameters, signal);
      await this.#fill(tiles, seeds, middle, to, parameters, signal);
      return;
    }
    signal.throwIfAborted();
    images.forEach((image, i) => {
      const tile = tiles[from + i];
      setItem(app, tile, seedItem(model, image.seed ?? seeds[from + i], parameters));
      setBlob(tile, image.blob);
    });
    app.firstImagesShown();
  }

  #showError(page, error) {
    const again = () => {
      for (const each of this.pages) if (each.element.querySelector(".problem")) each.load();
    };
    const retry = h("button", { class: "button", onclick: again }, "Try again");
    page.element.querySelector(".problem")?.remove();
    page.element.prepend(h("div", { class: "problem wall-problem", role: "alert" }, h("p", {}, error.message), retry));
  }
}

/** Returns the images of a request; one of a seed comes as a file instead of JSON. */
async function requestImages(app, body, signal) {
  if (body.seeds?.length === 1) return [{ blob: await app.api.blob(GENERATE, body, { signal }) }];
  // A single image that is selected is a PNG file: its seed is in the JSON.
  const json = body.n === 1 ? { format: "json" } : {};
  return app.api.images(GENERATE, { ...body, ...json }, { signal });
}

function pixels(model) {
  return model.image.width * model.image.height;
}

/**
 * Returns columns, rows of a page, and the size of a tile in CSS pixels.
 *
 * A small image is enlarged by the whole factor that fills the width best; a large one is reduced.
 */
function arrange(model, available) {
  const { width, height } = model.image;
  const [smallest, largest] = available < 560 ? SIDES.narrow : SIDES.wide;
  const longest = Math.max(width, height);
  let best = null;
  // A whole factor of the pixels of the screen.
  const step = 1 / Math.max(1, Math.round(devicePixelRatio));
  const most = Math.floor(largest / longest / step) * step;
  for (let scale = 1; scale <= most; scale += step) {
    if (longest * scale < smallest && scale < most) continue;
    const columns = Math.max(1, Math.floor((available + GAP) / (width * scale + GAP)));
    const gap = columns > 1 ? Math.floor((available - columns * width * scale) / (columns - 1)) : GAP;
    if (!best || gap <= best.gap) best = { columns, gap, width: width * scale, height: height * scale };
  }
  if (!best) {
    const columns = Math.max(1, Math.round(available / (available < 560 ? 180 : 230)));
    const side = Math.floor((available - (columns - 1) * GAP) / columns);
    best = { columns, gap: GAP, width: side, height: Math.round((side * height) / width) };
  }
  best.gap = Math.min(best.gap, 6 * GAP);
  const rows = Math.max(1, Math.round(PAGE_TILES[Number(pixels(model) > SMALL_PIXELS)] / best.columns));
  return { ...best, rowGap: Math.min(best.gap, 2 * GAP), rows, perPage: rows * best.columns };
}
