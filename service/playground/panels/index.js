/** The panels, in the order of their tabs. The first that fits a model is shown first. */

import { imageTools } from "./image_tools/index.js";
import { panel as audio } from "./audio.js";
import { panel as edit } from "./edit.js";
import { panel as invert } from "./invert.js";
import { panel as matrix } from "./matrix.js";
import { panel as pair } from "./pair.js";
import { panel as prompts } from "./prompts.js";
import { panel as text } from "./text.js";
import { panel as walk } from "./walk.js";
import { panel as wall } from "./wall.js";

export const panels = [wall, prompts, text, audio, edit, invert, pair, matrix, walk, ...imageTools];
