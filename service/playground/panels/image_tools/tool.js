/**
 * One tool for images: an image on the left, the result on the right.
 *
 * The request is sent as soon as an image is there, and again after every change; a change cancels
 * the request in progress.
 */

import { isAbort } from "../../core/api.js";
import { clear, h, iconButton, imageUrl, uniqueId } from "../../core/dom.js";
import { FORMATS, fileName, fullName } from "../../core/items.js";
import { recipe } from "../../shell/details.js";
import { sentence } from "../../shell/notices.js";
import { choice } from "../controls.js";
import { compareView } from "./compare.js";
import { ImageInput, fit, sizeOf } from "./input.js";
import { paintSurface } from "./paint.js";
import { buildRequest, curlOfUpload, pythonOfUpload } from "./requests.js";

/** A stroke is usually followed by another. */
const PAINT_DELAY_MS = 350;
const PAINT_FIRST = "Paint over what should be replaced.";

/** Mounts the tool for `task` and returns the function that unmounts it. */
export function mountTool(container, model, app, input, task) {
  return new Tool(container, model, app, task).start(input);
}

/** The frame of a tool. `load` and `resultActions` are what an image-to-image model needs. */
export class Tool {
  constructor(container, model, app, task) {
    Object.assign(this, { container, model, app, task });
  }

  start(input) {
    const { container, model, app, task } = this;
    this.input = new ImageInput(app, model, {
      onSource: (source) => this.setSource(source),
      onError: (error) => this.showError(error),
    });
    this.direction = h("div", { class: "tool-direction", hidden: true });
    this.editor = h("div");
    this.view = h("div", { class: "tool-view" });
    this.actions = h("div", { class: "tool-actions", hidden: true });
    this.status = h("p", { class: "tool-status", role: "status" });
    this.elapsed = h("span", { class: "tool-elapsed", "aria-hidden": "true" });
    const bar = h("progress", { "aria-label": task.verb });
    const cancel = iconButton("close", "Cancel", () => this.cancel());
    this.progress = h("div", { class: "tool-progress", hidden: true }, bar, this.elapsed, cancel);
    this.error = h("div", { class: "problem tool-error", hidden: true });
    const { direction, editor, view, progress, error, status, actions } = this;
    this.imageColumn = column("Image", editor);
    this.resultColumn = column(task.result ?? "Result", view, progress, error, status, actions);
    // On a narrow screen, the result comes right after the image.
    const children = [direction, this.imageColumn, this.resultColumn, this.input.element];
    this.frame = h("div", { class: "image-tool" }, children);
    clear(container);
    container.append(this.frame);
    this.setSource(null);
    this.loadSpec();
    if (input) this.input.setItem(input);
    return () => this.stop();
  }

  stop() {
    this.isStopped = true;
    this.controller?.abort();
    clearTimeout(this.timer);
    clearInterval(this.clock);
    this.input.stop();
    clear(this.container);
  }

  /** Reads what the manifest says about the input: directions, channels, size. */
  async loadSpec() {
    let spec;
    try {
      const detail = await this.app.api.json(`/v1/models/${fullName(this.model)}`);
      spec = detail.manifest?.input ?? {};
    } catch (error) {
      this.app.report(error);
      return;
    }
    if (this.isStopped) return;
    this.input.setSpec(spec);
    const { directions = [] } = spec;
    if (directions.length < 2) return;
    const choices = directions.map((value) => ({ value, label: value.replaceAll("-", " ") }));
    const onchange = (value) => {
      this.chosenDirection = value;
      this.run();
    };
    this.direction.append(choice({ label: "Direction", choices, value: directions[0], onchange }));
    this.direction.hidden = false;
  }

  setSource(source) {
    this.source = source;
    clearTimeout(this.timer);
    this.controller?.abort();
    clear(this.editor);
    this.surface = null;
    this.hideError();
    this.clearResult();
    this.imageColumn.hidden = !source || source.isDrawing;
    this.resultColumn.hidden = !source;
    if (!source) return;
    this.editor.append(this.task.isMasked ? this.maskEditor(source) : this.preview(source));
    if (this.task.isMasked) this.view.append(placeholder(PAINT_FIRST));
    else this.run();
  }

  preview(source) {
    const img = h("img", { class: "tool-image", alt: `The input: ${source.label}` });
    imageUrl(img, source.blob);
    fit(img, source.width, source.height);
    return h("figure", { class: "tool-figure" }, img, this.caption(source));
  }

