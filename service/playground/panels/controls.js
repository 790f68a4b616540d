/** The controls that several panels share: seed, class, truncation, sliders and choices. */

import { h, iconButton, uniqueId } from "../core/dom.js";
import { MAX_SEED, randomSeed } from "../core/items.js";

/** The slider of the seed covers the first seeds; the field takes all of them. */
const SLIDER_SEEDS = 9999;
/** More classes are a list instead of buttons. */
const MOST_BUTTONS = 12;

/**
 * Returns a slider with a label and its value: an element with `value` and `set(value)`.
 *
 * `oninput(value)` is called while it is dragged. `format` turns the value into text.
 */
export function slider({ label, min, max, step, value, oninput, format = String, hints = [] }) {
  const id = uniqueId("slider");
  const output = h("output", { htmlFor: id, class: "slider-value" }, format(value));
  const input = h("input", { type: "range", id, min, max, step, value });
  const show = () => {
    const number = Number(input.value);
    output.textContent = format(number);
    input.setAttribute("aria-valuetext", format(number));
    const share = (number - min) / (max - min || 1);
    input.style.setProperty("--share", `${100 * share}%`);
    return number;
  };
  input.addEventListener("input", () => oninput(show()));
  show();
  const ends = hints.length > 0 && h("span", { class: "slider-hints", "aria-hidden": "true" }, hints.map((hint) => h("span", {}, hint)));
  const element = h("div", { class: "control slider" }, h("label", { htmlFor: id }, label), output, input, ends);
  element.set = (next) => {
    input.value = next;
    show();
  };
  return element;
}

/** Returns radio buttons that look like one control; `choices` are `{value, label}`. */
export function choice({ label, choices, value, onchange, quiet = false }) {
  const name = uniqueId("choice");
  const buttons = choices.map((each) => {
    const input = h("input", { type: "radio", name, value: each.value, checked: each.value === value });
    input.addEventListener("change", () => onchange(each.value));
    return h("label", { class: "choice" }, input, h("span", {}, each.label));
  });
  return h(
    "fieldset",
    { class: "control choices" },
    h("legend", { class: quiet ? "visually-hidden" : "" }, label),
    h("div", { class: "choice-row" }, buttons),
  );
}

/** Returns a field for a text. With `rows`, it has several lines. */
export function textField({ label, value, oninput, rows = 0, ...props }) {
  const id = uniqueId("text");
  const input = rows ? h("textarea", { id, rows, value, ...props }) : h("input", { type: "text", id, value, ...props });
  input.addEventListener("input", () => oninput(input.value));
  return h("div", { class: "control text-field" }, h("label", { htmlFor: id }, label), input);
}

/** Returns a field for a seed with a button for a random one. */
export function seedField({ label, value, oninput, quiet = false }) {
  const id = uniqueId("seed");
  const input = h("input", { type: "number", id, min: 0, max: MAX_SEED, step: 1, value, inputMode: "numeric" });
  const emit = () => {
    if (input.value !== "" && input.validity.valid) oninput(Number(input.value));
  };
  input.addEventListener("input", emit);
  const random = () => {
    input.value = randomSeed();
    emit();
  };
  const dice = iconButton("dice", `Random ${label.toLowerCase()}`, random, { quiet: true });
  const element = h(
    "div",
    { class: "control seed-field" },
    h("label", { htmlFor: id, class: quiet ? "visually-hidden" : "" }, label),
    h("span", { class: "field-row" }, input, dice),
  );
  element.set = (next) => {
    input.value = next;
  };
  return element;
}

/** Returns the control of a seed: a field, a slider and a random seed. */
function seedControl(value, oninput) {
  const field = seedField({
    label: "Seed",
    value,
    oninput: (seed) => {
      range.set(Math.min(seed, SLIDER_SEEDS));
      oninput(seed);
    },
  });
  const range = slider({
    label: "Drag through seeds",
    min: 0,
    max: SLIDER_SEEDS,
    step: 1,
    value: Math.min(value, SLIDER_SEEDS),
    oninput: (seed) => {
      field.set(seed);
      oninput(seed);
    },
  });
  range.classList.add("seed-slider");
  return h("div", { class: "seed-control" }, field, range);
}

/** Returns the control of a class: buttons, or a list if there are many. "" is every class. */
export function classControl({ label, classes, value = "", onchange, all = "All" }) {
  const choices = [{ value: "", label: all }, ...classes.map((each) => ({ value: each, label: each }))];
  if (choices.length <= MOST_BUTTONS + 1) return choice({ label, choices, value, onchange });
  return classList({ label, classes, value, onchange, all });
}

/** Returns a list of classes to choose from. */
export function classList({ label, classes, value = "", onchange, all = "By seed", quiet = false }) {
  const id = uniqueId("class");
  const options = [h("option", { value: "" }, all), ...classes.map((each) => h("option", { value: each }, each))];
  const select = h("select", { id }, options);
  select.value = value;
  select.addEventListener("change", () => onchange(select.value));
  const element = h(
    "div",
    { class: "control class-list" },
    h("label", { htmlFor: id, class: quiet ? "visually-hidden" : "" }, label),
    select,
  );
  element.set = (next) => {
    select.value = next ?? "";
  };
  return element;
}

/** Returns the control of the truncation. */
export function truncationControl({ truncation, value, oninput }) {
  return slider({
    label: "Truncation",
    min: truncation.minimum,
    max: truncation.maximum,
    step: (truncation.maximum - truncation.minimum) / 100,
    value: value ?? truncation.default,
    format: (number) => number.toFixed(2),
    oninput: (number) => oninput(Number(number.toFixed(4))),
    hints: ["typical", "diverse"],
  });
}

/**
 * Returns the controls that a model has. `onchange(parameters)` gets seed, class and truncation; the
 * application remembers them for the other panels of the model.
 */
export function modelControls(app, model, onchange, { seed = true, classes = true } = {}) {
  const parameters = app.parametersOf(model);
  const change = (changes) => {
    app.setParameters(model, changes);
    onchange(app.parametersOf(model));
  };
  const controls = [];
  if (seed) controls.push(seedControl(parameters.seed, (value) => change({ seed: value })));
  if (model.truncation) {
    const { truncation } = model;
    controls.push(truncationControl({ truncation, value: parameters.truncation, oninput: (value) => change({ truncation: value }) }));
  }
  if (classes && model.classes?.length) {
    const value = parameters.class ?? "";
    const set = (next) => change({ class: next || undefined });
    controls.push(classControl({ label: "Class", classes: model.classes, value, onchange: set }));
  }
  return h("div", { class: "controls", hidden: !controls.length }, controls);
}
