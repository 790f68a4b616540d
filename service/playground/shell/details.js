/** The details of one image: seed, address, curl, Python, downloads, and what to do with it. */

import { clear, download, h, iconButton, imageUrl } from "../core/dom.js";
import { absoluteUrl, isAbort } from "../core/api.js";
import { curlOf, pythonOf } from "../core/recipes.js";
import {
  addressOf,
  editOf,
  fileName,
  formatsOf,
  keyOf,
  labelOf,
  modelOf,
  render,
  sourceOf,
} from "../core/items.js";

/** The side of the image in CSS pixels. */
const SIDE = 296;

export class Details {
  /** `element` is the aside that is filled; without an item, it keeps its hints. */
  constructor(app, element) {
    this.app = app;
    this.element = element;
    this.hints = [...element.children];
    this.item = null;
    this.controller = null;
    this.returnFocus = null;
    app.kept.addEventListener("change", () => this.#showKept());
    element.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !app.pick.item) this.close();
    });
  }

  /** Shows an item. With `focus`, the details are opened on a small screen too. */
  show(item, blob, { focus = false } = {}) {
    if (focus) this.#open();
    if (this.item && keyOf(this.item) === keyOf(item)) return;
    this.controller?.abort();
    this.controller = new AbortController();
    this.item = item;
    const { app } = this;
    const img = h("img", { alt: `${modelOf(item).name}, ${labelOf(item)}`, class: "details-image" });
    const frame = h("div", { class: "details-frame" }, img);
    // The result of an image-to-image model has its own size, not that of the model.
    img.addEventListener("load", () => this.#showSize(img));
    const model = app.model(modelOf(item).name);
    fit(img, model, SIDE);
    clear(this.element);
    this.element.append(
      h(
        "header",
        { class: "details-header" },
        h("h2", { tabIndex: -1 }, labelOf(item)),
        iconButton("close", "Close the details", () => this.close(), { quiet: true, class: "details-close" }),
      ),
      frame,
      this.#actions(item),
      facts(item, model),
      h("h3", {}, "Make it again"),
      ...recipes(app, item),
      h("h3", {}, "Download"),
      h("div", { class: "button-row" }, downloadButtons(app, formatsOf(item), (format) => render(app.api, item, { format }), () => fileName(item))),
    );
    if (focus) this.element.querySelector("h2").focus();
    this.#showImage(item, img, frame, blob);
    this.#showKept();
  }

  /** Shows the hints that fit the outputs of a model, unless an item is shown. */
  hintFor(model) {
    const of = model.image ? "images" : "others";
    for (const hint of this.hints) hint.hidden = hint.dataset.of !== of;
  }

  /** Closes the details on a small screen; on a wide one, shows the hints again. */
  close() {
    this.controller?.abort();
    this.item = null;
    clear(this.element);
    this.element.append(...this.hints);
    this.element.classList.remove("is-open");
    this.returnFocus?.focus();
    this.returnFocus = null;
  }

  #open() {
    this.returnFocus = document.activeElement;
    this.element.classList.add("is-open");
    this.element.querySelector("h2")?.focus();
  }

  #showSize(img) {
    if (!img.isConnected) return;
    const { naturalWidth: width, naturalHeight: height } = img;
    fit(img, { image: { width, height } }, SIDE);
    this.element.querySelector(".facts dd:last-child").textContent = `${width} × ${height}`;
  }

  async #showImage(item, img, frame, blob) {
    try {
      imageUrl(img, blob ?? (await render(this.app.api, item, { signal: this.controller.signal })));
    } catch (error) {
      if (!isAbort(error)) frame.replaceChildren(h("p", { class: "problem" }, error.message));
    }
  }

  #showKept() {
    const button = this.element.querySelector(".details-keep");
    if (!button || !this.item) return;
    const kept = this.app.isKept(this.item);
    button.setAttribute("aria-pressed", String(kept));
    button.querySelector("span").textContent = kept ? "Kept" : "Keep";
  }

  #actions(item) {
    const { app } = this;
    const keep = () => (app.isKept(item) ? app.discard(item) : app.keep(item));
    const buttons = [iconButton("heart", "Keep", keep, { class: "details-keep button-toggle" })];
    if (sourceOf(item)) {
      buttons.push(iconButton("swap", "Combine with…", () => this.#pick(item)));
      buttons.push(iconButton("play", "Walk from here", () => app.open(modelOf(item).name, "walk", item)));
    }
    const { name } = modelOf(item);
    if (app.model(name)?.directions && editOf(item)) {
      buttons.push(iconButton("edit", "Edit", () => app.open(name, "edit", item)));
    }
    const tools = app.toolsFor(item).map(({ model, panel }) => {
      const label = `${panel.title}: ${model.name}`;
      return h("button", { class: "button", onclick: () => app.open(model.name, panel.id, item) }, label);
    });
    const more = h("details", { hidden: !tools.length }, h("summary", {}, "Use as the input of…"), tools);
    return h("div", { class: "button-row" }, buttons, more);
  }

  #pick(item) {
    this.app.pick.take(item);
    // On a small screen, the details would cover the images.
    this.element.classList.remove("is-open");
  }
}

