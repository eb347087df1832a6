// Server-sent events over fetch. EventSource cannot send a token, and hides that it has been silent.

import { headers, Refused } from "./api";

/** A coordinator says something every two seconds: one that has not for so long is not there. */
const silence = 6000;
const retries = [300, 600, 1200, 2500, 5000];

/** How long to wait before the next try, after so many in a row that failed. */
export const pause = (failed: number) =>
  new Promise((done) => setTimeout(done, retries[Math.min(failed, retries.length - 1)]));

/** Reads one stream until it breaks. heard is called for whatever comes, receive for every event. */
export async function listen(path: string, cursor: string, signal: AbortSignal, heard: () => void,
  receive: (event: string, data: string, id: string) => void) {
  const own = new AbortController();
  const end = () => own.abort();
  signal.addEventListener("abort", end);
  let dog = setTimeout(end, silence);
  try {
    const more: Record<string, string> = cursor === "" ? {} : { "Last-Event-ID": cursor };
    const response = await fetch(`/api/v1/${path}`, { headers: { ...headers(), ...more }, signal: own.signal });
    if (!response.ok || response.body === null) {
      throw new Refused(response.status, "", `the stream is refused: ${response.status}`);
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(dog);
      dog = setTimeout(end, silence);
      heard();
      text += value;
      for (let at = text.indexOf("\n\n"); at >= 0; at = text.indexOf("\n\n")) {
        one(text.slice(0, at), receive);
        text = text.slice(at + 2);
      }
    }
  } finally {
    clearTimeout(dog);
    signal.removeEventListener("abort", end);
  }
}

function one(block: string, receive: (event: string, data: string, id: string) => void) {
  let event = "";
  let data = "";
  let id = "";
  for (const line of block.split("\n")) {
    const value = line.slice(line.indexOf(": ") + 2);
    if (line.startsWith("event: ")) event = value;
    if (line.startsWith("data: ")) data = value;
    if (line.startsWith("id: ")) id = value;
  }
  receive(event, data, id);
}
