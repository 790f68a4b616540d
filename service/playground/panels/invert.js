/** Inverts an image: finds the latent of the generated image that is most similar to it. */

import { h, iconButton } from "../core/dom.js";
import { fileName, generates, sourceFields, sourceItem } from "../core/items.js";
import { classList } from "./controls.js";
import { buildRequest } from "./image_tools/requests.js";
import { Tool } from "./image_tools/tool.js";

const TASK = { id: "invert", verb: "Inverting", view: "side", result: "Reconstruction" };

export const panel = {
  id: "invert",
  title: "Invert",
  fits: (model) => generates(model) && Boolean(model.encoder),
  mount: (container, model, app, input) => new Invert(container, model, app, TASK).start(input),
};

class Invert extends Tool {
  /** Offers examples, the figures of the encoder and, for a model without styles, its classes. */
  loadSpec() {
    const { model } = this;
    this.input.setSpec({});
    const { figures = [] } = model.encoder;
    this.direction.append(...figures.map((figure) => h("p", { class: "hint" }, figureOf(figure))));
    this.direction.hidden = false;
    // A latent w does not depend on the class any more.
    if (model.styles || !model.classes?.length) return;
    const onchange = (value) => {
      this.chosenClass = value;
      this.run();
    };
    this.direction.prepend(classList({ label: "Class of the image", classes: model.classes, all: "try all", onchange }));
  }

  async load(signal) {
    const { source, model, app, chosenClass } = this;
    const request = await buildRequest({ task: TASK.id, model, source: { ...source, samples: null }, class_: chosenClass });
    const [answer] = await app.api.images(request.path, request.form("json"), { signal });
    return { request, blob: answer.blob, note: noteOf(answer), found: sourceFields(answer) };
  }

  resultActions({ request, blob, found }) {
    const { app, model } = this;
    const item = sourceItem(model, found);
    const open = (id) => () => app.open(model.name, id, item);
    const edit = model.directions && iconButton("edit", "Edit this", open("edit"), { class: "button-primary" });
    const buttons = [
      edit || null,
      iconButton("swap", "Combine with…", open("pair")),
      iconButton("heart", "Keep", () => app.keep(item)),
      iconButton("more", "Details", () => app.show(item, blob, { focus: true })),
      iconButton("download", "Download", () => app.download(blob, `${fileName(item)}.png`)),
    ];
    return [h("div", { class: "button-row" }, buttons), ...this.recipes(request, "json")];
  }
}

/** Returns how close a reconstruction is, and how the image was fitted to the model. */
function noteOf({ class: class_, inversion }) {
  const { psnr, pass: passes, classes_tried: tried, crop, resized_input: resized, color, background } = inversion;
  const size = ([width, height]) => `${width} × ${height}`;
  const parts = [psnr === null ? "The reconstruction is exact" : `PSNR ${psnr.toFixed(1)} dB after ${passes} of the encoder's passes`];
  if (tried) parts.push(`${class_} was the best of ${tried} classes`);
  if (crop) parts.push(`only the middle, ${size(crop.slice(2))} pixels, was used`);
  if (resized) parts.push(`it was resized from ${size(resized.from)} to ${size(resized.to)}`);
  if (color) parts.push("its colors were removed");
  if (background) parts.push(`a ${background} background replaced its transparency`);
  return `${parts.join("; ")}.`;
}

/** Returns how close the encoder comes, beside simple baselines. */
function figureOf({ metric, images, count, value, mean_image: mean, nearest, candidates }) {
  const unit = metric === "PSNR" ? " dB" : "";
  const [encoder, average, sample] = [value, mean, nearest].map((each) => `${Number(each.toPrecision(3))}${unit}`);
  return `${metric} of ${count} images (${images}): ${encoder}; the mean image has ${average}, the nearest of ${candidates.toLocaleString("en")} samples ${sample}.`;
}
