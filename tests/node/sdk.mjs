// Calls OpenAI's SDK for Node as the test tells it, and prints what came back as JSON.
//
// Arguments: the address of the server, and the path of a PNG file.

import fs from "node:fs";
import OpenAI, { toFile } from "openai";

const [address, path] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "any", maxRetries: 0 });
const png = () => toFile(fs.readFileSync(path), "image.png", { type: "image/png" });
const text = () => toFile(Buffer.from("no image"), "image.png", { type: "image/png" });

async function collect(stream) {
  const events = [];
  try {
    for await (const event of stream) events.push(event);
  } catch (error) {
    events.push(described(error));
  }
  return events;
}

function described(error) {
  const { status, code, param, type, message } = error;
  return { name: error.constructor.name, status, code, param, type, message };
}

async function failure(call) {
  try {
    await call();
  } catch (error) {
    return described(error);
  }
  return null;
}

const images = client.images;
const results = {
  models: (await client.models.list()).data.map((model) => model.id),
  generated: await images.generate({ model: "painted", prompt: "7", n: 2, size: "48x36" }),
  streamed: await collect(
    await images.generate({ model: "painted", prompt: "7", n: 3, stream: true, partial_images: 2 }),
  ),
  edited: await images.edit({ model: "softer", image: await png(), prompt: "invert" }),
  several: await images.edit({ model: "softer", image: [await png(), await png()], prompt: "invert" }),
  editStream: await collect(
    await images.edit({
      model: "softer", image: [await png(), await text()], prompt: "invert", stream: true,
    }),
  ),
  varied: await images.createVariation({ model: "movable", image: await png(), n: 2, seed: 3 }),
  failures: {
    model: await failure(() => client.models.retrieve("nope")),
    generate: await failure(() => images.generate({ model: "nope", prompt: "7" })),
    size: await failure(() => images.generate({ model: "painted", prompt: "7", size: "big" })),
    mask: await failure(async () =>
      images.edit({ model: "filled", image: await png(), mask: await png(), prompt: "x" }),
    ),
  },
};
console.log(JSON.stringify(results));
