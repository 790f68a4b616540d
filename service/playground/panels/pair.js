/** Two images: a slider between them and, for a model with styles, their styles mixed by group. */

import { clear, h, iconButton } from "../core/dom.js";
import { MIX, WALK, fullName, generates, nameOf, sourceFields, sourceItem } from "../core/items.js";
import { latest } from "../core/latest.js";
import { drawFrame, readFrames } from "../core/npy.js";
import { fit } from "../shell/details.js";
import { createTile, ensureTabStop } from "../shell/tiles.js";
import { choice, slider } from "./controls.js";
import { sourceEditor, sourceFor } from "./sources.js";

/** The steps of the slider: a power of two, so that most positions are in a shorter walk too. */
const STEPS = 32;
const FILM = 9;
/** The side of the result in CSS pixels, in a wide and in a narrow window. */
const SIDES = [320, 224];
const LARGEST_WALK = 12_000_000;
export const GROUPS = {
  coarse: "pose and shape",
  middle: "parts and layout",
  fine: "colors and texture",
};

export const panel = {
  id: "pair",
  title: "Combine",
  fits: generates,
  mount(container, model, app, input) {
    return new Pair(container, model, app, input).unmount;
  },
};

/** Returns the groups of style layers that a model has. */
export function styleGroups(model) {
  const present = new Set(model.styles.layers.map(({ group }) => group));
  return Object.keys(GROUPS).filter((group) => present.has(group));
}

class Pair {
  constructor(container, model, app, input) {
    this.model = model;
    this.app = app;
    this.side = SIDES[Number(innerWidth < 640)];
    const parameters = sourceFields(app.parametersOf(model));
    const seed = parameters.seed ?? 0;
    const first = input?.first ?? input;
    this.a = (first && sourceFor(app, model, first)) || parameters;
    this.b = (input?.second && sourceFor(app, model, input.second)) || { ...parameters, seed: (seed + 1) % 2 ** 32 };
    this.mode = "walk";
    this.position = STEPS / 2;
    this.weights = model.styles ? Object.fromEntries(styleGroups(model).map((group, i) => [group, i ? 0 : 1])) : {};
    this.frames = null;
    this.loadFrames = latest((_, signal) => this.#requestFrames(signal));
    this.loadMix = latest((_, signal) => this.#requestMix(signal));
    this.#build(container);
    this.change();
    this.unmount = () => {
      this.loadFrames.cancel();
      this.loadMix.cancel();
    };
  }

  #build(container) {
    const { app, model } = this;
    const edit = (side, label) =>
      sourceEditor(app, model, {
        label,
        source: this[side],
        onchange: (source) => {
          this[side] = source;
          this.change();
        },
      });
    this.editors = { a: edit("a", "the first image"), b: edit("b", "the second image") };
    this.canvas = h("canvas", { class: "pair-canvas", role: "img" });
    this.result = h("div", { class: "pair-result tiles" }, this.canvas);
    fit(this.canvas, model, this.side);
    this.controls = h("div", { class: "pair-controls" });
    this.film = h("div", { class: "film", "aria-hidden": "true" });
    const swap = iconButton("swap", "Swap", () => this.#swap());
    const keep = iconButton("heart", "Keep", () => app.keep(this.item()));
    const show = iconButton("more", "Details", () => app.show(this.item(), null, { focus: true }));
    const walk = iconButton("play", "Walk between them", () => app.open(model.name, "walk", [this.a, this.b]));
    const modes = model.styles && choice({
      label: "How they are combined",
      quiet: true,
      value: this.mode,
      choices: [
        { value: "walk", label: "Interpolate" },
        { value: "mix", label: "Mix styles" },
      ],
      onchange: (mode) => {
        this.mode = mode;
        this.#showControls();
        this.change();
      },
    });
    container.append(
      h("p", { class: "lead" }, "Drag an image onto one of the two, or type a seed."),
      h("div", { class: "pair" }, this.editors.a, h("div", { class: "pair-middle" }, this.result), this.editors.b),
      ...(modes ? [modes] : []),
      this.controls,
      this.film,
      h("div", { class: "button-row" }, keep, show, swap, walk),
    );
    this.#showControls();
  }

  #swap() {
    [this.a, this.b] = [this.b, this.a];
    this.editors.a.set(this.a);
    this.editors.b.set(this.b);
    this.change();
  }

  #showControls() {
    const percent = (value) => `${Math.round(100 * value)}%`;
    const position = () =>
      slider({
        label: "Position",
        min: 0,
        max: STEPS,
        step: 1,
        value: this.position,
        format: (value) => percent(value / STEPS),
        hints: ["first image", "second image"],
        oninput: (value) => {
          this.position = value;
          this.#draw();
        },
      });
    const weight = (group) =>
      slider({
        label: `${group} · ${GROUPS[group]}`,
        min: 0,
        max: 1,
        step: 0.01,
        value: this.weights[group],
        format: percent,
        hints: ["first image", "second image"],
        oninput: (value) => {
          this.weights[group] = value;
          this.loadMix();
        },
      });
    this.controls.replaceChildren(...(this.mode === "walk" ? [position()] : Object.keys(this.weights).map(weight)));
    this.film.hidden = this.mode !== "walk";
  }

