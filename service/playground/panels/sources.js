/** A source that the user can change: its image, its seed and its class. */

import { clear, h } from "../core/dom.js";
import { nameOf, sourceItem, sourceOf } from "../core/items.js";
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
  const name = h("span", { class: "hint source-name" });
  const element = h("div", { class: "source", role: "group", "aria-label": label }, frame, name, seed, classes);

  function show() {
    clear(frame);
    frame.append(app.tile(sourceItem(model, current)));
    // A latent has no seed to type.
    const isLatent = current.seed === undefined;
    seed.hidden = isLatent;
    if (classes) classes.hidden = isLatent;
    name.textContent = isLatent ? nameOf(current) : "";
    ensureTabStop(frame);
  }

  function change(changes) {
    current = { ...current, ...changes };
    show();
    onchange(current);
  }

  element.set = (next) => {
    current = { ...next };
    seed.set(next.seed ?? "");
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
  if (!source) app.notify("Only images of a seed, or inverted ones, can be used here; this one is a mixture or an edit already.", "error");
  return source;
}
