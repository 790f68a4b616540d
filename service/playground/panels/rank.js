/** "Best of": only the share of the images that the discriminator scores highest. */

import { h } from "../core/dom.js";
import { choice } from "./controls.js";

export const SHARES = [0.5, 0.25, 0.1];
const LABELS = { 1: "All", 0.5: "½", 0.25: "¼", 0.1: "1⁄10" };

/** Returns the control of the share, with the measured quality of the images that are kept. */
export function rankControl(app, model, onchange) {
  const note = h("p", { class: "hint rank-note", role: "status" });
  const show = (share) => {
    note.textContent = qualityOf(model, share);
  };
  const value = app.parametersOf(model).rank ?? 1;
  const choices = [1, ...SHARES].map((share) => ({ value: share, label: LABELS[share] }));
  const set = (share) => {
    app.setParameters(model, { rank: share < 1 ? share : undefined });
    show(share);
    onchange();
  };
  show(value);
  return h("div", { class: "rank" }, choice({ label: "Best of the images", choices, value, onchange: set }), note);
}

/** Returns what is known about the images of a share, beside those of all images. */
function qualityOf({ discriminator: { figures = [] } }, share) {
  const at = (each) => figures.find(({ method, share: kept }) => method === "rank" && kept === each);
  const [all, kept] = [at(1), at(share)];
  if (!kept) return share < 1 ? "The quality of this share was not measured." : "";
  const figure = (name, digits) => {
    const now = kept[name].toFixed(digits);
    return share < 1 && all ? `${now} instead of ${all[name].toFixed(digits)}` : now;
  };
  const distance = `Kernel distance ${figure("kernel_distance", 4)} (lower is better)`;
  return `${distance}, precision ${figure("precision", 2)}, recall ${figure("recall", 2)} (diversity).`;
}
