/** The list of models: a card with preview, name, summary and what the model offers. */

import { clear, h, imageUrl } from "../core/dom.js";
import { IMAGE_TASKS, generates } from "../core/items.js";

const GROUPS = [
  { title: "Generate", fits: generates },
  { title: "Audio", fits: (model) => Boolean(model.audio) },
  // A text encoder takes no requests of its own: it is shown only if it has failed.
  { title: "Text", fits: (model) => model.task?.startsWith("text") && (model.task !== "text-encoder" || model.state !== "ready") },
  { title: "Image to image", fits: (model) => IMAGE_TASKS.includes(model.task) },
];

/** Fills `container` with the cards; `onChoose(model)` is called for the one that is clicked. */
export function showCards(app, container, onChoose) {
  const groups = GROUPS.map(({ title, fits }) => {
    const models = app.models.filter(fits);
    if (!models.length) return null;
    const cards = models.map((model) => h("li", {}, card(app, model, onChoose)));
    return h("section", { class: "cards" }, h("h2", {}, title), h("ul", { role: "list" }, cards));
  });
  clear(container, ...groups.filter(Boolean));
}

/** Marks the card of the model that is shown. */
export function markCard(container, name) {
  for (const button of container.querySelectorAll(".card")) {
    const isCurrent = button.dataset.model === name;
    if (isCurrent) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    if (isCurrent) button.parentElement.scrollIntoView({ block: "nearest", inline: "start" });
  }
}

function card(app, model, onChoose) {
  const failed = model.state !== "ready";
  const preview = h("img", { alt: "", class: "card-preview" });
  const facts = failed ? "cannot be served" : describe(model).join(" · ");
  const button = h(
    "button",
    { class: "card", dataset: { model: model.name }, onclick: () => onChoose(model) },
    h("span", { class: "card-frame" }, preview),
    h(
      "span",
      { class: "card-text" },
      h("span", { class: "card-name" }, model.name),
      h("span", { class: "card-summary" }, model.summary ?? model.reason ?? ""),
      h("span", { class: failed ? "card-facts is-failed" : "card-facts" }, facts),
    ),
  );
  showPreview(app, model, preview);
  return button;
}

/** Returns what a model offers, in a few words. */
export function describe(model) {
  const { image, audio, text } = model;
  const facts = image ? [`${image.width} × ${image.height}`] : [];
  if (audio) facts.push(`${Number((audio.samples / audio.sample_rate).toPrecision(2))} s, ${audio.sample_rate / 1000} kHz`);
  if (text) facts.push(`at most ${text.max_length} ${text.unit}s`);
  if (model.classes?.length) facts.push(`${model.classes.length} classes`);
  if (model.styles) facts.push("styles");
  if (model.truncation) facts.push("truncation");
  if (!generates(model)) facts.push(model.task);
  return facts;
}

/** Two images of a preview fill the width of a card's frame. */
function crop(img, model) {
  const frame = img.parentElement.clientWidth;
  const scale = frame / (2 * (model.image?.width ?? img.naturalWidth / 2));
  img.style.setProperty("inline-size", `${Math.round(img.naturalWidth * scale)}px`);
  img.classList.toggle("is-small", scale >= 1);
}

let observer = null;
const requests = new WeakMap();

/** Requests the preview when the card is visible and the page has nothing more urgent to load. */
function showPreview(app, model, img) {
  observer ??= new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      requests.get(target)();
    }
  });
  requests.set(img, async () => {
    try {
      await app.firstImages;
      img.addEventListener("load", () => crop(img, model), { once: true });
      imageUrl(img, await app.api.blob(`/v1/models/${encodeURIComponent(model.name)}/preview.webp`));
      img.classList.add("is-loaded");
    } catch {
      // A model without a preview has a card without one.
    }
  });
  observer.observe(img);
}
