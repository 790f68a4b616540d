/** Reads arrays of pixels in NumPy's format, and draws them. */

/**
 * Returns the frames in a version 1 or 2 NPY file of uint8 [N, H, W, C].
 *
 * `frame(i)` is an ImageData. Raises Error for another type or another number of dimensions.
 */
export function readFrames(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  const wide = bytes[6] >= 2;
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const start = (wide ? 12 : 10) + length;
  const header = new TextDecoder("latin1").decode(bytes.subarray(wide ? 12 : 10, start));
  const shape = /'shape': \(([\d, ]+)\)/.exec(header)?.[1].match(/\d+/g)?.map(Number) ?? [];
  if (!header.includes("|u1") || shape.length !== 4) throw new Error(`unexpected array: ${header}`);
  const [count, height, width, channels] = shape;
  const size = height * width * channels;
  return {
    count,
    height,
    width,
    frame(i) {
      const pixels = bytes.subarray(start + i * size, start + (i + 1) * size);
      return toImageData(pixels, width, height, channels);
    },
  };
}

/** Gray, RGB or RGBA to the RGBA of a canvas. */
function toImageData(pixels, width, height, channels) {
  const image = new ImageData(width, height);
  const { data } = image;
  const [green, blue] = channels < 3 ? [0, 0] : [1, 2];
  const alpha = channels === 2 ? 1 : channels === 4 ? 3 : -1;
  for (let from = 0, to = 0; to < data.length; from += channels, to += 4) {
    data[to] = pixels[from];
    data[to + 1] = pixels[from + green];
    data[to + 2] = pixels[from + blue];
    data[to + 3] = alpha < 0 ? 255 : pixels[from + alpha];
  }
  return image;
}

/** Draws one frame on a canvas, in the frame's own size. */
export function drawFrame(canvas, frame) {
  if (canvas.width !== frame.width) canvas.width = frame.width;
  if (canvas.height !== frame.height) canvas.height = frame.height;
  canvas.getContext("2d").putImageData(frame, 0, 0);
}
