/** The application: what the panels share, and which of them is shown. README.md describes it. */

import { Api, isAbort } from "../core/api.js";
import { clear, download, h, iconButton } from "../core/dom.js";
import { IMAGE_TASKS, MAX_SEED, generates, isSeed, modelOf, render, sourceOf } from "../core/items.js";
import { Kept } from "../core/kept.js";
import { formatHash, parseHash } from "../core/link.js";
import { layerChoices, validAmounts } from "../panels/directions.js";
import { panels } from "../panels/index.js";
import { validPrompts } from "../panels/prompts.js";
import { SHARES } from "../panels/rank.js";
import { validText } from "../panels/text.js";
import { markCard, showCards } from "./cards.js";
import { Details } from "./details.js";
import { installTray, mountGallery } from "./gallery.js";
import { Notices, WaitLine, askForKey, sentence } from "./notices.js";
import { Pick } from "./pick.js";
import { createTile, installTiles } from "./tiles.js";
import { showTabs } from "./tabs.js";

const GALLERY = "gallery";
/** Browsers limit how often a page may change its URL. */
const URL_DELAY_MS = 250;

export class App {
  /** `document` is index.html. */
  constructor(document) {
    const at = (id) => document.getElementById(id);
    const ids = ["models", "title", "summary", "tabs", "panel", "main"];
    this.elements = Object.fromEntries(ids.map((id) => [id, at(id)]));
    this.models = [];
    this.current = { model: null, panel: null, shared: [] };
    this.parameters = new Map();
    this.unmount = () => {};
    this.notices = new Notices(at("notices"));
    const wait = new WaitLine(at("wait"));
    this.api = new Api({ onWait: (error, seconds) => wait.add(error, seconds), askForKey });
    this.kept = new Kept();
    this.kept.addEventListener("unsaved", () => {
      this.notify("This browser stores nothing for the page: what you keep is gone after a reload.", "error");
    });
    this.pick = new Pick({ combine: (a, b) => this.combine(a, b) });
    this.details = new Details(this, at("details"));
    // Previews wait for the first images of the wall, which matter more.
    this.firstImages = new Promise((resolve) => {
      this.firstImagesShown = resolve;
      setTimeout(resolve, 3000);
    });
    installTiles(this);
    installTray(this, at("tray"), () => this.openGallery());
    this.#installHeader(at);
  }

  /** Loads the models and shows what the URL asks for. */
  async start() {
    const view = parseHash(location.hash);
    if (await this.loadModels()) this.#showView(view);
    addEventListener("hashchange", () => this.#showView(parseHash(location.hash)));
  }

  /** Requests the list of models. Returns whether there is one to show. */
  async loadModels() {
    try {
      const { data } = await this.api.json("/v1/models");
      this.models = data.sort((a, b) => (a.state !== "ready") - (b.state !== "ready"));
    } catch (error) {
      const retry = async () => {
        this.api.declined = false;
        if (await this.loadModels()) this.#showView(parseHash(location.hash));
      };
      this.#showMessage("The models cannot be listed", sentence(error.message), iconButton("play", "Try again", retry));
      return false;
    }
    showCards(this, this.elements.models, (model) => this.open(model.name));
    markCard(this.elements.models, this.current.model?.name);
    if (this.models.length) return true;
    this.#showMessage("No models yet", "This service has no models. Start it with a folder of models: ganymede serve --models DIR.");
    return false;
  }

  /** Returns the model with a name, or undefined. */
  model(name) {
    return this.models.find((model) => model.name === name);
  }

  /**
   * Returns what the user has set for a model: seed, class and truncation, which panels share, and
   * what one panel uses: `rank`, `directions` and `layers`; `prompt` and `n`; `temperature`, `prefix`
   * and `length`.
   */
  parametersOf(model) {
    if (!this.parameters.has(model.name)) this.parameters.set(model.name, { seed: 0 });
    return this.parameters.get(model.name);
  }

  /** Changes parameters of a model. */
  setParameters(model, changes) {
    Object.assign(this.parametersOf(model), changes);
    this.#updateUrl();
  }

  /** Shows a panel of a model; without `panelId`, the current one if it fits. */
  open(name, panelId, input) {
    const model = this.model(name);
    if (!model) {
      this.notify(`This service has no model ${name}.`, "error");
      return;
    }
    const fitting = model.state === "ready" ? panels.filter((panel) => panel.fits(model)) : [];
    const wanted = panelId ?? this.current.panel?.id;
    const panel = fitting.find((each) => each.id === wanted) ?? fitting[0] ?? null;
    this.#leave();
    this.current = { model, panel, shared: [] };
    const { title, summary, tabs } = this.elements;
    title.textContent = model.name;
    summary.textContent = model.summary ?? "";
    this.details.hintFor(model);
    markCard(this.elements.models, model.name);
    showTabs(tabs, fitting, panel, (each) => this.open(model.name, each.id));
    this.#mount(model, panel, input);
    this.#updateUrl({ isNew: true });
  }

  #mount(model, panel, input) {
    const container = this.elements.panel;
    if (model.state !== "ready") {
      const reason = sentence(model.reason ?? "The reason is in the log of the service");
      container.append(h("div", { class: "problem", role: "alert" }, h("h2", {}, "This model cannot be served"), h("p", {}, reason)));
    } else if (!panel) {
      container.append(h("p", { class: "problem" }, `The playground has no tool for the task ${model.task}. `, h("a", { href: "docs" }, "Its route is in the API.")));
    } else {
      this.unmount = panel.mount(container, model, this, input) ?? (() => {});
    }
    if (panel?.id !== "wall") this.firstImagesShown();
    if (panel) container.setAttribute("aria-labelledby", `tab-${panel.id}`);
  }

