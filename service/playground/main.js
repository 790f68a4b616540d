/** Loads the models and connects the parts of the playground. */

import { App } from "./shell/app.js";

const app = new App(document);
app.start();
