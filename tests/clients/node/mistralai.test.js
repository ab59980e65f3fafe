// The unmodified `@mistralai/mistralai` package for Node: every answer must fit its schemas, every error its classes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { Mistral } from "@mistralai/mistralai";
import { HTTPValidationError, SDKError } from "@mistralai/mistralai/models/errors/index.js";
import { z } from "zod";
import { all, prompts, server, user } from "./support.js";

const { model, tool } = prompts;
const N_LINES = 200;
const Person = z.object({ name: z.string(), city: z.string(), age: z.number().int() });
const client = new Mistral({ apiKey: "none", serverURL: server(), retryConfig: { strategy: "none" } });
const chat = { model, temperature: 0, maxTokens: 100 };
const textOf = (events) => events.map((event) => event.data.choices[0].delta.content ?? "").join("");

test("an answer, whole and streamed", async () => {
  const whole = await client.chat.complete({ ...chat, messages: user("Hello!") });
  assert.ok(whole.choices[0].message.content.length > 0);
  const events = await all(await client.chat.stream({ ...chat, messages: user("Hello!") }));
  assert.equal(textOf(events), whole.choices[0].message.content);
  assert.equal(events.at(-1).data.choices[0].finishReason, whole.choices[0].finishReason);
  assert.equal(events.at(-1).data.usage.totalTokens, whole.usage.totalTokens);
});

test("parallel calls and their results", async () => {
  const request = { ...chat, tools: [tool] };
  const messages = user(prompts.two_cities);
  const { message, finishReason } = (await client.chat.complete({ ...request, messages })).choices[0];
  assert.equal(finishReason, "tool_calls");
  const cityOf = (call) => JSON.parse(call.function.arguments).city;
  assert.deepEqual(message.toolCalls.map(cityOf), prompts.cities);
  const events = await all(await client.chat.stream({ ...request, messages }));
  const streamed = events.flatMap((event) => event.data.choices[0].delta.toolCalls ?? []);
  assert.deepEqual(streamed.map(cityOf), prompts.cities);
  const results = message.toolCalls.map((call, index) => ({
    role: "tool",
    toolCallId: call.id,
    name: call.function.name,
    content: JSON.stringify(prompts.results[index]),
  }));
  const rest = await client.chat.complete({ ...request, messages: [...messages, { role: "assistant", ...message }, ...results] });
  assert.ok(rest.choices[0].message.content.startsWith(prompts.said_of_results), rest.choices[0].message.content);
});

test("an answer as a zod type", async () => {
  const answer = await client.chat.parse({ ...chat, messages: user(prompts.extraction), responseFormat: Person });
  assert.deepEqual(answer.choices[0].message.parsed, prompts.person);
});

test("its own fields", async () => {
  const plain = await client.chat.complete({ ...chat, messages: user("Hello!") });
  const safe = await client.chat.complete({ ...chat, messages: user("Hello!"), safePrompt: true, randomSeed: 7 });
  assert.ok(safe.usage.promptTokens > plain.usage.promptTokens + 20);
});

test("a text filled in, whole and streamed", async () => {
  const request = { model, prompt: "Hello, my", suffix: "is Anna.", maxTokens: 8, temperature: 0 };
  const whole = await client.fim.complete(request);
  assert.equal(textOf(await all(await client.fim.stream(request))), whole.choices[0].message.content);
});

test("embeddings", async () => {
  const answer = await client.embeddings.create({ model, inputs: ["Hello!", prompts.one_city], outputDimension: 16 });
  assert.deepEqual(answer.data.map((each) => each.embedding.length), [16, 16]);
});

test("models", async () => {
  assert.deepEqual((await client.models.list()).data.map((card) => card.id), [model]);
  assert.equal((await client.models.retrieve({ modelId: model })).maxContextLength, 512);
});

test("a batch from a file", async () => {
  const body = { messages: user("Hello!"), temperature: 0, max_tokens: 4 };
  const line = (_, index) => JSON.stringify({ custom_id: `line ${index}`, body });
  const lines = Array.from({ length: N_LINES }, line).join("\n");
  const file = await client.files.upload({ file: { fileName: "lines.jsonl", content: Buffer.from(lines) }, purpose: "batch" });
  let job = await client.batch.jobs.create({ inputFiles: [file.id], model, endpoint: "/v1/chat/completions" });
  for (let round = 0; ["QUEUED", "RUNNING"].includes(job.status) && round < 1200; round += 1) {
    await setTimeout(100);
    job = await client.batch.jobs.get({ jobId: job.id });
  }
  assert.deepEqual([job.status, job.succeededRequests], ["SUCCESS", N_LINES]);
  const output = await new Response(await client.files.download({ fileId: job.outputFile })).text();
  const answers = output.trim().split("\n").map(JSON.parse);
  assert.equal(answers.length, N_LINES);
  assert.ok(answers.every((answer, index) => answer.custom_id === `line ${index}`));
  assert.equal((await client.files.delete({ fileId: file.id })).deleted, true);
  await assert.rejects(client.files.retrieve({ fileId: file.id }), SDKError);
});

test("a wrong field is a validation error, another model is not", async () => {
  const wrong = client.chat.complete({ ...chat, messages: user("Hello!"), temperature: 9 });
  await assert.rejects(wrong, (error) => {
    assert.ok(error instanceof HTTPValidationError, String(error));
    assert.deepEqual([error.statusCode, error.detail[0].loc], [422, ["body", "temperature"]]);
    return true;
  });
  await assert.rejects(client.chat.complete({ ...chat, model: "other", messages: user("Hello!") }), (error) => {
    assert.ok(error instanceof SDKError, String(error));
    assert.equal(error.statusCode, 404);
    return true;
  });
});
