// Where the server is, what to ask it, and that a promise is refused as it should be.
import assert from "node:assert/strict";
import prompts from "./prompts.json" with { type: "json" };

export { prompts };

/** The address of a server that `test_node.py` has started. */
export function url(name = "SERVER") {
  const found = process.env[`TRAMONTANE_${name}_URL`];
  assert.ok(found, `TRAMONTANE_${name}_URL is not set: test_node.py starts the servers`);
  return `${found}/v1`;
}

export function user(text) {
  return [{ role: "user", content: text }];
}

/** All that an iterable gives. */
export async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}
