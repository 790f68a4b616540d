/** A source that the user can change: its image, its seed and its class. */

import { clear, h } from "../core/dom.js";
import { seedItem, sourceOf } from "../core/items.js";
import { dropZone } from "../shell/pick.js";
import { ensureTabStop } from "../shell/tiles.js";
import { classList, seedField } from "./controls.js";

/**
 * Returns an element that shows and changes a source `{seed, class, truncation}`.
 *
 * `onchange(source)` is called for every change. An image of the same model can be dropped on it.
 */
export function sourceEditor(app, model, { label, source, onchange, compact = false }) {
  let current = { ...source };
  const frame = h("div", { class: "source-image tiles" });
  const seed = seedField({ label: `Seed of ${label}`, value: source.seed, quiet: true, oninput: (value) => change({ seed: value }) });
  const classes =
    !compact && model.classes?.length
      ? classList({ label: `Class of ${label}`, classes: model.classes, value: source.class, quiet: true, onchange: (value) => change({ class: value || undefined }) })
      : null;
  const element = h("div", { class: "source", role: "group", "aria-label": label }, frame, seed, classes);

  function show() {
    clear(frame);
    frame.append(app.tile(seedItem(model, current.seed, current)));
    ensureTabStop(frame);
  }

  function change(changes) {
    current = { ...current, ...changes };
    show();
    onchange(current);
  }

  element.set = (next) => {
    current = { ...next };
    seed.set(next.seed);
    classes?.set(next.class);
    show();
  };
  dropZone(element, (item) => {
    const dropped = sourceFor(app, model, item);
    if (!dropped) return;
    element.set(dropped);
    onchange(current);
  });
  show();
  return element;
}

/** Returns the source of an item if a tool for `model` can use it; otherwise says why not. */
export function sourceFor(app, model, item) {
  const source = sourceOf(item);
  const [name, version] = item.body.model.split("@");
  if (name !== model.name || (version ?? model.version) !== model.version) {
    app.notify(`This image is of ${item.body.model}, and the tool is for ${model.name}@${model.version}.`, "error");
    return null;
  }
  if (!source) app.notify("Only images of a seed can be used here, and this is a mixture already.", "error");
  return source;
}
