/**
 * Items: an item is the request that generates one image, `{path, body, frame}`.
 *
 * `body` has no `format`. `frame` is the index of a frame of `/v1/interpolate`. Items come from
 * links and from storage too, so `validItem` checks what a stranger may have written.
 */

import { readEntry } from "./zip.js";

export const GENERATE = "/v1/generate";
export const EDIT = "/v1/edit";
export const MIX = "/v1/mix-styles";
export const WALK = "/v1/interpolate";
export const PROMPT = "/v1/text-to-image";
export const IMAGE_TASKS = ["translate", "upscale", "inpaint", "colorize"];
export const MAX_SEED = 2 ** 32 - 1;

const PATHS = [GENERATE, EDIT, MIX, WALK, PROMPT, ...IMAGE_TASKS.map((task) => `/v1/${task}`)];
/** Enough for the styles of a model with 18 layers of 512 values. */
const LONGEST_ITEM = 60_000;
/** Servers and proxies refuse longer request lines; an image with a longer prompt has no address. */
const LONGEST_ADDRESS = 7_000;

/** The formats that the service offers for one image: `{format, extension, label}`. */
export const FORMATS = formats("png PNG", "jpeg JPEG", "webp WebP", "npy NPY", "zip ZIP", "json JSON");
const WALK_FORMATS = formats("webp WebP", "gif GIF", "png APNG", "mp4 MP4", "webm WebM", "zip ZIP", "npy NPY");

function formats(...texts) {
  return texts.map((text) => {
    const [format, label] = text.split(" ");
    return { format, extension: format === "jpeg" ? "jpg" : format, label };
  });
}

/** Returns the formats that an item can be downloaded in. The first is the one to show. */
export function formatsOf(item) {
  if (item.path !== WALK) return FORMATS;
  return item.frame === undefined ? WALK_FORMATS : FORMATS.slice(0, 1);
}

/** Returns the item that stands for an item where nothing should move: a walk's first image. */
export function stillOf(item) {
  if (item.path !== WALK || item.frame !== undefined) return item;
  const [first] = item.body.sources;
  const source = typeof first === "object" ? first : { seed: first };
  const { class: class_, truncation } = item.body;
  return { path: GENERATE, body: present({ model: item.body.model, class: class_, truncation, ...source }) };
}

/** Whether a model generates images from seeds. */
export function generates(model) {
  return !model.task || model.task === "generate";
}

/** Returns the full name of a model, `name@version`, whose images never change. */
export function fullName(model) {
  return `${model.name}@${model.version}`;
}

/** Returns the fields of an object that are set. */
export function present(fields) {
  const isSet = ([, value]) => value !== undefined && value !== null && value !== "";
  return Object.fromEntries(Object.entries(fields).filter(isSet));
}

/** Returns the item for one seed of a model. */
export function seedItem(model, seed, { class: class_, truncation } = {}) {
  return sourceItem(model, { seed, class: class_, truncation });
}

/** Returns the item for a source: `{seed, class, truncation}`, or a latent in base64, `{w}` or `{z, …}`. */
export function sourceItem(model, source) {
  return { path: GENERATE, body: { model: fullName(model), ...oneImage(source) } };
}

/** Returns the item for one image of a prompt. */
export function promptItem(model, prompt, seed, truncation) {
  return { path: PROMPT, body: { model: fullName(model), prompt, ...present({ seed, truncation }) } };
}

/** Returns the item for a source that is moved along directions; without any, the source itself. */
export function editItem(model, source, directions, layers) {
  if (!Object.keys(directions).length) return sourceItem(model, source);
  return { path: EDIT, body: present({ model: fullName(model), ...oneImage(source), directions, layers }) };
}

/** Returns the fields of a source in an object that may have others. */
export function sourceFields({ seed, w, z, class: class_, truncation }) {
  return w ? { w } : present({ seed, z, class: class_, truncation });
}

/** Returns another seed with the class and truncation of a source. */
export function reseeded({ class: class_, truncation }, seed) {
  return sourceFields({ seed, class: class_, truncation });
}

/** Returns a source as the fields of a request, which has a list of latents. */
function oneImage(source) {
  const { w, z, ...fields } = sourceFields(source);
  return present({ ...fields, w: w && [w], z: z && [z] });
}

/** Returns the source of a request for one image, or null if it has none. */
function sourceIn({ seed, w, z, class: class_, truncation }) {
  if (Number.isInteger(seed)) return sourceFields({ seed, class: class_, truncation });
  const isOne = (latents) => latents?.length === 1 && typeof latents[0] === "string";
  if (isOne(w)) return { w: w[0] };
  return isOne(z) ? sourceFields({ z: z[0], class: class_, truncation }) : null;
}

/** Returns a text that is equal for equal items. */
export function keyOf(item) {
  return JSON.stringify([item.path, sorted(item.body), item.frame ?? null]);
}

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.keys(value)
      .sort()
      .map((key) => [key, sorted(value[key])]),
  );
}

/** Whether an item is the image of one seed, which has an address of its own. */
export function isSeed({ path, body }) {
  const known = ["model", "seed", "class", "truncation"];
  const isName = ["undefined", "string", "number"].includes(typeof body.class);
  return path === GENERATE && isName && Object.keys(body).every((key) => known.includes(key));
}

/** Returns the item as a source for mixing and interpolation, or null if it is none. */
export function sourceOf(item) {
  const { w, z, ...fields } = item.body;
  const isSource = isSeed({ path: item.path, body: fields });
  return isSource ? sourceIn(item.body) : null;
}

