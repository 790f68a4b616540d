/** Audio: the outputs of consecutive seeds, each with its waveform and a player. */

import { clear, h, iconButton } from "../core/dom.js";
import { fromBase64, isAbort } from "../core/api.js";
import { MAX_SEED, fullName, present } from "../core/items.js";
import { latest } from "../core/latest.js";
import { curlOfRequest, pythonOfRequest, quote } from "../core/recipes.js";
import { foldedRecipes } from "../shell/details.js";
import { modelControls } from "./controls.js";

/** Outputs of one request. */
const COUNT = 8;
const PATH = "/v1/audio";
/** The size of a waveform in CSS pixels. */
const [WIDTH, HEIGHT] = [320, 72];

export const panel = {
  id: "audio",
  title: "Listen",
  fits: (model) => Boolean(model.audio),
  mount(container, model, app) {
    const list = h("ul", { class: "audio-list", role: "list", "aria-label": `Audio of ${model.name}` });
    const recipes = h("div");
    let urls = [];
    const free = () => urls.splice(0).forEach((url) => URL.revokeObjectURL(url));

    const load = latest(async (_, signal) => {
      const { seed, class: class_, truncation } = app.parametersOf(model);
      const n = Math.min(COUNT, MAX_SEED - seed + 1);
      const body = { model: fullName(model), n, seed, ...present({ class: class_, truncation }) };
      recipes.replaceChildren(foldedRecipes(app, texts(body), recipes.querySelector("details")?.open));
      try {
        const { audio } = await app.api.json(PATH, { ...body, format: "json" }, { signal });
        free();
        const files = audio.map((each) => ({ ...each, blob: fromBase64(each.data, each.media_type) }));
        urls = files.map(({ blob }) => URL.createObjectURL(blob));
        const rows = await Promise.all(files.map((each, i) => row(each, urls[i])));
        clear(list, ...rows);
      } catch (error) {
        if (!isAbort(error)) app.report(error);
      }
    });

    /** Returns the recipes of a request. */
    function texts(body) {
      const options = { withKey: Boolean(app.api.key) };
      const curl = `${curlOfRequest(PATH, { ...body, format: "zip" }, options)} -o ${quote(`${model.name}.zip`)}`;
      const python = pythonOfRequest(PATH, body, "audio", 'audio.save(f"seed-{audio.seed}.wav")', options);
      return [["curl", curl], ["Python", python]];
    }

    /** Returns the row of one output. */
    async function row({ seed, class: class_, blob }, url) {
      const name = class_ === undefined ? `Seed ${seed}` : `Seed ${seed}, ${class_}`;
      const canvas = h("canvas", { width: 2 * WIDTH, height: 2 * HEIGHT, class: "audio-wave", role: "img", "aria-label": `Waveform of ${name}` });
      drawWave(canvas, samplesOf(await blob.arrayBuffer()));
      const player = h("audio", { controls: true, src: url, "aria-label": name });
      const save = () => app.download(blob, `${model.name}-seed-${seed}.wav`);
      return h("li", { class: "audio-row" }, h("span", { class: "audio-name" }, name), canvas, player, iconButton("download", `Download ${name}`, save, { quiet: true }));
    }

    const controls = modelControls(app, model, () => load());
    controls.classList.add("is-sticky");
    container.append(controls, list, recipes);
    load();
    return () => {
      load.cancel();
      free();
    };
  },
};

/** Returns the 16-bit samples of a WAV file with one channel. */
export function samplesOf(buffer) {
  const view = new DataView(buffer);
  // Chunks follow the 12 bytes of the header; each has a name, a length and an even number of bytes.
  for (let at = 12; at + 8 <= view.byteLength; ) {
    const length = view.getUint32(at + 4, true);
    if (view.getUint32(at) === 0x64617461) {
      return Int16Array.from({ length: length >> 1 }, (_, i) => view.getInt16(at + 8 + 2 * i, true));
    }
    at += 8 + length + (length & 1);
  }
  return new Int16Array(0);
}

/** Draws samples; the height of the canvas is full scale. */
function drawWave(canvas, samples) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(document.body).color;
  for (let x = 0; x < width; x += 1) {
    const from = Math.floor((x * samples.length) / width);
    const part = samples.subarray(from, Math.max(from + 1, Math.floor(((x + 1) * samples.length) / width)));
    const [low, high] = [Math.min(...part), Math.max(...part)];
    const top = ((1 - high / 32768) * height) / 2;
    context.fillRect(x, top, 1, Math.max(1, ((high - low) / 65536) * height));
  }
}