/**
 * Returns a button for each of `formats`. `load(format)` resolves to the file, and `name()` returns its
 * name without extension. `what` completes the labels for screen readers.
 */
export function downloadButtons(app, formats, load, name, what = "") {
  return formats.map(({ format, extension, label }) => {
    const run = async () => {
      button.disabled = true;
      try {
        download(await load(format), `${name()}.${extension}`);
      } catch (error) {
        app.report(error);
      }
      button.disabled = false;
    };
    const props = { class: "button", onclick: run, "aria-label": `Download${what} as ${label}` };
    const button = h("button", props, label);
    return button;
  });
}

/**
 * Sets the size of an image or canvas to a whole multiple of its pixels, at most `side` CSS pixels; a
 * larger one is reduced to that.
 */
export function fit(element, model, side) {
  if (!model?.image) return;
  const { width, height } = model.image;
  const longest = Math.max(width, height);
  const scale = longest <= side ? Math.floor(side / longest) : side / longest;
  element.style.setProperty("inline-size", `${Math.round(width * scale)}px`);
  element.style.setProperty("aspect-ratio", `${width} / ${height}`);
  element.classList.toggle("is-small", scale >= 1);
}

/** The parameters of an item, as a list of terms. */
function facts(item, model) {
  const { body } = item;
  const list = [["model", body.model]];
  if (body.prompt !== undefined) list.push(["prompt", body.prompt || "none"]);
  if (Number.isInteger(body.seed)) list.push(["seed", body.seed]);
  if (body.class !== undefined) list.push(["class", body.class]);
  else if (model?.classes?.length && Number.isInteger(body.seed) && sourceOf(item)) {
    list.push(["class", `${model.classes[body.seed % model.classes.length]} (by seed)`]);
  }
  if (body.truncation !== undefined) list.push(["truncation", body.truncation]);
  list.push(["size", "…"]);
  return h(
    "dl",
    { class: "facts" },
    list.flatMap(([term, value]) => [h("dt", {}, term), h("dd", {}, String(value))]),
  );
}

function recipes(app, item) {
  const options = { withKey: Boolean(app.api.key) };
  const address = addressOf(item);
  const texts = [
    ["curl", curlOf(item, options)],
    ["Python", pythonOf(item, options)],
  ];
  const blocks = texts.map(([title, text]) => recipe(app, title, h("pre", { tabIndex: 0 }, h("code", {}, text)), text));
  if (!address) return blocks;
  const url = absoluteUrl(address);
  const link = h("a", { href: url, target: "_blank", rel: "noopener", class: "details-address" }, url);
  return [recipe(app, "Address", link, url), ...blocks];
}

/** Returns the recipes of a request that is no item, folded unless `isOpen`; `texts` are `[title, text]`. */
export function foldedRecipes(app, texts, isOpen = false) {
  const blocks = texts.map(([title, text]) => recipe(app, title, h("pre", { tabIndex: 0 }, h("code", {}, text)), text));
  return h("details", { class: "recipes", open: isOpen }, h("summary", {}, "Make it again"), blocks);
}

/** Returns a text with a title and a button that copies it; `content` shows the text. */
export function recipe(app, title, content, text) {
  const copy = iconButton("copy", `Copy the ${title === "Address" ? "address" : title}`, () => app.copy(text), { quiet: true });
  return h(
    "div",
    { class: "recipe", role: "group", "aria-label": title },
    h("div", { class: "recipe-header" }, h("span", {}, title), copy),
    content,
  );
}
