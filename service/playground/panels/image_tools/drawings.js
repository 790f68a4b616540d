/** Small drawings to start with, for models for which no generator makes an input. */

import { absoluteUrl } from "../../core/api.js";
import { h } from "../../core/dom.js";

const FOLDER = "/playground/panels/image_tools/examples";
const NAMES = ["face", "cup", "heart"];

/** `line` drawings are black lines on white; `flat` ones have colored areas. */
export const DRAWINGS = ["line", "flat"].flatMap((kind) =>
  NAMES.map((name) => ({ kind, name, url: absoluteUrl(`${FOLDER}/${kind}-${name}.svg`) })),
);

/** Returns a drawing as a PNG file on white. */
export async function drawingBlob({ kind, url }, side) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = h("canvas", { width: side, height: side });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, side, side);
  context.drawImage(image, 0, 0, side, side);
  if (kind === "line") makeHard(context, side);
  return new Promise((resolve) => {
    canvas.toBlob(resolve, "image/png");
  });
}

/** Makes lines black without gray edges, like the sketches that models are trained on. */
function makeHard(context, side) {
  const image = context.getImageData(0, 0, side, side);
  const { data } = image;
  for (let i = 0; i < data.length; i += 4) data.fill(data[i] < 160 ? 0 : 255, i, i + 3);
  context.putImageData(image, 0, 0);
}
