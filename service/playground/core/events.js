/** Server-Sent Events of the response to a request: EventSource cannot send a body or a key. */

import { problemError } from "./api.js";

/**
 * Calls `onEvent(name, data)` for each event, with `data` parsed as JSON, until the response ends.
 *
 * Rejects with an ApiError for the event `error`, whose data is a problem document.
 */
export async function readEvents(response, onEvent) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value.replaceAll("\r", "")).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const { event, data } = parse(block);
      // A block without data is a comment, which keeps the connection open.
      if (data === undefined) continue;
      if (event === "error") throw problemError(data);
      onEvent(event, data);
    }
  }
}

/** Returns name and data of one event. */
function parse(block) {
  let event = "message";
  const lines = [];
  for (const line of block.split("\n")) {
    const [name, ...rest] = line.split(":");
    const value = rest.join(":").replace(/^ /, "");
    if (name === "event") event = value;
    if (name === "data") lines.push(value);
  }
  return { event, data: lines.length ? JSON.parse(lines.join("\n")) : undefined };
}