  /** Shows the kept images, and the items of a link. */
  openGallery(shared = []) {
    this.#leave();
    this.current = { model: null, panel: { id: GALLERY }, shared };
    this.elements.title.textContent = "Gallery";
    this.elements.summary.textContent = "What you keep stays in this browser. A link holds seeds and parameters, no files.";
    this.elements.tabs.hidden = true;
    this.elements.panel.removeAttribute("aria-labelledby");
    markCard(this.elements.models, null);
    this.unmount = mountGallery(this, this.elements.panel, shared);
    this.firstImagesShown();
    this.#updateUrl({ isNew: true });
    this.elements.main.focus();
  }

  /** Opens the tool that combines two items, if they can be combined. */
  combine(first, second) {
    const [a, b] = [modelOf(first), modelOf(second)];
    if (a.name !== b.name || a.version !== b.version) {
      this.notify(`Only images of one model can be combined: these are of ${a.name} and ${b.name}.`, "error");
    } else if (!sourceOf(first) || !sourceOf(second)) {
      this.notify("Only images of a seed, or inverted ones, can be combined; one of these is a mixture or an edit already.", "error");
    } else {
      this.open(a.name, "pair", { first, second });
    }
  }

  /** The image-to-image tools that can take an item as their input: `{model, panel}`. */
  toolsFor(item) {
    if (!isSeed(item)) return [];
    return this.models
      .filter((model) => model.state === "ready" && IMAGE_TASKS.includes(model.task))
      .map((model) => ({ model, panel: panels.find((panel) => panel.fits(model)) }))
      .filter(({ panel }) => panel);
  }

  isKept(item) {
    return this.kept.has(item);
  }

  keep(item) {
    if (this.kept.has(item)) this.notify("This image is kept already.");
    else if (!this.kept.add(item)) this.notify("The gallery is full. Remove images to keep others.", "error");
  }

  /** Removes an item from the kept ones. */
  discard(item) {
    const { items } = this.kept;
    this.kept.remove(item);
    this.notices.show("Removed from the gallery.", "info", { label: "Undo", run: () => this.kept.restore(items) });
  }

  show(item, blob, options) {
    this.details.show(item, blob, options);
  }

  tile(item, blob) {
    return createTile(this, item, blob);
  }

  render(item, options) {
    return render(this.api, item, options);
  }

  download(blob, filename) {
    download(blob, filename);
  }

  /** Returns a link to what the page shows. */
  link() {
    this.#updateUrl({ isNew: false, isNow: true });
    return location.href;
  }

