// OpenAI's Responses by the unmodified `openai` package for Node.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { all, prompts, url } from "./support.js";

const Person = z.object({ name: z.string(), city: z.string(), age: z.number().int() });
const client = new OpenAI({ apiKey: "none", baseURL: url(), maxRetries: 0 });
const settings = { model: prompts.model, temperature: 0, max_output_tokens: 100 };

test("a response, whole, streamed and continued", async () => {
  const whole = await client.responses.create({ ...settings, input: "Hello!" });
  assert.equal(whole.status, "completed");
  assert.ok(whole.output_text.length > 0);
  const events = await all(await client.responses.create({ ...settings, input: "Hello!", stream: true }));
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  assert.equal(deltas.map((event) => event.delta).join(""), whole.output_text);
  assert.equal(events.at(-1).type, "response.completed");
  assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
  const rest = await client.responses.create({ ...settings, input: "Thank you!", previous_response_id: whole.id });
  assert.ok(rest.usage.input_tokens > whole.usage.total_tokens);
  assert.equal((await client.responses.retrieve(rest.id)).output_text, rest.output_text);
  const items = await all(client.responses.inputItems.list(rest.id));
  assert.ok(items.some((item) => item.type === "message" && item.role === "user"));
});

test("parallel calls and their results", async () => {
  const tools = [{ type: "function", strict: false, ...prompts.tool.function }];
  const asked = await client.responses.create({ ...settings, input: prompts.two_cities, tools });
  const calls = asked.output.filter((item) => item.type === "function_call");
  assert.deepEqual(calls.map((call) => JSON.parse(call.arguments).city), prompts.cities);
  const input = calls.map((call, index) => ({
    type: "function_call_output",
    call_id: call.call_id,
    output: JSON.stringify(prompts.results[index]),
  }));
  const rest = await client.responses.create({ ...settings, input, tools, previous_response_id: asked.id });
  assert.ok(rest.output_text.startsWith(prompts.said_of_results), rest.output_text);
});

test("a response as a zod type, whole and streamed", async () => {
  const request = { ...settings, input: prompts.extraction, text: { format: zodTextFormat(Person, "person") } };
  assert.deepEqual((await client.responses.parse(request)).output_parsed, prompts.person);
  const streamed = await client.responses.stream(request).finalResponse();
  assert.deepEqual(streamed.output_parsed, prompts.person);
});

test("a response that is not there", async () => {
  await assert.rejects(client.responses.retrieve("resp_none"), OpenAI.NotFoundError);
});
