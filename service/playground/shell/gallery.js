/** The kept images: the tray at the bottom of the page, and the gallery. */

import { clear, h, iconButton, imageUrl } from "../core/dom.js";
import { keyOf } from "../core/items.js";
import { createTile, ensureTabStop, tileItem } from "./tiles.js";
import { dropZone } from "./pick.js";

/** Fills `element` with the kept images and keeps it up to date. `onOpen` opens the gallery. */
export function installTray(app, element, onOpen) {
  const strip = h("div", { class: "tray-images tiles", role: "group", "aria-label": "Kept images" });
  const count = h("span", { class: "tray-count" });
  const open = h("button", { class: "button", onclick: onOpen }, "Gallery ", count);
  const share = iconButton("link", "Copy link", () => shareLink(app, app.kept.items));
  const hint = h("p", { class: "tray-hint" }, "Click an image to keep it. Drag one onto another to combine them.");
  element.append(h("div", { class: "tray-buttons" }, open, share), strip, hint);
  dropZone(element, (item) => app.keep(item), { hasTargets: true });

  function update() {
    const { items } = app.kept;
    synchronize(app, strip, items);
    const isEmpty = !items.length;
    count.textContent = String(items.length);
    element.classList.toggle("is-empty", isEmpty);
    hint.hidden = !isEmpty;
    open.hidden = share.hidden = isEmpty;
    strip.scrollTo({ left: strip.scrollWidth });
  }
  app.kept.addEventListener("change", update);
  update();
}

/** Makes `container` show `items` in their order, and leaves the tiles that it has as they are. */
function synchronize(app, container, items) {
  const tiles = new Map([...container.children].map((tile) => [keyOf(tileItem(tile)), tile]));
  const wanted = items.map((item) => tiles.get(keyOf(item)) ?? createTile(app, item));
  for (const tile of container.children) if (!wanted.includes(tile)) imageUrl(tile.querySelector("img"), null);
  const isSame = wanted.length === container.children.length && wanted.every((tile, i) => tile === container.children[i]);
  if (!isSame) container.replaceChildren(...wanted);
  ensureTabStop(container);
}

/** Copies a link to items. The link contains them; the service stores nothing. */
async function shareLink(app, items) {
  await app.copy(app.linkTo(items), `Copied a link to ${plural(items.length)}. It holds seeds and parameters.`);
}

function plural(count) {
  return count === 1 ? "1 image" : `${count} images`;
}

/** Shows the gallery in `container`, and above it the items of a link. Returns the unmount. */
export function mountGallery(app, container, shared) {
  const own = h("div", { class: "gallery gallery-own tiles", role: "group", "aria-label": "Kept images" });
  const title = h("h2", {});
  const empty = h("p", { class: "hint" }, "Nothing is kept yet: click an image to keep it.");
  const removeAll = () => {
    const { items } = app.kept;
    app.kept.clear();
    const undo = { label: "Undo", run: () => app.kept.restore(items) };
    app.notices.show(`Removed ${plural(items.length)}.`, "info", undo);
  };
  const buttons = h(
    "div",
    { class: "button-row" },
    iconButton("link", "Copy link", () => shareLink(app, app.kept.items), { class: "button-primary" }),
    iconButton("close", "Remove all", removeAll),
  );

  function update() {
    const { items } = app.kept;
    synchronize(app, own, items);
    title.textContent = items.length ? `${plural(items.length)} kept` : "Gallery";
    empty.hidden = items.length > 0;
    buttons.hidden = !items.length;
  }
  app.kept.addEventListener("change", update);
  update();
  const sections = [h("section", { class: "gallery-section" }, h("header", {}, title, buttons), empty, own)];
  if (shared?.length) sections.unshift(sharedSection(app, shared));
  clear(container);
  container.append(...sections);
  for (const group of container.querySelectorAll(".tiles")) ensureTabStop(group);
  return () => app.kept.removeEventListener("change", update);
}

function sharedSection(app, shared) {
  const keepAll = () => {
    const added = shared.filter((item) => app.kept.add(item)).length;
    app.notify(added ? `Kept ${plural(added)}.` : "All of them are kept already.");
  };
  return h(
    "section",
    { class: "gallery-section" },
    h("header", {}, h("h2", {}, `${plural(shared.length)} from a link`), iconButton("heart", "Keep all", keepAll)),
    h(
      "div",
      { class: "gallery tiles", role: "group", "aria-label": "Images from a link" },
      shared.map((item) => createTile(app, item)),
    ),
  );
}
