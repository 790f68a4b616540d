/** The panels of models that take an image: one per task, with the same frame. */

import { mountTool } from "./tool.js";

const TASKS = [
  { id: "translate", title: "Translate", verb: "Translating", view: "side" },
  { id: "upscale", title: "Upscale", verb: "Upscaling", view: "compare" },
  { id: "colorize", title: "Colorize", verb: "Colorizing", view: "compare", isGray: true },
  { id: "inpaint", title: "Inpaint", verb: "Filling", view: "compare", isMasked: true },
];

export const imageTools = TASKS.map((task) => ({
  id: task.id,
  title: task.title,
  fits: (model) => model.task === task.id,
  mount: (container, model, app, input) => mountTool(container, model, app, input, task),
}));
