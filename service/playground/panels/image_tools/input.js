/** Where the image of a tool comes from: a file, the clipboard, a drawing, an example, an item. */

import { isAbort } from "../../core/api.js";
import { clear, h, iconButton, imageUrl } from "../../core/dom.js";
import { isSeed, labelOf, modelOf, randomSeed, seedItem, sourceOf } from "../../core/items.js";
import { dropZone } from "../../shell/pick.js";
import { DRAWINGS, drawingCanvas } from "./drawings.js";
import { paintSurface, pngFile } from "./paint.js";

/** Files that are sent as they are; the service reads no others. */
const SENT_AS_THEY_ARE = ["image/png", "image/jpeg", "image/webp"];
/** A larger image is reduced, because a model of a few hundred pixels takes minutes for it. */
const SIDES = [256, 512, 1024, 2048];
const DEFAULT_SIDE = 1024;
const EXAMPLES = 5;
/** The longest side in CSS pixels: small images are enlarged by a whole factor up to it. */
const SHOWN_SIDE = 352;

/**
 * Has an `element`, and calls `onSource` for each image and `onError` for what is none.
 *
 * `onSource` receives `{blob, file, name, label, width, height, note, samples}`: `blob` is what the
 * browser shows, `file` what is sent, `name` the user's file, `note` states how the two differ, and
 * `samples`, if present, is the request that generates the image. `isDrawing` means that the image
 * is on the screen already. It receives null for no image.
 */
export class ImageInput {
  constructor(app, model, { onSource, onError }) {
    Object.assign(this, { app, model, onSource, onError });
    this.controller = new AbortController();
    this.spec = {};
    this.loading = null;
    const onchange = () => {
      const [file] = this.chooser.files;
      if (file) this.setFile(file);
      // The same file can be chosen again.
      this.chooser.value = "";
    };
    this.chooser = h("input", { type: "file", accept: "image/*", class: "visually-hidden", onchange });
    const sides = SIDES.map((side) => h("option", { value: side, selected: side === DEFAULT_SIDE }, `${side} pixels`));
    const again = () => this.setFile(this.original);
    this.side = h("select", { onchange: again }, sides, h("option", { value: "" }, "original size"));
    this.sideLabel = h("label", { class: "tool-side", hidden: true }, "Longest side sent ", this.side);
    this.zone = h(
      "div",
      { class: "tool-zone" },
      h("label", { class: "button button-primary tool-choose" }, this.chooser, "Choose an image"),
      h("span", { class: "tool-hint" }, "or drop one here, or paste it"),
    );
    dropZone(this.zone, (item) => this.setItem(item));
    this.examples = h("div", { class: "tool-examples", role: "group", "aria-label": "Examples" });
    this.drawing = h("div", { class: "tool-drawing", hidden: true });
    this.element = h("div", { class: "tool-input" }, this.zone, this.sideLabel, this.examples, this.drawing);
    const { signal } = this.controller;
    document.addEventListener("paste", (event) => this.paste(event), { signal });
    // A file that is dropped beside the zone would replace the page.
    document.addEventListener("dragover", (event) => this.dragOver(event), { signal });
    document.addEventListener("dragleave", () => this.zone.classList.remove("is-target"), { signal });
    document.addEventListener("drop", (event) => this.drop(event), { signal });
  }

  stop() {
    this.controller.abort();
    this.loading?.abort();
  }

  /** Offers the examples that fit what the manifest says about the input. */
  setSpec(spec) {
    this.spec = spec;
    this.showExamples();
  }

  paste(event) {
    if (event.target.closest?.("input:not([type=range]), textarea")) return;
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    this.setFile(file);
  }

  dragOver(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    this.zone.classList.add("is-target");
  }

  drop(event) {
    const [file] = event.dataTransfer?.files ?? [];
    if (!file) return;
    event.preventDefault();
    this.zone.classList.remove("is-target");
    this.setFile(file);
  }

