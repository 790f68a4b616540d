/** A walk through latent space: plays in the page, and downloads as an animation. */

import { clear, h, iconButton } from "../core/dom.js";
import { WALK, fileName, formatsOf, fullName, generates, randomSeed, reseeded, sourceFields } from "../core/items.js";
import { latest, settled } from "../core/latest.js";
import { drawFrame, readFrames } from "../core/npy.js";
import { downloadButtons, fit } from "../shell/details.js";
import { dropZone } from "../shell/pick.js";
import { choice, modelControls, slider } from "./controls.js";
import { sourceEditor, sourceFor } from "./sources.js";

const FPS = 24;
const FIRST_FRAMES = 16;
const FIRST_SOURCES = 4;
const LEAST_SOURCES = 2;
const VIDEOS = ["mp4", "webm"];
const VIDEO_SIDE = 512;
const LARGEST_SCALE = 16;
/** The bytes of the frames that play in the page. A longer walk plays with fewer frames. */
const LARGEST_PREVIEW = 24_000_000;

export const panel = {
  id: "walk",
  title: "Walk",
  fits: generates,
  mount(container, model, app, input) {
    return new Walk(container, model, app, input).unmount;
  },
};

class Walk {
  constructor(container, model, app, input) {
    this.model = model;
    this.app = app;
    this.sources = firstSources(app, model, input);
    this.seconds = 4;
    this.loop = true;
    this.frames = null;
    this.time = 0;
    this.playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.load = latest((_, signal) => this.#request(signal));
    // The images of the sources follow the truncation when it has stopped moving.
    this.showSettled = settled(() => this.#showSources());
    this.#build(container);
    this.#showSources();
    this.load();
    this.animation = requestAnimationFrame((now) => this.#tick(now));
    this.unmount = () => {
      cancelAnimationFrame(this.animation);
      this.load.cancel();
    };
  }

  #build(container) {
    const { app, model } = this;
    this.canvas = h("canvas", { class: "walk-canvas", role: "img", "aria-label": `A walk through the images of ${model.name}` });
    fit(this.canvas, model, 384);
    this.scrub = slider({
      label: "Time",
      min: 0,
      max: 1000,
      step: 1,
      value: 0,
      format: (value) => `${((value / 1000) * this.seconds).toFixed(1)} s`,
      oninput: (value) => {
        this.#setPlaying(false);
        this.time = value / 1000;
        this.#draw();
      },
    });
    this.playButton = h("span", { class: "walk-play" });
    this.#setPlaying(this.playing);
    const seconds = slider({
      label: "Duration",
      min: 1,
      max: 20,
      step: 1,
      value: this.seconds,
      format: (value) => `${value} s`,
      oninput: (value) => {
        this.seconds = value;
        this.load();
      },
    });
    const loop = choice({
      label: "End",
      value: "loop",
      choices: [
        { value: "loop", label: "Back to the start" },
        { value: "stop", label: "At the last image" },
      ],
      onchange: (value) => {
        this.loop = value === "loop";
        this.load();
      },
    });
    this.note = h("p", { class: "hint", role: "status" });
    this.list = h("div", { class: "walk-sources", role: "list", "aria-label": "Images of the walk" });
    const formats = formatsOf(this.item());
    this.downloads = downloadButtons(app, formats, (format) => this.#file(format), () => fileName(this.item()));
    this.videoDownloads = this.downloads.filter((_, i) => VIDEOS.includes(formats[i].format));
    container.append(
      h(
        "div",
        { class: "walk-layout" },
        h("div", { class: "walk" }, this.canvas, h("div", { class: "walk-bar" }, this.playButton, this.scrub)),
        h("div", { class: "walk-side" }, h("p", { class: "lead" }, "The walk visits these images in order. Drag others onto them, or add more."), this.list),
      ),
      this.note,
      h("div", { class: "controls" }, seconds, loop, modelControls(app, model, (parameters) => this.#setAll(parameters), { seed: false, classes: false })),
      h("div", { class: "button-row" }, iconButton("heart", "Keep", () => app.keep(this.item())), iconButton("more", "Details", () => app.show(this.item(), null, { focus: true })), h("span", { class: "row-label" }, "Download"), this.downloads),
    );
  }

  #showSources() {
    const { app, model } = this;
    const editors = this.sources.map((source, i) => {
      const editor = sourceEditor(app, model, {
        label: `image ${i + 1}`,
        source,
        onchange: (changed) => {
          this.sources[i] = changed;
          this.load();
        },
      });
      const remove = iconButton("close", `Remove image ${i + 1}`, () => this.#change(() => this.sources.splice(i, 1)), { quiet: true, class: "source-remove" });
      remove.disabled = this.sources.length <= LEAST_SOURCES;
      editor.append(remove);
      return h("div", { role: "listitem" }, editor);
    });
    const { truncation } = app.parametersOf(model);
    const add = iconButton("plus", "Add an image", () => this.#change(() => this.sources.push(sourceFields({ seed: randomSeed(), truncation }))), { class: "walk-add" });
    dropZone(add, (item) => {
      const source = sourceFor(app, model, item);
      if (source) this.#change(() => this.sources.push(source));
    });
    clear(this.list, ...editors, h("div", { role: "listitem" }, add));
  }

  #change(change) {
    change();
    this.#showSources();
    this.load();
  }

  #setAll({ truncation }) {
    this.sources = this.sources.map((source) => sourceFields({ ...source, truncation }));
    this.showSettled();
    this.load();
  }

  /** The item of the whole walk. */
  item() {
    const body = { model: fullName(this.model), sources: this.sources, frames: Math.round(this.seconds * FPS), loop: this.loop, fps: FPS };
    return { path: WALK, body };
  }

  /** Returns the walk as a file. A video of small images is enlarged, because players blur them. */
  async #file(format) {
    const isVideo = VIDEOS.includes(format);
    const { width, height } = this.model.image;
    const scale = Math.min(LARGEST_SCALE, Math.floor(VIDEO_SIDE / Math.max(width, height)));
    const { path, body } = this.item();
    const options = isVideo && scale > 1 ? { scale } : {};
    try {
      return await this.app.api.blob(path, { ...body, ...options, format });
    } catch (error) {
      // The service runs without the extra that writes videos; the message says which.
      const isMissing = isVideo && error.fields?.some(({ field }) => field === "format");
      for (const button of this.videoDownloads) button.hidden ||= isMissing;
      throw error;
    }
  }

  async #request(signal) {
    const { app, model } = this;
    const { width, height, channels = 3 } = model.image;
    const { body } = this.item();
    const most = Math.max(8, Math.floor(LARGEST_PREVIEW / (width * height * channels)));
    const frames = Math.min(body.frames, most);
    try {
      // A few frames are there at once, and play until all are.
      for (const count of frames > 2 * FIRST_FRAMES ? [FIRST_FRAMES, frames] : [frames]) {
        const request = { ...body, frames: count, format: "npy" };
        this.frames = readFrames(await app.api.buffer(WALK, request, { signal }));
        this.#draw();
      }
      const isShort = frames < body.frames;
      this.note.textContent = isShort ? `This preview has ${frames} of the ${body.frames} frames of a download.` : "";
    } catch (error) {
      app.report(error);
    }
  }

  #setPlaying(playing) {
    this.playing = playing;
    const button = iconButton(playing ? "pause" : "play", playing ? "Pause" : "Play", () => this.#setPlaying(!this.playing), { class: "button-primary" });
    const hadFocus = this.playButton.contains(document.activeElement);
    this.playButton.replaceChildren(button);
    if (hadFocus) button.focus();
  }

  #tick(now) {
    this.animation = requestAnimationFrame((next) => this.#tick(next));
    const elapsed = now - (this.last ?? now);
    this.last = now;
    if (!this.playing || !this.frames) return;
    this.time += elapsed / 1000 / this.seconds;
    if (this.time >= 1) this.time %= 1;
    this.scrub.set(Math.round(1000 * this.time));
    this.#draw();
  }

  #draw() {
    if (!this.frames) return;
    const { count } = this.frames;
    const at = Math.min(count - 1, Math.floor(this.time * count));
    if (this.drawn === at && this.drawnFrames === this.frames) return;
    this.drawn = at;
    this.drawnFrames = this.frames;
    drawFrame(this.canvas, this.frames.frame(at));
  }
}

/** The sources to begin with: those of `input` (an item, or a list of sources), and next seeds. */
function firstSources(app, model, input) {
  const parameters = sourceFields(app.parametersOf(model));
  if (Array.isArray(input)) return [...input];
  const start = (input && sourceFor(app, model, input)) || { ...parameters, seed: parameters.seed ?? 0 };
  const first = start.seed ?? parameters.seed ?? 0;
  const next = Array.from({ length: FIRST_SOURCES - 1 }, (_, i) => reseeded(start, (first + i + 1) % 2 ** 32));
  return [start, ...next];
}
