/** Texts of consecutive seeds, shown as they are generated. */

import { ApiError, isAbort } from "../core/api.js";
import { clear, h, iconButton } from "../core/dom.js";
import { readEvents } from "../core/events.js";
import { MAX_SEED, fullName, present } from "../core/items.js";
import { settled } from "../core/latest.js";
import { curlOfRequest, pythonOfRequest } from "../core/recipes.js";
import { foldedRecipes } from "../shell/details.js";
import { sentence } from "../shell/notices.js";
import { choice, modelControls, slider, textField } from "./controls.js";

const PATH = "/v1/text";
const COUNTS = [1, 4, 8];
const FIRST_COUNT = 4;
const HIGHEST_TEMPERATURE = 2;
const LONGEST_PREFIX = 1000;

export const panel = {
  id: "text",
  title: "Write",
  fits: (model) => Boolean(model.text),
  mount(container, model, app) {
    return new Texts(container, model, app).unmount;
  },
};

/** Returns the parameters of this panel in a link. */
export function validText({ n, temperature, prefix, length }, model) {
  return {
    ...(COUNTS.includes(n) && { n }),
    ...(temperature !== undefined && { temperature: Math.min(temperature, HIGHEST_TEMPERATURE) }),
    ...(prefix && { prefix: prefix.slice(0, LONGEST_PREFIX) }),
    ...(Number.isInteger(length) && length >= 1 && { length: Math.min(length, model.text.max_length) }),
  };
}

class Texts {
  constructor(container, model, app) {
    this.model = model;
    this.app = app;
    this.controller = null;
    this.settle = settled(() => this.run());
    this.#build(container);
    this.run();
    this.isMounted = true;
    this.unmount = () => {
      this.isMounted = false;
      this.controller?.abort();
    };
  }

  #build(container) {
    const { app, model } = this;
    const { unit, max_length: longest } = model.text;
    const { n = FIRST_COUNT, temperature = 1, prefix = "", length = longest } = app.parametersOf(model);
    const change = (changes) => {
      app.setParameters(model, changes);
      this.settle();
    };
    const controls = modelControls(app, model, () => this.settle());
    const longestControl = slider({
      label: "Maximum length",
      min: 1,
      max: longest,
      step: 1,
      value: length,
      format: (value) => plural(value, unit),
      oninput: (value) => change({ length: value }),
    });
    longestControl.classList.add("is-wide");
    controls.append(
      slider({
        label: "Temperature",
        min: 0,
        max: HIGHEST_TEMPERATURE,
        step: 0.05,
        value: temperature,
        format: (value) => value.toFixed(2),
        oninput: (value) => change({ temperature: value }),
        hints: ["likely", "surprising"],
      }),
      longestControl,
      textField({ label: "Prefix", value: prefix, maxLength: LONGEST_PREFIX, spellcheck: false, oninput: (value) => change({ prefix: value }) }),
      choice({
        label: "Texts",
        value: n,
        choices: COUNTS.map((value) => ({ value, label: String(value) })),
        onchange: (value) => change({ n: value }),
      }),
    );
    this.runButton = h("span");
    this.status = h("p", { class: "hint", role: "status" });
    this.error = h("div", { class: "problem", role: "alert", hidden: true });
    this.list = h("ul", { class: "text-list", role: "list", "aria-label": `Texts of ${model.name}` });
    this.recipes = h("div");
    const link = iconButton("link", "Copy the link", () => app.copy(app.link(), "The link is copied."));
    container.append(controls, h("div", { class: "button-row" }, this.runButton, link, this.status), this.error, this.list, this.recipes);
  }

  #showRunning(isRunning) {
    const button = isRunning
      ? iconButton("close", "Stop", () => this.controller.abort(), { class: "text-run" })
      : iconButton("play", "Generate", () => this.run(), { class: "button-primary text-run" });
    const hadFocus = this.runButton.contains(document.activeElement);
    this.runButton.replaceChildren(button);
    if (hadFocus) button.focus();
  }

  /** The request, without the format. */
  #body() {
    const { seed, n = FIRST_COUNT, temperature, prefix, length } = this.app.parametersOf(this.model);
    const count = Math.min(n, MAX_SEED - seed + 1);
    return { model: fullName(this.model), n: count, seed, ...present({ temperature, prefix, max_length: length }) };
  }

  /** Generates the texts, in place of those that are shown. */
  async run() {
    if (this.isMounted === false) return;
    this.controller?.abort();
    const controller = new AbortController();
    this.controller = controller;
    const body = this.#body();
    this.error.hidden = true;
    this.status.textContent = "Generating…";
    this.#showRunning(true);
    this.#showRecipes(body);
    let outputs = null;
    let hasEnded = false;
    try {
      const response = await this.app.api.request(PATH, { ...body, format: "events" }, { accept: "text/event-stream", signal: controller.signal });
      outputs = this.#outputs(body);
      await readEvents(response, (event, data) => {
        if (event === "token") outputs[data.index].add(data.text);
        if (event === "text") outputs[data.index].end(data);
        hasEnded ||= event === "end";
      });
      if (!hasEnded) throw new ApiError("The stream ended before the texts were complete.");
      this.status.textContent = `${plural(body.n, "text")}.`;
    } catch (error) {
      // A newer request shows its own status.
      if (this.controller !== controller) return;
      this.status.textContent = isAbort(error) ? "Stopped." : "";
      for (const output of outputs ?? []) output.stop();
      if (!isAbort(error)) this.#showError(error);
    }
    if (this.controller === controller) this.#showRunning(false);
  }

  #showError(error) {
    this.error.replaceChildren(h("p", {}, sentence(error.message)));
    this.error.hidden = false;
  }

  /** Returns the texts of a request, which are empty yet. */
  #outputs({ n, seed, prefix = "" }) {
    const { app, model } = this;
    const outputs = Array.from({ length: n }, (_, i) => {
      const name = `Seed ${seed + i}`;
      const text = h("p", { class: "text-output is-running" }, prefix);
      const facts = h("span", { class: "hint" });
      const copy = iconButton("copy", `Copy the text of seed ${seed + i}`, () => app.copy(text.textContent), { quiet: true });
      return {
        element: h("li", { class: "text-row" }, h("div", { class: "text-header" }, h("span", { class: "text-name" }, name), facts, copy), text),
        add: (piece) => text.append(piece),
        end: (record) => {
          text.textContent = record.text;
          text.classList.remove("is-running");
          facts.textContent = `${plural(record.tokens, model.text.unit)}${record.finish_reason === "length" ? ", cut at the maximum length" : ""}`;
        },
        stop: () => {
          if (!text.classList.contains("is-running")) return;
          text.classList.remove("is-running");
          facts.textContent = "stopped";
        },
      };
    });
    clear(this.list, ...outputs.map(({ element }) => element));
    return outputs;
  }

  #showRecipes(body) {
    const options = { withKey: Boolean(this.app.api.key) };
    const texts = [
      ["curl", curlOfRequest(PATH, { ...body, format: "text" }, options)],
      ["Python", pythonOfRequest(PATH, body, "text", "print(text.text)", options)],
    ];
    this.recipes.replaceChildren(foldedRecipes(this.app, texts, this.recipes.querySelector("details")?.open));
  }
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
