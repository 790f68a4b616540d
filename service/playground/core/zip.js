/** Reads the archives of frames that the service writes: ZIP files without compression. */

const END_OF_DIRECTORY = 0x06054b50;
const DIRECTORY_ENTRY = 0x02014b50;

/** Returns the bytes of the entry at `index`. Raises Error if there is none. */
export function readEntry(buffer, index) {
  const view = new DataView(buffer);
  let at = buffer.byteLength - 22;
  while (at >= 0 && view.getUint32(at, true) !== END_OF_DIRECTORY) at -= 1;
  if (at < 0) throw new Error("the archive is not complete");
  let entry = view.getUint32(at + 16, true);
  const length = (offset) => view.getUint16(entry + offset, true);
  for (let i = 0; i <= index; i += 1) {
    if (view.getUint32(entry, true) !== DIRECTORY_ENTRY) throw new Error(`no entry ${index}`);
    if (i < index) entry += 46 + length(28) + length(30) + length(32);
  }
  const size = view.getUint32(entry + 20, true);
  const header = view.getUint32(entry + 42, true);
  const names = view.getUint16(header + 26, true) + view.getUint16(header + 28, true);
  const start = header + 30 + names;
  return new Uint8Array(buffer.slice(start, start + size));
}
