/** Two images on top of each other, with a handle that shows more of one or the other. */

import { h, imageUrl } from "../../core/dom.js";

/**
 * Returns the view of two files with the same proportions.
 *
 * The handle is a slider as wide as the view, so that it works with the mouse, by touch and with
 * the arrow keys. `split` is the percentage of the view that shows `before`; `onSplit` gets changes.
 */
export function compareView(before, after, { isGray, split = 50, onSplit }) {
  const name = isGray ? "gray" : "before";
  const style = `compare-before ${isGray ? "is-gray" : ""}`;
  const beforeImage = h("img", { class: style, alt: name, draggable: false });
  const afterImage = h("img", { alt: "after", draggable: false });
  imageUrl(beforeImage, before);
  imageUrl(afterImage, after);
  const slider = h("input", {
    type: "range",
    min: "0",
    max: "100",
    step: "1",
    "aria-label": `Compare ${name} and after`,
    oninput: () => update(),
  });
  const view = h(
    "div",
    { class: "compare" },
    afterImage,
    beforeImage,
    slider,
    h("div", { class: "compare-handle" }),
    h("span", { class: "compare-label", "aria-hidden": "true" }, name),
    h("span", { class: "compare-label", "aria-hidden": "true" }, "after"),
  );
  const update = () => {
    const value = Number(slider.value);
    view.style.setProperty("--split", `${value}%`);
    slider.setAttribute("aria-valuetext", `${value}% ${name}, ${100 - value}% after`);
    onSplit?.(value);
  };
  slider.value = String(split);
  update();
  return view;
}