  /** Uses a file of the user; what is being drawn stays below the examples. */
  async setFile(file, { isDrawing = false } = {}) {
    this.loading?.abort();
    this.drawing.hidden = !isDrawing;
    const name = file.name || "image.png";
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      this.give(null);
      const message = `This browser cannot read ${name} as an image; use PNG, JPEG or WebP.`;
      this.onError(Object.assign(new Error(message), { status: 400 }));
      return;
    }
    const longest = Math.max(bitmap.width, bitmap.height);
    this.original = file;
    this.sideLabel.hidden = longest <= SIDES[0];
    const side = Number(this.side.value) || Infinity;
    const factor = Math.min(1, side / longest);
    const asItIs = factor === 1 && SENT_AS_THEY_ARE.includes(file.type);
    const [width, height] = [bitmap.width, bitmap.height].map((each) => Math.max(1, Math.round(each * factor)));
    const note = factor < 1 ? `Reduced from ${bitmap.width} × ${bitmap.height} before it is sent.` : "";
    const sent = asItIs ? file : await redraw(bitmap, width, height, name.replace(/\.\w+$/, "") + ".png");
    bitmap.close();
    this.give({ blob: sent, file: sent, name, label: name, width, height, note, isDrawing });
  }

  /** Uses the image of an item. */
  async setItem(item) {
    this.loading?.abort();
    this.drawing.hidden = true;
    const controller = new AbortController();
    this.loading = controller;
    try {
      const blob = await this.app.render(item, { signal: controller.signal });
      const { width, height } = await sizeOf(blob);
      if (controller.signal.aborted) return;
      const label = `${modelOf(item).name}, ${labelOf(item)}`;
      const file = new File([blob], "image.png", { type: "image/png" });
      this.original = null;
      this.sideLabel.hidden = true;
      const samples = isSeed(item) && { model: item.body.model, ...sourceOf(item) };
      this.give({ blob, file, name: file.name, label, width, height, samples });
    } catch (error) {
      if (!isAbort(error)) this.onError(error);
    }
  }

  give(source) {
    if (!this.controller.signal.aborted) this.onSource(source);
  }

  showExamples() {
    const { examples } = this;
    const generators = this.related();
    if (!generators.length) {
      const draw = iconButton("plus", "Draw one", () => this.openDrawing());
      examples.replaceChildren(...DRAWINGS.map((name) => this.drawingButton(name)), draw);
      return;
    }
    const show = (seed) => {
      clear(examples);
      examples.append(...this.sampleButtons(generators, seed));
      examples.append(iconButton("dice", "Other examples", () => show(randomSeed), { quiet: true }));
    };
    show((i) => i);
  }

  /** The generators whose images suit the model: those that share a part of its name, or any. */
  related() {
    const parts = this.model.name.split("-").slice(1);
    const generators = this.app.models.filter(
      ({ task, state, image }) => task === "generate" && state === "ready" && image,
    );
    generators.sort((a, b) => b.image.width - a.image.width);
    const same = generators.filter(({ name }) => name === this.model.name || name.split("-").some((part) => parts.includes(part)));
    if (same.length || this.model.task === "translate") return same;
    return generators.filter(({ image }) => image.channels === 3);
  }

  /** Returns buttons with images of generators in turn; `seed(i)` is the seed of the i-th of each. */
  sampleButtons(generators, seed) {
    return Array.from({ length: EXAMPLES }, (_, i) => {
      const generator = generators[i % generators.length];
      return this.sampleButton(seedItem(generator, seed(Math.floor(i / generators.length) + 1)));
    });
  }

  sampleButton(item) {
    const img = h("img", { alt: "" });
    const label = `${modelOf(item).name}, ${labelOf(item)}`;
    const button = exampleButton(label, img, () => this.setItem(item));
    this.app.render(item, { signal: this.controller.signal }).then(
      (blob) => imageUrl(img, blob),
      () => button.remove(),
    );
    return button;
  }

  drawingButton(name) {
    const isLine = this.spec.channels === 1;
    const use = async () => {
      this.setFile(await pngFile(drawingCanvas(name, this.#side(), isLine), `${name}.png`));
    };
    return exampleButton(`the ${name}`, drawingCanvas(name, 104, isLine), use);
  }

  /** The side of a drawing: what the model was trained on, unless that is tiny. */
  #side() {
    return Math.max(64, this.spec.side ?? 64);
  }

  /** Shows a canvas on which the user draws the input. */
  openDrawing() {
    if (!this.drawing.hidden) return;
    const side = this.#side();
    const use = async () => this.setFile(await surface.toFile("drawing.png"), { isDrawing: true });
    let timer = 0;
    const onChange = () => {
      clearTimeout(timer);
      timer = setTimeout(use, 400);
    };
    const hasColor = this.spec.channels !== 1;
    const surface = paintSurface({ width: side, height: side, label: "Your drawing", hasColor, onChange });
    fit(surface.stage, side, side);
    this.drawing.replaceChildren(surface.element);
    this.drawing.hidden = false;
    surface.canvas.focus();
  }
}

function exampleButton(label, image, onclick) {
  const props = { type: "button", class: "tool-example", "aria-label": `Use ${label}`, title: label, onclick };
  return h("button", props, image);
}

/** Sets the displayed size; a column that is narrower reduces it. */
export function fit(element, width, height, { isSmooth = false } = {}) {
  const longest = Math.max(width, height);
  const isPixelated = !isSmooth && longest <= SHOWN_SIDE / 2;
  const factor = isPixelated ? Math.floor(SHOWN_SIDE / longest) : SHOWN_SIDE / longest;
  element.style.setProperty("--shown-width", `${Math.round(width * factor)}px`);
  element.style.setProperty("--ratio", `${width} / ${height}`);
  element.classList.toggle("is-pixelated", isPixelated);
}

/** Returns width and height of an image file. Rejects if it is none. */
export async function sizeOf(blob) {
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  bitmap.close();
  return { width, height };
}

/** Returns an image as a PNG file of another size. */
function redraw(bitmap, width, height, name) {
  const canvas = h("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return pngFile(canvas, name);
}
