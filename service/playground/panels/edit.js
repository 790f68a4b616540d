/** Moves images along the named directions of a model: a slider each, strips and grids. */

import { clear, h, iconButton } from "../core/dom.js";
import { EDIT, FORMATS, GENERATE, editItem, editOf, fullName, generates, present, randomSeed, reseeded, signed, sourceFields } from "../core/items.js";
import { latest, settled } from "../core/latest.js";
import { downloadButtons, fit } from "../shell/details.js";
import { createTile, ensureTabStop, setBlob, setItem } from "../shell/tiles.js";
import { choice, classList, modelControls } from "./controls.js";
import { directionSliders, layerChoices, layersFor, validAmounts } from "./directions.js";
import { sourceEditor, sourceFor } from "./sources.js";

const MOST_SOURCES = 6;
/** The side of a result in CSS pixels: of one, and of several. */
const SIDES = [256, 160];
const STRIP = [-3, -2, -1, 0, 1, 2, 3];
const GRID = [-2, -1, 0, 1, 2];

export const panel = {
  id: "edit",
  title: "Edit",
  fits: (model) => generates(model) && Boolean(model.directions),
  mount(container, model, app, input) {
    return new Edit(container, model, app, input).unmount;
  },
};

class Edit {
  constructor(container, model, app, input) {
    this.model = model;
    this.app = app;
    const parameters = app.parametersOf(model);
    const edit = input && editOf(input);
    const source = edit && sourceFor(app, model, edit.start);
    this.sources = [source || sourceFields(parameters)];
    this.amounts = source ? validAmounts(model, edit.directions) : { ...parameters.directions };
    this.layers = parameters.layers ?? "";
    this.strip = { first: "", second: "" };
    this.load = latest((_, signal) => this.#request(signal));
    this.loadStrip = latest((_, signal) => this.#requestStrip(signal));
    // The other images of the page follow the sliders when those have stopped moving.
    this.showSettled = settled(() => {
      this.#showSources();
      this.change();
    });
    this.#build(container);
    this.#showSources();
    this.#remember();
    this.change();
    this.unmount = () => {
      this.load.cancel();
      this.loadStrip.cancel();
    };
  }

  #build(container) {
    const { app, model } = this;
    this.images = h("div", { class: "edit-images" });
    this.sliders = directionSliders(model, this.amounts, (name, amount) => this.#move(name, amount));
    const layers = model.styles && choice({
      label: "Layers that are moved",
      value: this.layers,
      choices: [{ value: "", label: "of each direction" }, ...layerChoices(model).map((value) => ({ value, label: value }))],
      onchange: (value) => {
        this.layers = value;
        this.#showDisabled();
        this.#remember();
        this.change();
      },
    });
    const reset = iconButton("reset", "Reset all", () => {
      this.amounts = {};
      this.sliders.set({});
      this.#remember();
      this.change();
    });
    const keep = iconButton("heart", "Keep", () => this.sources.forEach((source) => app.keep(this.#item(source))));
    const show = iconButton("more", "Details", () => app.show(this.#item(this.sources[0]), null, { focus: true }));
    const names = model.directions.map(({ name }) => name);
    const along = (side, label, all) =>
      classList({
        label,
        classes: names,
        all,
        onchange: (name) => {
          this.strip[side] = name;
          this.second.hidden = !this.strip.first || names.length < 2;
          this.loadStrip();
        },
      });
    this.second = along("second", "and down along", "nothing");
    this.second.hidden = true;
    this.stripNote = h("p", { class: "hint", role: "status" });
    this.stripFrame = h("div", { class: "edit-strip" });
    this.stripDownloads = h("div", { class: "button-row", hidden: true }, h("span", { class: "hint" }, "Download the strip"), this.#stripButtons());
    container.append(
      h("p", { class: "lead" }, "Move images along directions in latent space. The unit is one standard deviation of the latents."),
      h(
        "div",
        { class: "edit-layout" },
        this.images,
        h("div", { class: "controls edit-controls" }, this.sliders, layers || null, modelControls(app, model, ({ truncation }) => this.#setAll(truncation), { seed: false, classes: false }), reset),
      ),
      h("div", { class: "button-row" }, keep, show),
      h("div", { class: "controls" }, along("first", "Strip along", "no direction"), this.second),
      this.stripNote,
      this.stripFrame,
      this.stripDownloads,
    );
    this.#showDisabled();
  }

  #move(name, amount) {
    if (amount) this.amounts[name] = amount;
    else delete this.amounts[name];
    this.#remember();
    this.change();
  }

  /** Writes what the page shows to the URL; a latent is too long for it, and is left out. */
  #remember() {
    const { seed, class: class_ } = this.sources[0];
    const source = seed === undefined ? {} : { seed, class: class_ };
    this.app.setParameters(this.model, { ...source, directions: this.amounts, layers: this.layers || undefined });
  }

  #setAll(truncation) {
    this.sources = this.sources.map((source) => sourceFields({ ...source, truncation }));
    this.showSettled();
  }

  /** A latent w cannot be moved in z, and directions of z have no layers. */
  #showDisabled() {
    this.sliders.disable((item) => !this.#canMove(item));
  }

  #canMove({ space }) {
    return space === "w" || !(this.layers || this.sources.some(({ w }) => w));
  }

  /** The amounts that apply to all images, and the layers if they replace those of the directions. */
  #edit() {
    const items = this.model.directions.filter((item) => this.amounts[item.name] && this.#canMove(item));
    return { directions: Object.fromEntries(items.map(({ name }) => [name, this.amounts[name]])), layers: layersFor(this.model, this.layers) };
  }

  /** The item of a source with the amounts that are set. */
  #item(source) {
    const { directions, layers } = this.#edit();
    return editItem(this.model, source, directions, layers);
  }

  #showSources() {
    const { app, model } = this;
    clear(this.images);
    const side = SIDES[Number(this.sources.length > 1)];
    this.results = this.sources.map((source, i) => {
      const label = this.sources.length > 1 ? `image ${i + 1}` : "the image";
      const editor = sourceEditor(app, model, {
        label,
        source,
        onchange: (changed) => {
          this.sources[i] = changed;
          this.#showDisabled();
          this.#remember();
          this.change();
        },
      });
      const remove = iconButton("close", `Remove ${label}`, () => this.#change(() => this.sources.splice(i, 1)), { quiet: true, class: "source-remove" });
      remove.disabled = this.sources.length < 2;
      editor.append(remove);
      const tile = createTile(app, this.#item(source), null, { lazy: false });
      tile.classList.add("pair-tile");
      fit(tile, model, side);
      const result = h("div", { class: "tiles" }, tile);
      this.images.append(h("div", { class: "edit-image" }, editor, result));
      ensureTabStop(result);
      return tile;
    });
    const add = iconButton("plus", "Add an image", () => this.#change(() => this.sources.push(reseeded(this.sources.at(-1), randomSeed()))), { class: "walk-add" });
    if (this.sources.length < MOST_SOURCES) this.images.append(add);
  }

  #change(change) {
    change();
    this.#showSources();
    this.#showDisabled();
    this.#remember();
    this.change();
  }

  /** Requests all images again. */
  change() {
    this.load();
    if (this.strip.first) this.loadStrip();
  }

  async #request(signal) {
    const { app, model, results } = this;
    const items = this.sources.map((source) => this.#item(source));
    const { directions, layers } = this.#edit();
    const path = Object.keys(directions).length ? EDIT : GENERATE;
    const fields = path === EDIT ? present({ directions, layers }) : {};
    try {
      const body = { model: fullName(model), images: this.sources.map(sourceFields), ...fields, format: "json" };
      const images = await app.api.images(path, body, { signal });
      images.forEach(({ blob }, i) => {
        setItem(app, results[i], items[i]);
        setBlob(results[i], blob);
      });
    } catch (error) {
      app.report(error);
    }
  }

  /** The request of the strip of each source, or of the grid of the first one. */
  #stripRequest() {
    const { first } = this.strip;
    const second = this.strip.second === first ? "" : this.strip.second;
    const { directions, layers } = this.#edit();
    const rows = second ? this.sources.slice(0, 1) : this.sources;
    // The first direction with steps has the rows of a grid.
    const steps = second ? { [second]: GRID, [first]: GRID } : { [first]: STRIP };
    for (const name of Object.keys(steps)) delete directions[name];
    const moves = { ...directions, ...steps };
    const body = present({ model: fullName(this.model), images: rows.map(sourceFields), directions: moves, layers });
    return { first, second, rows, directions, layers, body };
  }

  async #requestStrip(signal) {
    const { app, model } = this;
    const { first, second, rows, directions, layers, body } = this.#stripRequest();
    this.stripDownloads.hidden = !first;
    const blocked = model.directions.find((item) => [first, second].includes(item.name) && !this.#canMove(item));
    this.stripNote.textContent = blocked ? `${blocked.name} is a direction of z: it moves images of seeds only, and has no layers.` : "";
    if (!first || blocked) {
      clear(this.stripFrame);
      this.stripDownloads.hidden = true;
      return;
    }
    try {
      const images = await app.api.images(EDIT, { ...body, format: "json" }, { signal });
      const across = second ? GRID : STRIP;
      const down = second ? GRID : rows;
      const cells = down.flatMap((row) =>
        across.map((step) => {
          const moves = present({ ...directions, [first]: step || null, [second]: (second && row) || null });
          return editItem(model, second ? rows[0] : row, moves, layers);
        }),
      );
      this.#showStrip(across, cells, images, second ? down : null);
    } catch (error) {
      app.report(error);
    }
  }

  #showStrip(across, items, images, down) {
    clear(this.stripFrame);
    const grid = h("div", { class: `strip tiles ${down ? "is-grid" : ""}`, role: "group", "aria-label": down ? "Grid" : "Strip" });
    grid.style.setProperty("--columns", across.length);
    const step = (value) => h("span", { class: "strip-step", "aria-hidden": "true" }, signed(value));
    if (down) grid.append(h("span"));
    grid.append(...across.map(step));
    items.forEach((item, i) => {
      if (down && i % across.length === 0) grid.append(step(down[i / across.length]));
      grid.append(createTile(this.app, item, images[i].blob));
    });
    this.stripFrame.append(grid);
    ensureTabStop(grid);
  }

  #stripButtons() {
    const formats = FORMATS.filter(({ format }) => format !== "json");
    const load = (format) => this.app.api.blob(EDIT, { ...this.#stripRequest().body, format });
    const name = () => [this.model.name, this.strip.first, this.strip.second].filter(Boolean).join("-");
    return downloadButtons(this.app, formats, load, name, " the strip");
  }
}
