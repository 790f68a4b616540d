/**
 * A surface to paint on: an area of an image, or a drawing.
 *
 * The strokes are kept and drawn again after each change, so that undo needs no copies of the
 * pixels. With the keyboard, the arrow keys move a brush, Shift paints along, and Space paints.
 */

import { h, uniqueId } from "../../core/dom.js";
import { choice, slider } from "../controls.js";

/**
 * Returns `{element, stage, canvas, isEmpty, pixels, toFile}`.
 *
 * With `isMask`, the paint covers the element `background`; otherwise it is ink on white, and
 * `hasColor` offers colors. `label` is the name of the surface for screen readers.
 * `pixels()` is an ImageData in which the alpha of painted pixels is above 127. `onChange` is called
 * after each stroke.
 */
export function paintSurface(options) {
  return new PaintSurface({ isMask: false, hasColor: false, background: null, ...options });
}

/** Returns the content of a canvas as a PNG file. */
export async function pngFile(canvas, name) {
  const type = "image/png";
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, type));
  return new File([blob], name, { type });
}

class PaintSurface {
  constructor(options) {
    Object.assign(this, options);
    this.strokes = [];
    this.current = null;
    /** The first corner of a rectangle that is painted with the keyboard. */
    this.corner = null;
    this.tool = "brush";
    this.size = Math.max(1, Math.round(Math.min(this.width, this.height) / (this.isMask ? 8 : 40)));
    this.color = "#000000";
    this.cursor = { x: this.width / 2, y: this.height / 2 };
    this.frame = 0;
    this.#build();
  }

  #build() {
    const { width, height, label, isMask, background } = this;
    const hint = uniqueId("paint-hint");
    const names = { role: "application", "aria-label": label, "aria-describedby": hint };
    this.canvas = h("canvas", { width, height, class: "paint-canvas", tabIndex: 0, ...names });
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.ring = h("div", { class: "paint-ring", "aria-hidden": "true", hidden: true });
    const kind = isMask ? "is-mask" : "is-drawing";
    this.stage = h("div", { class: `paint-stage ${kind}` }, background, this.canvas, this.ring);
    const keys = "The arrow keys move the brush, Space paints, Shift and an arrow key paint a line.";
    const help = h("p", { class: "hint paint-hint", id: hint }, keys);
    this.element = h("div", { class: "paint" }, this.#toolbar(), this.stage, help);
    const on = (type, listener) => this.canvas.addEventListener(type, listener);
    on("pointerdown", (event) => this.#pointerDown(event));
    on("pointermove", (event) => this.#pointerMove(event));
    on("pointerup", () => this.#finish());
    on("pointercancel", () => this.#finish());
    on("pointerleave", () => this.#showRing(false));
    on("keydown", (event) => this.#keyDown(event));
    on("focus", () => this.#showRing(this.canvas.matches(":focus-visible")));
    on("blur", () => this.#showRing(false));
    this.#draw();
  }

  #toolbar() {
    const tools = choice({
      label: "Tool",
      quiet: true,
      choices: ["Brush", "Rectangle", "Eraser"].map((tool) => ({ value: tool.toLowerCase(), label: tool })),
      value: this.tool,
      onchange: (tool) => {
        this.tool = tool;
        this.#abandon();
      },
    });
    const size = slider({
      label: "Brush size",
      min: 1,
      max: Math.max(4, Math.round(Math.min(this.width, this.height) / 2)),
      step: 1,
      value: this.size,
      format: (value) => `${value} px`,
      oninput: (value) => {
        this.size = value;
        this.#placeRing();
      },
    });
    const setColor = () => {
      this.color = color.value;
    };
    const color = h("input", { type: "color", value: this.color, oninput: setColor });
    const button = (label, onclick) => h("button", { type: "button", class: "button", onclick }, label);
    this.undoButton = button("Undo", () => this.undo());
    return h(
      "div",
      { class: "paint-tools" },
      tools,
      size,
      this.hasColor && h("label", { class: "paint-color" }, "Color ", color),
      this.undoButton,
      button("Clear", () => this.#add({ tool: "clear" })),
      this.isMask && button("All", () => this.#add({ tool: "all" })),
    );
  }

  isEmpty() {
    const { data } = this.pixels();
    for (let i = 3; i < data.length; i += 4) if (data[i] > 127) return false;
    return true;
  }

  pixels() {
    this.#draw();
    return this.context.getImageData(0, 0, this.width, this.height);
  }

  /** Returns a PNG file: a mask that is white where it is painted, or the drawing. */
  toFile(name) {
    const image = this.pixels();
    const { data } = image;
    for (let i = 0; i < data.length; i += 4) {
      const isPainted = data[i + 3] > 127;
      if (this.isMask) data.fill(isPainted ? 255 : 0, i, i + 3);
      else if (!isPainted) data.fill(255, i, i + 3);
      data[i + 3] = 255;
    }
    const canvas = h("canvas", { width: this.width, height: this.height });
    canvas.getContext("2d").putImageData(image, 0, 0);
    return pngFile(canvas, name);
  }

  undo() {
    if (this.strokes.pop()) this.#changed();
  }

  #add(stroke) {
    this.strokes.push(stroke);
    this.#changed();
  }

  #changed() {
    this.#draw();
    this.onChange?.();
  }

  #begin(point) {
    const { tool, size, color } = this;
    this.current = { tool, size, color, points: [point] };
    this.strokes.push(this.current);
    this.#drawSoon();
  }

  #extend(point) {
    const { points } = this.current;
    if (this.current.tool === "rectangle") points[1] = point;
    else points.push(point);
    this.#drawSoon();
  }

  #finish() {
    if (!this.current) return;
    this.current = null;
    this.#changed();
  }

  #pointerDown(event) {
    if (event.button !== 0) return;
    // Otherwise the page is scrolled or text is selected.
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.#abandon();
    this.#begin(this.#pointOf(event));
  }

  #pointerMove(event) {
    this.cursor = this.#pointOf(event);
    this.#showRing(event.pointerType === "mouse");
    if (this.current) this.#extend(this.cursor);
  }

  #pointOf({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((clientX - box.left) * this.width) / box.width,
      y: ((clientY - box.top) * this.height) / box.height,
    };
  }

