// The unmodified `openai` package for Node.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import OpenAI, { toFile } from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { all, prompts, url, user } from "./support.js";

const { model, tool } = prompts;
const Person = z.object({ name: z.string(), city: z.string(), age: z.number().int() });
const N_LINES = 200;
const client = new OpenAI({ apiKey: "none", baseURL: url(), maxRetries: 0 });
const chat = { model, temperature: 0, max_tokens: 100 };

test("an answer, whole and streamed", async () => {
  const whole = await client.chat.completions.create({ ...chat, messages: user("Hello!") });
  assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
  const stream = await client.chat.completions.create({
    ...chat,
    messages: user("Hello!"),
    stream: true,
    stream_options: { include_usage: true },
  });
  const chunks = await all(stream);
  assert.equal(chunks.at(-1).usage.total_tokens, whole.usage.total_tokens);
  const content = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.ok(content.length > 0);
  assert.equal(content, whole.choices[0].message.content);
});

test("a stream that is left ends the request", async () => {
  const stream = await client.chat.completions.create({ ...chat, messages: user("Hello!"), stream: true });
  for await (const chunk of stream) {
    assert.equal(chunk.object, "chat.completion.chunk");
    break;
  }
  assert.ok(stream.controller.signal.aborted);
});

test("parallel calls and their results", async () => {
  const request = { ...chat, tools: [tool] };
  const messages = user(prompts.two_cities);
  const { message, finish_reason } = (await client.chat.completions.create({ ...request, messages })).choices[0];
  assert.equal(finish_reason, "tool_calls");
  const cities = message.tool_calls.map((call) => JSON.parse(call.function.arguments).city);
  assert.deepEqual(cities, prompts.cities);
  const streamed = await client.chat.completions.stream({ ...request, messages }).finalMessage();
  assert.deepEqual(
    streamed.tool_calls.map((call) => call.function.arguments),
    message.tool_calls.map((call) => call.function.arguments),
  );
  const results = message.tool_calls.map((call, index) => ({
    role: "tool",
    tool_call_id: call.id,
    content: JSON.stringify(prompts.results[index]),
  }));
  const rest = await client.chat.completions.create({ ...request, messages: [...messages, message, ...results] });
  assert.ok(rest.choices[0].message.content.startsWith(prompts.said_of_results), rest.choices[0].message.content);
});

test("one call where parallel ones are not wanted", async () => {
  const request = { ...chat, tools: [tool], messages: user(prompts.two_cities), parallel_tool_calls: false };
  const answer = await client.chat.completions.create(request);
  assert.equal(answer.choices[0].message.tool_calls.length, 1);
});

test("functions run by the client", async () => {
  const asked = [];
  const getWeather = {
    type: "function",
    function: {
      ...tool.function,
      parse: JSON.parse,
      function: ({ city }) => {
        asked.push(city);
        return prompts.result;
      },
    },
  };
  const runner = client.chat.completions.runTools({ ...chat, messages: user(prompts.one_city), tools: [getWeather] });
  assert.equal(await runner.finalContent(), prompts.said_of_result);
  assert.deepEqual(asked, [prompts.city]);
});

test("an answer as a zod type, whole and streamed", async () => {
  const request = {
    ...chat,
    messages: user(prompts.extraction),
    response_format: zodResponseFormat(Person, "person"),
  };
  const whole = await client.chat.completions.parse(request);
  assert.deepEqual(whole.choices[0].message.parsed, prompts.person);
  const streamed = await client.chat.completions.stream(request).finalChatCompletion();
  assert.deepEqual(streamed.choices[0].message.parsed, prompts.person);
});

test("arguments as a zod type", async () => {
  const schema = z.object({ city: z.string() });
  const strict = zodFunction({ name: "get_weather", description: "Get the weather in a city", parameters: schema });
  const answer = await client.chat.completions.parse({ ...chat, messages: user(prompts.one_city), tools: [strict] });
  assert.deepEqual(answer.choices[0].message.tool_calls[0].function.parsed_arguments, { city: prompts.city });
});

test("a completion", async () => {
  const answer = await client.completions.create({ model, prompt: "Hello, my", suffix: "is Anna.", max_tokens: 8 });
  assert.equal(answer.object, "text_completion");
  assert.ok(answer.usage.completion_tokens <= 8);
});

test("models", async () => {
  assert.deepEqual((await all(client.models.list())).map((card) => card.id), [model]);
  assert.equal((await client.models.retrieve(model)).owned_by, "tramontane");
});

test("a batch from a file", async () => {
  const line = (index) => ({
    custom_id: `line ${index}`,
    method: "POST",
    url: "/v1/chat/completions",
    body: { model, messages: user("Hello!"), temperature: 0, max_tokens: 4 },
  });
  const lines = Array.from({ length: N_LINES }, (_, index) => JSON.stringify(line(index))).join("\n");
  const file = await client.files.create({ file: await toFile(Buffer.from(lines), "lines.jsonl"), purpose: "batch" });
  let batch = await client.batches.create({
    input_file_id: file.id,
    endpoint: "/v1/chat/completions",
    completion_window: "24h",
  });
  for (let round = 0; batch.status !== "completed" && round < 1200; round += 1) {
    await setTimeout(100);
    batch = await client.batches.retrieve(batch.id);
  }
  assert.deepEqual({ ...batch.request_counts }, { total: N_LINES, completed: N_LINES, failed: 0 });
  const output = await (await client.files.content(batch.output_file_id)).text();
  const answers = output.trim().split("\n").map(JSON.parse);
  assert.equal(answers.length, N_LINES);
  assert.ok(answers.every((answer, index) => answer.custom_id === `line ${index}`));
  assert.ok(answers.every((answer) => answer.response.body.choices[0].message.content));
  assert.equal((await client.files.delete(file.id)).deleted, true);
  await assert.rejects(client.files.retrieve(file.id), OpenAI.NotFoundError);
});
