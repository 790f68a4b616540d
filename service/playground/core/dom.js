/** Creates elements, and shows images. */

/**
 * Returns a new element.
 *
 * `props` sets event listeners (`onclick`), attributes with a dash or of SVG (`aria-label`), `class`,
 * `dataset`, and properties for everything else. Children are nodes and texts; null and false are
 * left out, so that `condition && h(…)` works.
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  // The default, submit, would reload the page.
  if (tag === "button") element.type = "button";
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name in element && !name.includes("-")) element[name] = value;
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** The paths of the icons, on a grid of 24 × 24 pixels. */
const ICONS = {
  dice: "M5 5h14v14H5zM9 9h.01M15 15h.01M12 12h.01M15 9h.01M9 15h.01",
  download: "M12 4v11m-5-4 5 5 5-5M5 20h14",
  link: "M10 14a4 4 0 0 0 5.7 0l3-3A4 4 0 0 0 13 5.3l-1 1M14 10a4 4 0 0 0-5.7 0l-3 3A4 4 0 0 0 11 18.7l1-1",
  copy: "M9 9h10v10H9zM5 15V5h10",
  close: "M6 6l12 12M18 6 6 18",
  play: "M8 5l11 7-11 7z",
  pause: "M8 5v14M16 5v14",
  swap: "M7 8h12l-3-3M17 16H5l3 3",
  plus: "M12 5v14M5 12h14",
  reset: "M5.5 9A7 7 0 1 1 5 13M5 4v5h5",
  edit: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  heart: "M12 19.5 5.5 13a4.2 4.2 0 0 1 6-6l.5.6.5-.6a4.2 4.2 0 0 1 6 6z",
};

/** Returns an icon that screen readers ignore; its button has the label. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `icon icon-${name}`);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Returns a button with an icon and a label, which is hidden if `quiet`. */
export function iconButton(name, label, onclick, { quiet = false, ...props } = {}) {
  const text = quiet ? null : h("span", {}, label);
  const hidden = quiet ? { "aria-label": label, title: label } : {};
  const style = `button ${quiet ? "button-icon" : ""} ${props.class ?? ""}`;
  return h("button", { onclick, ...hidden, ...props, class: style }, icon(name), text);
}

const urls = new WeakMap();

/** Shows `blob` in `img` and frees the image that it showed before. `blob` may be null. */
export function imageUrl(img, blob) {
  const previous = urls.get(img);
  if (blob) {
    const url = URL.createObjectURL(blob);
    urls.set(img, url);
    img.src = url;
  } else {
    urls.delete(img);
    img.removeAttribute("src");
  }
  if (previous) URL.revokeObjectURL(previous);
}

/** Frees the images in `container` and replaces its content by `children`. */
export function clear(container, ...children) {
  for (const img of container.querySelectorAll("img")) imageUrl(img, null);
  container.replaceChildren(...children);
}

/** Saves a file. */
export function download(blob, filename) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: filename }).click();
  // The browser reads the file after the click.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

let lastId = 0;

/** Returns an id for an element, unique in the document. */
export function uniqueId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}