  #keyDown(event) {
    if (event.ctrlKey || event.metaKey) {
      if (event.key !== "z") return;
      event.preventDefault();
      this.undo();
      return;
    }
    const step = Math.max(1, Math.round(this.size / 2));
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (move) {
      const from = this.cursor;
      this.cursor = {
        x: Math.min(this.width, Math.max(0, from.x + move[0] * step)),
        y: Math.min(this.height, Math.max(0, from.y + move[1] * step)),
      };
      if (event.shiftKey && this.tool !== "rectangle") {
        this.#begin(from);
        this.#extend(this.cursor);
        this.#finish();
      } else if (this.corner) {
        this.#extend(this.cursor);
      }
    } else if (event.key === " " || event.key === "Enter") {
      this.#press();
    } else if (event.key === "Escape" && this.corner) {
      this.#abandon();
    } else {
      return;
    }
    event.preventDefault();
    this.#showRing(true);
  }

  /** Paints at the brush; for a rectangle, sets its first or its second corner. */
  #press() {
    if (this.tool !== "rectangle") {
      this.#begin(this.cursor);
      this.#finish();
    } else if (this.corner) {
      this.corner = null;
      this.#extend(this.cursor);
      this.#finish();
    } else {
      this.corner = this.cursor;
      this.#begin(this.cursor);
    }
  }

  /** Removes a rectangle of which only one corner is set. */
  #abandon() {
    if (!this.corner) return;
    this.corner = null;
    this.current = null;
    this.strokes.pop();
    this.#draw();
  }

  #showRing(isShown) {
    this.ring.hidden = !isShown;
    if (isShown) this.#placeRing();
  }

  #placeRing() {
    const { style } = this.ring;
    const size = this.tool === "rectangle" ? 1 : this.size;
    style.setProperty("--x", `${(100 * this.cursor.x) / this.width}%`);
    style.setProperty("--y", `${(100 * this.cursor.y) / this.height}%`);
    style.setProperty("--size", `${(100 * size) / this.width}%`);
  }

  #drawSoon() {
    this.frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const { context, width, height } = this;
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, width, height);
    for (const stroke of this.strokes) this.#drawStroke(stroke);
    this.undoButton.disabled = !this.strokes.length;
  }

  #drawStroke({ tool, size, color, points }) {
    const { context, width, height } = this;
    context.globalCompositeOperation = tool === "eraser" ? "destination-out" : "source-over";
    // The style sheet makes the paint of a mask translucent.
    const ink = this.isMask ? "#e0218a" : color;
    context.fillStyle = ink;
    context.strokeStyle = ink;
    if (tool === "clear") {
      context.clearRect(0, 0, width, height);
    } else if (tool === "all") {
      context.fillRect(0, 0, width, height);
    } else if (tool === "rectangle") {
      const ends = (values) => [Math.floor(Math.min(...values)), Math.ceil(Math.max(...values))];
      const [left, right] = ends(points.map(({ x }) => x));
      const [top, bottom] = ends(points.map(({ y }) => y));
      context.fillRect(left, top, right - left, bottom - top);
    } else {
      const [{ x, y }] = points;
      context.beginPath();
      context.arc(x, y, size / 2, 0, 2 * Math.PI);
      context.fill();
      context.lineCap = "round";
      context.lineJoin = "round";
      context.lineWidth = size;
      context.beginPath();
      context.moveTo(x, y);
      for (const point of points.slice(1)) context.lineTo(point.x, point.y);
      context.stroke();
    }
  }
}