  /** Requests the result again, after a change of a source or of the mode. */
  change() {
    if (this.mode === "walk") this.loadFrames();
    else this.loadMix();
  }

  /** The item of what is shown. */
  item() {
    const { model, a, b } = this;
    const body = { model: fullName(model) };
    if (this.mode === "mix") return { path: MIX, body: { ...body, rows: [a], columns: [b], layers: { ...this.weights } } };
    const share = this.position / STEPS;
    if (share === 0) return sourceItem(model, a);
    if (share === 1) return sourceItem(model, b);
    // In w, the same image in a single request: all layers with one weight.
    if (model.styles) {
      const layers = Object.fromEntries(Object.keys(this.weights).map((group) => [group, share]));
      return { path: MIX, body: { ...body, rows: [a], columns: [b], layers } };
    }
    // The shortest walk that has this position.
    let [frame, last] = [this.position, STEPS];
    while (frame % 2 === 0 && last > 1) [frame, last] = [frame / 2, last / 2];
    return { path: WALK, body: { ...body, sources: [a, b], frames: last + 1 }, frame };
  }

  async #requestFrames(signal) {
    const { app, model, a, b } = this;
    const { width, height, channels = 3 } = model.image;
    // A large image has fewer frames: the slider then moves in larger steps.
    let steps = STEPS;
    while (steps > 4 && (steps + 1) * width * height * channels > LARGEST_WALK) steps /= 2;
    try {
      const body = { model: fullName(model), sources: [a, b], frames: steps + 1, format: "npy" };
      this.frames = readFrames(await app.api.buffer(WALK, body, { signal }));
      this.#draw();
      this.#drawFilm();
    } catch (error) {
      app.report(error);
    }
  }

  async #requestMix(signal) {
    const { app } = this;
    const item = this.item();
    try {
      const blob = await app.render(item, { signal });
      const tile = createTile(app, item, blob);
      tile.classList.add("pair-tile");
      fit(tile, this.model, this.side);
      clear(this.result);
      this.result.append(tile);
      ensureTabStop(this.result);
    } catch (error) {
      app.report(error);
    }
  }

  #draw() {
    if (!this.frames || this.mode !== "walk") return;
    const share = this.position / STEPS;
    drawFrame(this.canvas, this.frames.frame(Math.round(share * (this.frames.count - 1))));
    this.canvas.setAttribute("aria-label", `${Math.round(100 * share)}% of the way from ${nameOf(this.a)} to ${nameOf(this.b)}`);
    if (!this.canvas.isConnected) {
      clear(this.result);
      this.result.append(this.canvas);
    }
  }

  #drawFilm() {
    const last = this.frames.count - 1;
    const count = Math.min(FILM, this.frames.count);
    const canvases = Array.from({ length: count }, (_, i) => {
      const share = i / (count - 1);
      const canvas = h("canvas", { class: this.model.image.width <= 72 ? "is-small" : "" });
      drawFrame(canvas, this.frames.frame(Math.round(share * last)));
      canvas.addEventListener("click", () => {
        this.position = Math.round(share * STEPS);
        this.#showControls();
        this.#draw();
      });
      return canvas;
    });
    this.film.replaceChildren(...canvases);
  }
}
