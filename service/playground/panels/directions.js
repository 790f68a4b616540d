/** The sliders of a model's named directions. */

import { h, iconButton, uniqueId } from "../core/dom.js";
import { signed } from "../core/items.js";
import { slider } from "./controls.js";
import { styleGroups } from "./pair.js";

/** The largest amount of a slider, in standard deviations of the latents. */
export const RANGE = 3;
/** Further directions are behind a summary. */
const SHOWN = 8;
const ALL = "all";

/** Returns what can replace the layers of the directions: one group, or all. */
export function layerChoices(model) {
  return [...styleGroups(model), ALL];
}

/** Returns a choice as the field `layers` of a request; undefined for the layers of the directions. */
export function layersFor(model, value) {
  if (!value) return undefined;
  return value === ALL ? styleGroups(model) : [value];
}

/** Returns the amounts of a link for directions that a model has, within the range of the sliders. */
export function validAmounts(model, amounts = {}) {
  const known = model.directions.filter(({ name }) => Number.isFinite(amounts[name]) && amounts[name]);
  return Object.fromEntries(known.map(({ name }) => [name, Math.min(Math.max(amounts[name], -RANGE), RANGE)]));
}

/**
 * Returns an element with a slider for each direction of a model.
 *
 * `oninput(name, amount)` is called while one is dragged. `set(amounts)` moves the sliders, and
 * `disable(isDisabled)` switches off those for which `isDisabled(direction)` is true.
 */
export function directionSliders(model, amounts, oninput) {
  const items = model.directions;
  const rows = items.map((item) => directionSlider(model, item, amounts[item.name] ?? 0, (value) => oninput(item.name, value)));
  const more = rows.slice(SHOWN);
  const rest = more.length && h("details", { class: "directions-more" }, h("summary", {}, `${more.length} more directions`), more);
  const element = h("div", { class: "directions", role: "group", "aria-label": "Directions" }, rows.slice(0, SHOWN), rest || null);
  element.set = (next) => rows.forEach((row, i) => row.set(next[items[i].name] ?? 0));
  element.disable = (isDisabled) => rows.forEach((row, i) => row.disable(isDisabled(items[i])));
  return element;
}

function directionSlider(model, item, value, oninput) {
  const control = slider({
    label: item.name,
    min: -RANGE,
    max: RANGE,
    step: 0.1,
    value,
    format: (amount) => signed(Number(amount.toFixed(1))),
    oninput: (amount) => {
      show(amount);
      oninput(Number(amount.toFixed(1)));
    },
  });
  const input = control.querySelector("input");
  const reset = iconButton("reset", `Reset ${item.name}`, () => {
    row.set(0);
    oninput(0);
    input.focus();
  }, { quiet: true });
  const id = uniqueId("direction");
  input.setAttribute("aria-describedby", id);
  control.classList.add("is-centered");
  const show = (amount) => reset.classList.toggle("is-idle", Number(amount) === 0);
  const about = h("p", { class: "hint", id }, summaryOf(model, item));
  const row = h("div", { class: "direction", title: detailsOf(item) }, control, reset, about);
  row.set = (amount) => {
    control.set(amount);
    show(amount);
  };
  row.disable = (isDisabled) => {
    input.disabled = isDisabled;
    row.classList.toggle("is-off", isDisabled);
  };
  show(value);
  return row;
}

/** Returns where a direction acts and what it changes, in a few words. */
function summaryOf(model, { layers, figures }) {
  const groups = new Set(layers.map((layer) => model.styles?.layers[layer]?.group));
  const parts = [groups.size ? `${[...groups].join(", ")} layers` : "whole latent"];
  if (figures) parts.push(`effect ${figure(figures.effect)} (random ${figure(figures.random_effect)})`, `drift ${figure(figures.drift)} (${figure(figures.random_drift)})`);
  return parts.join(" · ");
}

/** Returns how a direction was found and measured. */
function detailsOf({ method, description, figures }) {
  const found = `${description} (${method}).`;
  if (!figures) return found;
  const { samples, feature_network: network, drift_of: of } = figures;
  return `${found} Effect: change of image features per unit (${network}); drift: ${of}. Over ${samples} images, beside random directions of the same length.`;
}

function figure(value) {
  return String(Number(value.toPrecision(2)));
}
