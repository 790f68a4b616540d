/** Images of prompts: a row for each prompt, in which the images have consecutive seeds. */

import { fromBase64, isAbort } from "../core/api.js";
import { clear, h } from "../core/dom.js";
import { MAX_SEED, PROMPT, fullName, present, promptItem } from "../core/items.js";
import { latest, settled } from "../core/latest.js";
import { sentence } from "../shell/notices.js";
import { createTile, ensureTabStop, setBlob, setItem } from "../shell/tiles.js";
import { modelControls, slider, textField } from "./controls.js";

const FIRST_IMAGES = 4;
const MOST_IMAGES = 8;
/** The side of an image and the gap between two in CSS pixels. The images of a prompt fit into a row if they can. */
const [SMALLEST, LARGEST, GAP] = [64, 144, 6];
/** A link that is longer does not arrive everywhere. */
const LONGEST_PROMPTS = 4000;

export const panel = {
  id: "prompts",
  title: "Prompts",
  fits: (model) => Boolean(model.text_input),
  mount(container, model, app) {
    return new Prompts(container, model, app).unmount;
  },
};

/** Returns the parameters of this panel in a link. */
export function validPrompts({ prompt, n }) {
  return {
    ...(prompt && { prompt: prompt.slice(0, LONGEST_PROMPTS) }),
    ...(Number.isInteger(n) && n >= 1 && { n: Math.min(n, MOST_IMAGES) }),
  };
}

class Prompts {
  constructor(container, model, app) {
    this.model = model;
    this.app = app;
    this.load = latest((_, signal) => this.#request(signal));
    this.#build(container);
    this.load();
    // The size of the images follows the width of the page.
    this.resize = new ResizeObserver(() => this.#fit());
    this.resize.observe(this.list);
    this.unmount = () => {
      this.load.cancel();
      this.resize.disconnect();
    };
  }

  #build(container) {
    const { app, model } = this;
    const { prompt = "", n = FIRST_IMAGES } = app.parametersOf(model);
    const settle = settled(() => this.load());
    const field = textField({
      label: "Prompts, one for each line",
      value: prompt,
      rows: 3,
      maxLength: LONGEST_PROMPTS,
      spellcheck: false,
      placeholder: "red heart\nblue heart",
      oninput: (value) => {
        app.setParameters(model, { prompt: value });
        settle();
      },
    });
    field.classList.add("prompt-field");
    const count = slider({
      label: "Images of each prompt",
      min: 1,
      max: MOST_IMAGES,
      step: 1,
      value: n,
      oninput: (value) => {
        app.setParameters(model, { n: value });
        this.#fit();
        this.load();
      },
    });
    const controls = modelControls(app, model, () => this.load());
    controls.hidden = false;
    controls.prepend(field, count);
    this.hint = h("p", { class: "lead" }, "Describe an image, in a few words. Each further line is another prompt, with the same seeds.");
    this.error = h("div", { class: "problem wall-problem", role: "alert", hidden: true });
    this.list = h("div", { class: "prompt-rows tiles", role: "group", "aria-label": `Images of ${model.name}` });
    container.append(controls, this.hint, this.error, this.list);
  }

  #fit() {
    const { n = FIRST_IMAGES } = this.app.parametersOf(this.model);
    const available = Math.floor((this.list.clientWidth - (n - 1) * GAP) / n);
    const side = Math.min(Math.max(available, SMALLEST), LARGEST);
    const { width, height } = this.model.image;
    const longest = Math.max(width, height);
    // A small image is enlarged by a whole factor.
    const scale = longest <= side ? Math.floor(side / longest) : side / longest;
    const { style } = this.list;
    style.setProperty("--tile-width", `${Math.round(width * scale)}px`);
    style.setProperty("--tile-height", `${Math.round(height * scale)}px`);
  }

  /** Requests the images of all prompts at once. Those that are shown stay until the new ones are there. */
  async #request(signal) {
    const { app, model } = this;
    const { prompt = "", n = FIRST_IMAGES, seed, truncation } = app.parametersOf(model);
    const prompts = prompt.split("\n").map((line) => line.trim()).filter(Boolean);
    this.hint.hidden = prompts.length > 0;
    if (!prompts.length) {
      this.error.hidden = true;
      clear(this.list);
      return;
    }
    // The images of one column have the same seed, which shows what the prompts change.
    const each = Array.from({ length: Math.min(n, MAX_SEED - seed + 1) }, (_, i) => seed + i);
    const seeds = prompts.flatMap(() => each);
    const body = { model: fullName(model), prompt: prompts, n: each.length, seeds, ...present({ truncation }), format: "json" };
    try {
      const response = await app.api.request(PROMPT, body, { accept: "application/json", signal });
      const { images } = await response.json();
      this.error.hidden = true;
      this.#show(prompts, each, images, truncation);
      this.#showTruncated(prompts, response.headers.get("x-ganymede-prompt-truncated"));
    } catch (error) {
      if (isAbort(error)) return;
      this.error.replaceChildren(h("p", {}, sentence(error.message)), h("button", { class: "button", onclick: () => this.load() }, "Try again"));
      this.error.hidden = false;
    }
  }

  #show(prompts, seeds, images, truncation) {
    const { app, model, list } = this;
    const rows = [...list.children];
    for (const row of rows.splice(prompts.length)) remove(row);
    prompts.forEach((prompt, i) => {
      const row = rows[i] ?? h("section", { class: "prompt-row" }, h("h2", {}), h("p", { class: "hint", hidden: true }), h("div", { class: "prompt-images" }));
      if (!rows[i]) list.append(row);
      const [heading, , holder] = row.children;
      heading.textContent = prompt;
      const tiles = [...holder.children];
      for (const tile of tiles.splice(seeds.length)) remove(tile);
      seeds.forEach((seed, j) => {
        const item = promptItem(model, prompt, seed, truncation);
        const tile = tiles[j] ?? createTile(app, item, null, { lazy: false });
        if (tiles[j]) setItem(app, tile, item);
        else holder.append(tile);
        const { data, media_type: type } = images[i * seeds.length + j];
        setBlob(tile, fromBase64(data, type));
      });
    });
    ensureTabStop(list);
  }

  /** `header` has the tokens kept and given of each different prompt, or nothing. */
  #showTruncated(prompts, header) {
    const kept = header?.split(",") ?? [];
    const different = [...new Set(prompts)];
    [...this.list.children].forEach(({ children: [, note] }, i) => {
      const [tokens, all] = kept[different.indexOf(prompts[i])]?.split("/") ?? [];
      note.hidden = !all;
      note.textContent = all ? `Only the first ${tokens} of ${all} tokens of this prompt are used.` : "";
    });
  }
}

/** Removes an element and frees its images. */
function remove(element) {
  clear(element);
  element.remove();
}
