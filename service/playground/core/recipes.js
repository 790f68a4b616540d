/** An item as curl and as Python: what generates the same image outside of the page. */

import { absoluteUrl } from "./api.js";
import { EDIT, GENERATE, MIX, PROMPT, WALK, addressOf, fileName, formatsOf } from "./items.js";

/**
 * Returns the shell command that writes the image to a file.
 *
 * With `withKey`, it sends the key in the environment variable GANYMEDE_API_KEY: the key itself
 * must not end up in a text that is copied into a ticket.
 */
export function curlOf(item, { withKey = false } = {}) {
  const { format } = formatsOf(item)[0];
  const name = fileName(item);
  const address = addressOf(item, format);
  if (address) return `curl -fsS ${quote(absoluteUrl(address))}${keyOption(withKey)} -o ${quote(`${name}.${format}`)}`;
  const isFrame = item.frame !== undefined;
  const archive = quote(`${name}.zip`);
  const output = isFrame ? archive : quote(`${name}.${format}`);
  const command = `${curlOfRequest(item.path, { ...item.body, format: isFrame ? "zip" : format }, { withKey })} -o ${output}`;
  if (!isFrame) return command;
  const entry = `${String(item.frame).padStart(String(item.body.frames - 1).length, "0")}.png`;
  return `${command}\nunzip -p ${archive} ${entry} > ${quote(`${name}.png`)}`;
}

/** Returns the shell command that sends a request and writes the response to its output. */
export function curlOfRequest(path, body, { withKey = false } = {}) {
  const lines = [
    `curl -fsS ${quote(absoluteUrl(path))}${keyOption(withKey)}`,
    "-H 'Content-Type: application/json'",
    `-d ${quote(JSON.stringify(body))}`,
  ];
  return lines.join(" \\\n  ");
}

function keyOption(withKey) {
  return withKey ? " \\\n  -H \"Authorization: Bearer $GANYMEDE_API_KEY\"" : "";
}

/** Returns text in single quotes for a POSIX shell. */
export function quote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Returns the Python program that generates the image with `ganymede_client`. */
export function pythonOf(item, options) {
  return program(isAnimation(item) ? saveAnimation(item) : saveImage(item), options);
}

/** Returns the Python program that sends a request and runs `use` for each `name` of its outputs. */
export function pythonOfRequest(path, body, name, use, options) {
  return program([`for ${name} in ${call({ path, body })}:`, `    ${use}`], options);
}

function program(statements, { withKey = false } = {}) {
  const url = JSON.stringify(absoluteUrl("").replace(/\/$/, ""));
  const comment = withKey ? "  # The key is read from $GANYMEDE_API_KEY." : "";
  const lines = [
    "from ganymede_client import Client",
    "",
    `client = Client(${url})${comment}`,
    ...statements,
  ];
  return lines.join("\n");
}

function isAnimation({ path, frame }) {
  return path === WALK && frame === undefined;
}

function saveImage(item) {
  const file = JSON.stringify(`${fileName(item)}.png`);
  return [`images = ${call(item)}`, `images[${item.frame ?? 0}].save(${file})`];
}

function saveAnimation(item) {
  const file = JSON.stringify(`${fileName(item)}.webp`);
  return [`animation = ${call(item, "animate")}`, `animation.save(${file})`];
}

/** The methods of the client whose names are not those of the paths. */
const METHODS = { [GENERATE]: "generate", [EDIT]: "edit", [MIX]: "mix_styles", [WALK]: "interpolate", [PROMPT]: "text_to_image" };

function call({ path, body }, method = METHODS[path] ?? path.split("/").pop()) {
  const { model, ...fields } = body;
  if ([GENERATE, EDIT].includes(path) && "seed" in fields) {
    fields.seeds = [fields.seed];
    delete fields.seed;
  }
  const names = Object.keys(fields).sort((a, b) => (b === "seeds") - (a === "seeds"));
  const options = names.map((name) => `${keyword(name)}=${literal(fields[name])}`);
  return `client.${method}(${[literal(model), ...options].join(", ")})`;
}

/** `class` and `return` are words of Python. */
export function keyword(name) {
  return ["class", "return"].includes(name) ? `${name}_` : name;
}

/** Returns a JSON value as a Python literal. */
export function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const members = Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${literal(each)}`);
  return `{${members.join(", ")}}`;
}
