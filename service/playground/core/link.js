/**
 * The hash of the URL: what the page shows, and the items of a shared gallery.
 *
 *     #model=cgan-fashion&panel=wall&seed=40&class=sneaker&truncation=0.7
 *     #model=stylegan2-flowers&panel=edit&seed=7&directions=size:1.5,color:-2
 *     #model=text2emoji&panel=prompts&seed=7&n=4&prompt=red%20heart%0Ablue%20heart
 *     #kept=dcgan-fashion@1/7,cgan-fashion@1/12;class=bag,~eyJwYXRo…
 *
 * A kept image of one seed is readable; `~` starts any other item, as base64 of its JSON. The server
 * never receives the hash.
 */

import { GENERATE, isSeed, modelOf, validItem } from "./items.js";

const MOST = 500;

/** Returns the hash for a view: model, panel and parameters of the model, and a list of items. */
export function formatHash({ kept, directions, ...view }) {
  const parts = Object.entries(view)
    .filter(([, value]) => value !== undefined && value !== null && value !== "")
    .map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  const amounts = Object.entries(directions ?? {}).map(([name, amount]) => `${name}:${amount}`);
  if (amounts.length) parts.push(`directions=${amounts.join(",")}`);
  if (kept?.length) parts.push(`kept=${kept.map(formatItem).join(",")}`);
  return parts.length ? `#${parts.join("&")}` : "";
}

/** Returns the view in a hash. Unknown members and damaged items are left out. */
export function parseHash(hash) {
  const view = {};
  for (const part of hash.replace(/^#/, "").split("&")) {
    const [name, ...rest] = part.split("=");
    const value = rest.join("=");
    if (name === "kept") {
      view.kept = value.split(",").slice(0, MOST).map(parseItem).filter(validItem);
    } else if (name === "directions") {
      const amounts = value.split(",").map((each) => each.split(":"));
      view.directions = Object.fromEntries(amounts.map(([direction, amount]) => [direction, Number(amount)]));
    } else if (["model", "panel", "class", "layers", "prompt", "prefix"].includes(name)) {
      view[name] = decode(value);
    } else if (["seed", "truncation", "rank", "n", "temperature", "length"].includes(name) && value !== "" && Number(value) >= 0) {
      view[name] = Number(value);
    }
  }
  return view;
}

function formatItem(item) {
  // A class by index is written as JSON, to tell it from a class with the name "7".
  const isReadable = isSeed(item) && typeof item.body.class !== "number";
  if (!isReadable) return `~${toBase64(JSON.stringify(item))}`;
  const { name, version } = modelOf(item);
  const { seed, class: class_, truncation } = item.body;
  let text = `${encodeURIComponent(name)}@${encodeURIComponent(version)}/${seed}`;
  if (class_ !== undefined) text += `;class=${encodeURIComponent(class_)}`;
  if (truncation !== undefined) text += `;truncation=${truncation}`;
  return text;
}

/** Returns an item, or null if the text is none. */
function parseItem(text) {
  try {
    if (text.startsWith("~")) return JSON.parse(fromBase64(text.slice(1)));
    const [source, ...options] = text.split(";");
    const [, model, seed] = /^(.+)\/(\d+)$/.exec(source);
    const body = { model: decodeURIComponent(model).replace(/@$/, ""), seed: Number(seed) };
    for (const option of options) {
      const [name, value] = option.split("=");
      if (name === "truncation") body.truncation = Number(value);
      if (name === "class") body.class = decodeURIComponent(value);
    }
    return { path: GENERATE, body };
  } catch {
    return null;
  }
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

function toBase64(text) {
  const binary = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

function fromBase64(text) {
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return new TextDecoder().decode(Uint8Array.from(binary, (char) => char.charCodeAt(0)));
}