  maskEditor(source) {
    const background = h("img", { alt: "" });
    imageUrl(background, source.blob);
    const onChange = () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.run(), PAINT_DELAY_MS);
    };
    const { width, height } = source;
    this.surface = paintSurface({ width, height, label: "The area to fill", isMask: true, background, onChange });
    fit(this.surface.stage, width, height);
    return h("div", { class: "tool-figure" }, this.surface.element, this.caption(source));
  }

  caption({ label, width, height, note = "" }) {
    return h("p", { class: "tool-hint" }, `${label}, ${width} × ${height} pixels. ${note}`);
  }

  /** Sends the request for the current image. */
  async run() {
    clearTimeout(this.timer);
    this.controller?.abort();
    const { source, surface } = this;
    if (!source) return;
    this.hideError();
    if (surface?.isEmpty()) {
      this.endProgress();
      this.clearResult();
      this.view.append(placeholder(PAINT_FIRST));
      return;
    }
    const controller = new AbortController();
    this.controller = controller;
    const { signal } = controller;
    this.beginProgress();
    const started = performance.now();
    try {
      const result = await this.load(signal);
      const { width, height } = await sizeOf(result.blob);
      if (signal.aborted) return;
      this.showResult({ ...result, width, height, time: performance.now() - started });
    } catch (error) {
      if (this.controller === controller) this.showError(error);
    } finally {
      if (this.controller === controller) this.endProgress();
    }
  }

  /** Requests the result for the current image: its file as `blob`, and what `resultActions` needs. */
  async load(signal) {
    const { source, task, model, app, surface, chosenDirection: direction } = this;
    const request = await buildRequest({ task: task.id, model, source, surface, direction });
    const send = (format, options) =>
      request.item
        ? app.render(request.item, { format, ...options })
        : app.api.blob(request.path, request.form(format), options);
    return { request, send, blob: await send("png", { signal }) };
  }

  cancel() {
    this.controller?.abort();
    this.endProgress();
    this.status.textContent = "Cancelled.";
    if (!this.result) this.view.replaceChildren(placeholder(iconButton("play", "Run again", () => this.run())));
  }

  beginProgress() {
    const started = performance.now();
    const update = () => {
      const seconds = Math.floor((performance.now() - started) / 1000);
      this.elapsed.textContent = `${this.task.verb}… ${seconds ? `${seconds} s` : ""}`;
    };
    update();
    clearInterval(this.clock);
    this.clock = setInterval(update, 250);
    this.progress.hidden = false;
    this.frame.setAttribute("aria-busy", "true");
    this.status.textContent = "";
    this.view.classList.add("is-stale");
  }

  endProgress() {
    clearInterval(this.clock);
    this.progress.hidden = true;
    this.frame.removeAttribute("aria-busy");
    this.view.classList.remove("is-stale");
  }

  clearResult() {
    clear(this.view);
    clear(this.actions);
    this.actions.hidden = true;
    this.status.textContent = "";
    this.result = null;
  }

  showResult(result) {
    const { source, task } = this;
    this.clearResult();
    this.result = result;
    const { width, height } = result;
    if (task.view === "compare") {
      const onSplit = (value) => {
        this.split = value;
      };
      const view = compareView(source.blob, result.blob, { isGray: task.isGray, split: this.split, onSplit });
      fit(view, width, height, { isSmooth: task.id === "upscale" });
      this.view.append(view);
    } else {
      const img = h("img", { class: "tool-image", alt: `The result for ${source.label}` });
      imageUrl(img, result.blob);
      fit(img, width, height);
      this.view.append(h("figure", { class: "tool-figure" }, img));
    }
    this.status.textContent = `${width} × ${height} pixels, in ${duration(result.time)}. ${result.note ?? ""}`;
    this.actions.append(...this.resultActions(result));
    this.actions.hidden = false;
    if (result.request.item) this.app.show(result.request.item, result.blob);
  }

  resultActions({ request, send, blob }) {
    const { app } = this;
    const { item, mask } = request;
    const name = item ? fileName(item) : request.name;
    const options = FORMATS.map(({ format, label }) => h("option", { value: format }, label));
    const select = h("select", { "aria-label": "Format of the download" }, options);
    const save = async () => {
      const { format, extension } = FORMATS.find((each) => each.format === select.value);
      saveButton.disabled = true;
      try {
        app.download(format === "png" ? blob : await send(format, {}), `${name}.${extension}`);
      } catch (error) {
        app.report(error);
      }
      saveButton.disabled = false;
    };
    const saveButton = iconButton("download", "Download", save, { class: "button-primary" });
    const buttons = [h("span", { class: "tool-save" }, select, saveButton)];
    // On a wide screen, the details are there already.
    const show = () => app.show(item, blob, { focus: true });
    if (item) buttons.push(iconButton("more", "Details", show, { class: "tool-details" }));
    const saveMask = () => app.download(mask, "mask.png");
    if (mask) buttons.push(iconButton("download", "Download the mask", saveMask));
    const row = h("div", { class: "button-row" }, buttons);
    return item ? [row] : [row, ...this.recipes(request)];
  }

  /** The request of an upload as curl and Python; for an item, the details have them. */
  recipes(request, format = "png") {
    const { app } = this;
    const options = { withKey: Boolean(app.api.key) };
    const block = (title, text) => recipe(app, title, h("pre", { tabIndex: 0 }, h("code", {}, text)), text);
    const curl = block("curl", curlOfUpload(request, { ...options, format }));
    const python = block("Python", pythonOfUpload(request, options));
    return [h("details", { class: "tool-code" }, h("summary", {}, "Make it again"), curl, python)];
  }

  showError(error) {
    if (isAbort(error)) return;
    this.endProgress();
    this.clearResult();
    const canRepeat = this.source && (error.status === 0 || error.status >= 429);
    clear(this.error);
    this.error.append(h("p", { role: "alert" }, sentence(error.message)));
    if (canRepeat) this.error.append(iconButton("play", "Try again", () => this.run()));
    this.error.hidden = false;
    this.resultColumn.hidden = false;
  }

  hideError() {
    this.error.hidden = true;
    clear(this.error);
  }
}

function column(title, ...children) {
  const id = uniqueId("tool");
  return h("section", { class: "tool-column", "aria-labelledby": id }, h("h2", { id, class: "tool-title" }, title), children);
}

function placeholder(content) {
  return h("div", { class: "tool-placeholder" }, content);
}

function duration(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}
