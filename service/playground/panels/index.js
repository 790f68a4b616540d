/** The panels, in the order of their tabs. The first that fits a model is shown first. */

/** @type {Array<{id: string, title: string, fits: Function, mount: Function}>} */
export const panels = [];