/** Returns the item of the source and the directions of an item, or null if it cannot be edited. */
export function editOf(item) {
  const { directions = {}, layers, ...body } = item.body;
  const start = { path: item.path === EDIT ? GENERATE : item.path, body };
  return sourceOf(start) && { start, directions };
}

/** Returns name and version in the `model` of an item. */
export function modelOf(item) {
  const [name, version = ""] = item.body.model.split("@");
  return { name, version };
}

/** Returns the path of the image with an extension, or null if it has no address. */
export function addressOf(item, extension = "png") {
  if (!isSeed(item) && item.path !== PROMPT) return null;
  const { name, version } = modelOf(item);
  const { seed, class: class_, truncation, prompt } = item.body;
  const query = new URLSearchParams(present({ version, class: class_, truncation, prompt }));
  const suffix = query.size ? `?${query}` : "";
  const address = `/v1/models/${encodeURIComponent(name)}/images/${seed}.${extension}${suffix}`;
  return address.length > LONGEST_ADDRESS ? null : address;
}

/** Returns a short description of what an item shows, such as "seed 7 · roses". */
export function labelOf(item) {
  const { body } = item;
  if (item.path === MIX) {
    const layers = Object.entries(layerWeights(body.layers))
      .filter(([, weight]) => weight > 0)
      .map(([layer, weight]) => (weight === 1 ? layer : `${layer} ${Math.round(100 * weight)}%`));
    const row = nameOf(body.rows[0]);
    return layers.length ? `${row} with ${layers.join(", ")} of ${seedOf(body.columns[0])}` : row;
  }
  if (item.path === WALK) {
    const seeds = body.sources.map(seedOf);
    if (item.frame === undefined) return `walk ${seeds.join(" → ")}`;
    const percent = Math.round((100 * item.frame) / (body.frames - 1));
    return `${percent}% from ${nameOf(body.sources[0])} to ${seeds.at(-1)}`;
  }
  if (item.path === PROMPT) return `${body.prompt ? `“${body.prompt}”` : "no prompt"} · seed ${body.seed}`;
  if (item.path !== GENERATE && item.path !== EDIT) {
    const { samples } = body;
    const seed = samples?.seed ?? samples?.seeds?.[0];
    return `${item.path.split("/").pop()}, seed ${seed} of ${samples?.model}`;
  }
  const parts = [nameOf(body)];
  if (body.class !== undefined) parts.push(String(body.class));
  if (body.truncation !== undefined) parts.push(`truncation ${body.truncation}`);
  for (const [name, amount] of Object.entries(body.directions ?? {})) parts.push(`${name} ${signed(amount)}`);
  return parts.join(" · ");
}

/** Returns a number with its sign. */
export function signed(number) {
  const text = String(Math.abs(number));
  return number < 0 ? `−${text}` : number > 0 ? `+${text}` : text;
}

function seedOf(source) {
  const seed = typeof source === "object" ? source.seed : source;
  return seed ?? "an inverted image";
}

/** Returns how texts name a source. */
export function nameOf(source) {
  const seed = seedOf(source);
  return Number.isInteger(seed) ? `seed ${seed}` : seed;
}

/** Returns layers as an object of weights. */
export function layerWeights(layers = "coarse") {
  if (typeof layers === "string") return { [layers]: 1 };
  return Array.isArray(layers) ? Object.fromEntries(layers.map((layer) => [layer, 1])) : layers;
}

/** Returns a file name without extension. */
export function fileName(item) {
  const text = `${modelOf(item).name}-${labelOf(item)}`;
  return text
    .replace(/%/g, "-percent")
    .replace(/−/g, "minus ")
    .replace(/[^\p{L}\p{N}.]+/gu, "-")
    .replace(/-+$/, "")
    .slice(0, 100);
}

/** Returns the image of an item as a Blob, in one of its formats. Rejects as `Api.request` does. */
export async function render(api, item, { format = formatsOf(item)[0].format, signal } = {}) {
  if (item.path === WALK && item.frame !== undefined) {
    const archive = await api.buffer(WALK, { ...item.body, format: "zip" }, { signal });
    return new Blob([readEntry(archive, item.frame)], { type: "image/png" });
  }
  const { extension } = formatsOf(item).find((each) => each.format === format);
  const address = ["png", "jpeg", "webp"].includes(format) && addressOf(item, extension);
  if (address) return api.blob(address, undefined, { signal });
  return api.blob(item.path, { ...item.body, format }, { signal });
}

/** Whether `value` is an item, wherever it comes from. The service checks the rest. */
export function validItem(value) {
  try {
    const { path, body, frame } = value;
    return (
      PATHS.includes(path) &&
      typeof body.model === "string" &&
      JSON.stringify(value).length <= LONGEST_ITEM &&
      (frame === undefined || (path === WALK && Number.isInteger(frame))) &&
      (![GENERATE, EDIT].includes(path) || isValidSource(sourceIn(body))) &&
      (path !== PROMPT || (typeof body.prompt === "string" && Number.isInteger(body.seed) && isValidSource(body))) &&
      (path !== EDIT || Object.values(body.directions).every(Number.isFinite)) &&
      (path !== MIX || (body.rows.length === 1 && body.columns.length === 1)) &&
      (path !== WALK || (body.sources.length >= 2 && body.frames >= 2)) &&
      (!IMAGE_TASKS.includes(path.slice(4)) || typeof body.samples.model === "string") &&
      typeof labelOf(value) === "string"
    );
  } catch {
    return false;
  }
}

function isValidSource({ seed = 0 }) {
  return seed >= 0 && seed <= MAX_SEED;
}

/** Returns a random seed. */
export function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}
