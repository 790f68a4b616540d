/** The style-mixing matrix: the styles of every row, with some layers of every column. */

import { clear, h, iconButton } from "../core/dom.js";
import { FORMATS, MIX, fullName, generates, randomSeed, reseeded, sourceFields } from "../core/items.js";
import { latest, settled } from "../core/latest.js";
import { downloadButtons } from "../shell/details.js";
import { createTile, ensureTabStop, setBlob, setItem } from "../shell/tiles.js";
import { modelControls, slider } from "./controls.js";
import { GROUPS, styleGroups } from "./pair.js";
import { sourceEditor } from "./sources.js";

const ROWS = 3;
const COLUMNS = 4;
const MOST = 8;

export const panel = {
  id: "matrix",
  title: "Style matrix",
  fits: (model) => generates(model) && Boolean(model.styles),
  mount(container, model, app, input) {
    return new Matrix(container, model, app, input).unmount;
  },
};

class Matrix {
  constructor(container, model, app) {
    this.model = model;
    this.app = app;
    const parameters = sourceFields(app.parametersOf(model));
    const source = (i) => ({ ...parameters, seed: ((parameters.seed ?? 0) + i) % 2 ** 32 });
    this.rows = Array.from({ length: ROWS }, (_, i) => source(i));
    this.columns = Array.from({ length: COLUMNS }, (_, i) => source(ROWS + i));
    this.groups = new Set([styleGroups(model)[0]]);
    this.strength = 1;
    this.load = latest((_, signal) => this.#request(signal));
    // The images of rows and columns follow the truncation when it has stopped moving.
    this.showSettled = settled(() => {
      this.#showTable();
      this.load();
    });
    this.#build(container);
    this.#showTable();
    this.load();
    this.unmount = () => this.load.cancel();
  }

  #build(container) {
    const { app, model } = this;
    const layers = styleGroups(model).map((group) => {
      const input = h("input", { type: "checkbox", checked: this.groups.has(group) });
      input.addEventListener("change", () => this.#toggle(group, input));
      return h("label", { class: "choice" }, input, h("span", {}, `${group} · ${GROUPS[group]}`));
    });
    const strength = slider({
      label: "Strength",
      min: 0,
      max: 1,
      step: 0.01,
      value: 1,
      format: (value) => `${Math.round(100 * value)}%`,
      hints: ["row", "column"],
      oninput: (value) => {
        this.strength = value;
        this.load();
      },
    });
    this.table = h("div", { class: "matrix-frame" });
    const shuffle = (side) => () => {
      this[side] = this[side].map((source) => reseeded(source, randomSeed()));
      this.#showTable();
      this.load();
    };
    const load = (format) => app.api.blob(MIX, { ...this.#body(this.rows, this.columns), format });
    const formats = FORMATS.filter(({ format }) => format !== "json");
    const downloads = downloadButtons(app, formats, load, () => `${model.name}-style-matrix`, " the matrix");
    container.append(
      h("p", { class: "lead" }, "Each image is its row, with the chosen styles of its column. Drag images onto rows and columns."),
      h(
        "div",
        { class: "controls" },
        h("fieldset", { class: "control choices" }, h("legend", {}, "Styles of the columns"), h("div", { class: "choice-row" }, layers)),
        strength,
        modelControls(app, model, ({ truncation }) => this.#setAll(truncation), { seed: false, classes: false }),
      ),
      this.table,
      h(
        "div",
        { class: "button-row" },
        iconButton("dice", "New rows", shuffle("rows")),
        iconButton("dice", "New columns", shuffle("columns")),
        iconButton("plus", "Add a row", () => this.#add("rows")),
        iconButton("plus", "Add a column", () => this.#add("columns")),
        h("span", { class: "row-label" }, "Download"),
        downloads,
      ),
    );
  }

  #toggle(group, input) {
    if (input.checked) this.groups.add(group);
    else this.groups.delete(group);
    this.load();
  }

  #add(side) {
    if (this[side].length >= MOST) {
      this.app.notify(`The matrix shows at most ${MOST} rows and columns.`);
      return;
    }
    this[side].push(reseeded(this[side][0], randomSeed()));
    this.#showTable();
    this.load();
  }

  #setAll(truncation) {
    for (const side of ["rows", "columns"]) {
      this[side] = this[side].map((source) => sourceFields({ ...source, truncation }));
    }
    this.showSettled();
    this.load();
  }

  /** The body of the request for rows and columns. Without a group, weight 0: the rows as they are. */
  #body(rows, columns) {
    const groups = this.groups.size ? [...this.groups] : [styleGroups(this.model)[0]];
    const weight = this.groups.size ? this.strength : 0;
    const layers = Object.fromEntries(groups.map((group) => [group, weight]));
    return { model: fullName(this.model), rows, columns, layers };
  }

  #item(row, column) {
    return { path: MIX, body: this.#body([this.rows[row]], [this.columns[column]]) };
  }

  #showTable() {
    const header = (side, i, label) =>
      sourceEditor(this.app, this.model, {
        label: `${label} ${i + 1}`,
        source: this[side][i],
        compact: true,
        onchange: (source) => {
          this[side][i] = source;
          this.load();
        },
      });
    const head = this.columns.map((_, i) => h("th", { scope: "col" }, header("columns", i, "column")));
    this.tiles = [];
    const body = this.rows.map((_, row) => {
      const cells = this.columns.map((__, column) => {
        const tile = createTile(this.app, this.#item(row, column), null, { lazy: false });
        this.tiles.push(tile);
        return h("td", {}, tile);
      });
      return h("tr", {}, h("th", { scope: "row" }, header("rows", row, "row")), cells);
    });
    const table = h(
      "table",
      { class: "matrix tiles" },
      h("caption", { class: "visually-hidden" }, "Style mixing: rows with the styles of columns"),
      h("thead", {}, h("tr", {}, h("td", { class: "matrix-corner" }), head)),
      h("tbody", {}, body),
    );
    clear(this.table, table);
    ensureTabStop(table);
  }

  async #request(signal) {
    const { app, tiles } = this;
    // The images belong to what is set now, not to what is set when they arrive.
    const items = this.rows.flatMap((_, row) => this.columns.map((__, column) => this.#item(row, column)));
    try {
      const images = await app.api.images(MIX, this.#body([...this.rows], [...this.columns]), { signal });
      if (tiles !== this.tiles) return;
      images.forEach(({ blob }, i) => {
        setItem(app, tiles[i], items[i]);
        setBlob(tiles[i], blob);
      });
    } catch (error) {
      app.report(error);
    }
  }
}
