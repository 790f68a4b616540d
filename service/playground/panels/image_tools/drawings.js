/** Small drawings to start with, for models for which no generator makes an input. */

import { h } from "../../core/dom.js";

/** Areas on a grid of 64 × 64 in the order in which they are painted, with their colors. */
const SHAPES = {
  face: [
    ["#fcc21b", "M4 32a28 28 0 0 1 56 0a28 28 0 0 1-56 0z"],
    ["#4e342e", "M20 26a3 5 0 0 1 6 0a3 5 0 0 1-6 0zM38 26a3 5 0 0 1 6 0a3 5 0 0 1-6 0z"],
    ["#7b3f2b", "M17 38q15 17 30 0q-15 6-30 0z"],
  ],
  cup: [
    ["#b0bec5", "M45 26h6q9 0 9 10t-9 10h-7l2-5h4q5 0 5-5t-5-5h-5z"],
    ["#e6e6e6", "M10 20h36v20q0 14-14 14h-8q-14 0-14-14z"],
    ["#6d4c41", "M10 20a18 5 0 0 1 36 0a18 5 0 0 1-36 0z"],
  ],
  heart: [["#f44336", "M32 57q-27-19-27-35q0-14 13-14q10 0 14 10q4-10 14-10q13 0 13 14q0 16-27 35z"]],
};
export const DRAWINGS = Object.keys(SHAPES);

/** Returns a canvas with a drawing on white: colored areas, or with `isLine` black lines. */
export function drawingCanvas(name, side, isLine) {
  const canvas = h("canvas", { width: side, height: side });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, side, side);
  context.scale(side / 64, side / 64);
  context.lineWidth = 1.2;
  for (const [color, path] of SHAPES[name]) {
    context.fillStyle = isLine ? "#fff" : color;
    context.fill(new Path2D(path));
    if (isLine) context.stroke(new Path2D(path));
  }
  if (isLine) makeHard(context, side);
  return canvas;
}

/** Makes lines black without gray edges, like the sketches that models are trained on. */
function makeHard(context, side) {
  const image = context.getImageData(0, 0, side, side);
  const { data } = image;
  for (let i = 0; i < data.length; i += 4) data.fill(data[i] < 160 ? 0 : 255, i, i + 3);
  context.putImageData(image, 0, 0);
}
