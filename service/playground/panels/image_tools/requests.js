/** The request of a tool, and the same request as curl and as Python. */

import { absoluteUrl } from "../../core/api.js";
import { fullName, present } from "../../core/items.js";
import { keyword, literal, quote } from "../../core/recipes.js";

/** More boxes than this are sent as a mask file. */
const MAX_BOXES = 200;

/**
 * Returns the request as `{item}`, if the image comes from a generator, or as `{path, form, …}`.
 *
 * `form(format)` is the FormData for a result in that format, `name` a name for its file, `input`
 * the name of the user's file, `mask` the file of a mask that is too intricate for boxes.
 */
export async function buildRequest({ task, model, source, surface, direction, class_ }) {
  const path = `/v1/${task}`;
  const boxes = surface && boxesOf(surface.pixels());
  const mask = boxes && boxes.length > MAX_BOXES ? await surface.toFile("mask.png") : null;
  const fields = present({ model: fullName(model), class: class_, direction, boxes: mask ? null : boxes });
  if (source.samples && !mask) return { item: { path, body: { ...fields, samples: source.samples } } };
  const { file, note } = source;
  const name = `${source.name.replace(/\.\w+$/, "")}-${task}`;
  const form = (format) => formOf({ fields, file, mask, format });
  return { path, name, input: source.name, note, fields, mask, form };
}

function formOf({ fields, file, mask, format }) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    form.append(name, typeof value === "string" ? value : JSON.stringify(value));
  }
  form.append("format", format);
  // Only the first frame of an animation is shown.
  if (file.type !== "image/jpeg") form.append("animated", "first");
  form.append("image", file);
  if (mask) form.append("mask", mask);
  return form;
}

/**
 * Returns the painted pixels as boxes `[x, y, width, height]` that do not overlap.
 *
 * Runs of painted pixels are merged with equal runs in the rows below.
 */
export function boxesOf({ data, width, height }) {
  const boxes = [];
  let above = new Map();
  for (let y = 0; y < height; y += 1) {
    const row = new Map();
    for (let x = 0; x < width; x += 1) {
      const start = x;
      while (x < width && data[4 * (y * width + x) + 3] > 127) x += 1;
      if (x === start) continue;
      const key = `${start}+${x - start}`;
      const box = above.get(key) ?? [start, y, x - start, 0];
      if (!box[3]) boxes.push(box);
      box[3] += 1;
      row.set(key, box);
    }
    above = row;
  }
  return boxes;
}

/** Returns the shell command that sends the user's file. */
export function curlOfUpload({ path, fields, input, note, mask, name }, { withKey, format = "png" }) {
  const values = Object.entries({ ...fields, format }).map(([field, value]) => {
    const text = typeof value === "string" ? value : JSON.stringify(value);
    return `-F ${quote(`${field}=${text}`)}`;
  });
  const command = [
    `curl -fsS ${quote(absoluteUrl(path))}`,
    ...(withKey ? ['-H "Authorization: Bearer $GANYMEDE_API_KEY"'] : []),
    ...values,
    `-F ${quote(`image=@${quoteForForm(input)}`)}`,
    ...(mask ? ["-F 'mask=@mask.png'"] : []),
    `-o ${quote(`${name}.${format}`)}`,
  ].join(" \\\n  ");
  return `${comment(note)}${command}`;
}

function comment(note) {
  return note ? `# The page sent a smaller image. ${note}\n` : "";
}

/** curl reads `;` and `,` after a file name as the start of options. */
function quoteForForm(name) {
  return /[;,"\\]/.test(name) ? `"${name.replace(/["\\]/g, "\\$&")}"` : name;
}

/** Returns the Python program that sends the user's file with `ganymede_client`. */
export function pythonOfUpload({ path, fields, input, note, mask, name }, { withKey }) {
  const url = literal(absoluteUrl("").replace(/\/$/, ""));
  const { model, ...options } = fields;
  const parts = [literal(model), literal(input)];
  parts.push(...Object.entries(options).map(([field, value]) => `${keyword(field)}=${literal(value)}`));
  if (mask) parts.push('mask="mask.png"');
  const key = withKey ? "  # The key is read from $GANYMEDE_API_KEY." : "";
  const lines = [
    "from ganymede_client import Client",
    "",
    `client = Client(${url})${key}`,
    `images = client.${path.split("/").pop()}(${parts.join(", ")})`,
    `images[0].save(${literal(`${name}.png`)})`,
  ];
  return `${comment(note)}${lines.join("\n")}`;
}