  /** Returns a link to items. */
  linkTo(items) {
    return new URL(formatHash({ kept: items }) || "#", document.baseURI.replace(/#.*/, "")).href;
  }

  async copy(text, message = "Copied.") {
    try {
      await navigator.clipboard.writeText(text);
      this.notify(message);
    } catch {
      // Browsers offer the clipboard on https and localhost only.
      const field = h("textarea", { class: "copy-field", readOnly: true, value: text, "aria-label": "Text to copy" });
      const dialog = h("dialog", { class: "dialog" }, h("p", {}, "Copy this text:"), field, h("form", { method: "dialog" }, h("button", { type: "submit", class: "button" }, "Close")));
      dialog.addEventListener("close", () => dialog.remove());
      document.body.append(dialog);
      dialog.showModal();
      field.select();
    }
  }

  notify(text, kind = "info") {
    this.notices.show(text, kind);
  }

  report(error) {
    if (!isAbort(error)) this.notify(sentence(error.message), "error");
  }

  #leave() {
    this.unmount();
    this.unmount = () => {};
    clear(this.elements.panel);
    scrollTo({ top: 0 });
  }

  /** Shows what a URL asks for, without another entry in the history. */
  #showView(view) {
    this.isRestoring = true;
    this.#restore(view);
    this.isRestoring = false;
  }

  #restore({ model, panel, kept, ...parameters }) {
    if (kept?.length || panel === GALLERY) {
      this.openGallery(kept);
      return;
    }
    const chosen = this.model(model) ?? mostTangible(this.models);
    if (model && chosen.name !== model) this.notify(`This service has no model ${model}.`, "error");
    // What a link leaves out has its default, not what was set before.
    this.parameters.set(chosen.name, { seed: 0, ...valid(parameters, chosen) });
    this.open(chosen.name, panel);
  }

  /** Writes the view to the URL. A new view can be left with the button of the browser. */
  #updateUrl({ isNew = false, isNow = isNew } = {}) {
    clearTimeout(this.urlTimer);
    const write = () => {
      const { model, panel, shared } = this.current;
      const view = model ? { model: model.name, panel: panel?.id, ...this.parametersOf(model) } : { panel: GALLERY, kept: shared };
      const hash = formatHash(view);
      document.title = model ? `${model.name} · Ganymede` : "Gallery · Ganymede";
      if (isNew && !this.isRestoring && hash !== location.hash) history.pushState(null, "", hash);
      else history.replaceState(null, "", hash);
    };
    if (isNow) write();
    else this.urlTimer = setTimeout(write, URL_DELAY_MS);
  }

  #showMessage(title, text, button = null) {
    this.#leave();
    this.elements.title.textContent = title;
    this.elements.tabs.hidden = true;
    this.elements.summary.textContent = text;
    if (button) this.elements.panel.append(button);
  }

  #installHeader(at) {
    at("theme").addEventListener("click", () => window.toggleTheme());
    at("skip").addEventListener("click", (event) => {
      event.preventDefault();
      this.elements.main.focus();
    });
    at("key").addEventListener("click", async () => {
      const key = await askForKey("Requests send this key. An empty field sends none", false);
      if (key === null) return;
      this.api.setKey(key);
      if (await this.loadModels()) this.#showView(parseHash(location.hash));
    });
  }
}

/** Returns the parameters of a link that a model has, within its ranges. */
function valid({ seed, class: class_, truncation, rank, directions, layers, ...others }, model) {
  const parameters = {};
  if (Number.isInteger(seed) && seed <= MAX_SEED) parameters.seed = seed;
  if (model.classes?.includes(class_)) parameters.class = class_;
  if (truncation !== undefined && model.truncation) {
    const { minimum, maximum } = model.truncation;
    parameters.truncation = Math.min(Math.max(truncation, minimum), maximum);
  }
  if (model.discriminator && SHARES.includes(rank)) parameters.rank = rank;
  if (model.directions) {
    parameters.directions = validAmounts(model, directions);
    if (model.styles && layerChoices(model).includes(layers)) parameters.layers = layers;
  }
  if (model.text_input) Object.assign(parameters, validPrompts(others));
  if (model.text) Object.assign(parameters, validText(others, model));
  return parameters;
}

/** Returns the model to begin with: one that generates, with as many controls as possible. */
function mostTangible(models) {
  const score = (model) =>
    8 * (model.state === "ready") +
    4 * generates(model) +
    2 * Boolean(model.styles) +
    Boolean(model.classes?.length);
  return [...models].sort((a, b) => score(b) - score(a))[0];
}
