// The unmodified AI SDK of Vercel, `ai`, with its providers for servers like OpenAI's and for Mistral's.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createMistral } from "@ai-sdk/mistral";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { all, prompts, url } from "./support.js";

const Person = z.object({ name: z.string(), city: z.string(), age: z.number().int() });
const city = z.object({ city: z.string() });
const compatible = createOpenAICompatible({
  name: "tramontane",
  baseURL: url(),
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const providers = {
  "@ai-sdk/openai-compatible": compatible,
  "@ai-sdk/mistral": createMistral({ baseURL: url(), apiKey: "none" }),
};

for (const [provider, languageModel] of Object.entries(providers)) {
  const settings = { model: languageModel(prompts.model), temperature: 0, maxOutputTokens: 100, maxRetries: 0 };
  const of = (what) => `${provider}: ${what}`;

  test(of("an answer, whole and streamed"), async () => {
    const whole = await generateText({ ...settings, prompt: "Hello!" });
    assert.equal(whole.finishReason, "stop");
    assert.deepEqual(whole.warnings, []);
    assert.ok(whole.text.length > 0 && whole.usage.outputTokens > 0);
    const stream = streamText({ ...settings, prompt: "Hello!" });
    const pieces = await all(stream.textStream);
    assert.ok(pieces.length > 1);
    assert.equal(pieces.join(""), whole.text);
    assert.equal(await stream.finishReason, "stop");
    assert.equal((await stream.usage).totalTokens, whole.usage.totalTokens);
  });

  test(of("a conversation with a system message"), async () => {
    const messages = [
      { role: "user", content: "Hello!" },
      { role: "assistant", content: "Hello! How can I help you?" },
      { role: "user", content: "Thank you!" },
    ];
    const answer = await generateText({ ...settings, instructions: "You are a helpful assistant.", messages });
    assert.ok(answer.text.length > 0);
    assert.ok(answer.usage.inputTokens > 20);
  });

  test(of("parallel calls, run by the client, and their results"), async () => {
    for (const ask of [generateText, streamText]) {
      const asked = [];
      const get_weather = tool({
        description: prompts.tool.function.description,
        inputSchema: city,
        execute: (input) => {
          asked.push(input.city);
          return prompts.results[prompts.cities.indexOf(input.city)];
        },
      });
      const request = { ...settings, prompt: prompts.two_cities, tools: { get_weather }, stopWhen: stepCountIs(2) };
      const answer = await ask(request);
      const text = await answer.text;
      assert.deepEqual(asked, prompts.cities);
      assert.ok(text.startsWith(prompts.said_of_results), text);
      const reasons = (await answer.steps).map((step) => step.finishReason);
      assert.deepEqual(reasons, ["tool-calls", "stop"]);
    }
  });

  test(of("a call that is demanded, of any tool or of one"), async () => {
    const get_weather = tool({ description: prompts.tool.function.description, inputSchema: city });
    for (const toolChoice of ["required", { type: "tool", toolName: "get_weather" }]) {
      const answer = await generateText({ ...settings, prompt: "Hello!", tools: { get_weather }, toolChoice });
      assert.equal(answer.toolCalls.length, 1);
      assert.ok(city.safeParse(answer.toolCalls[0].input).success);
    }
  });

  test(of("an answer as a zod type, whole and streamed"), async () => {
    const request = { ...settings, prompt: prompts.extraction, output: Output.object({ schema: Person }) };
    assert.deepEqual((await generateText(request)).output, prompts.person);
    const stream = streamText(request);
    const growing = await all(stream.partialOutputStream);
    assert.ok(growing.length > 2);
    assert.deepEqual(growing.at(-1), prompts.person);
    assert.deepEqual(await stream.output, prompts.person);
  });

  test(of("a choice"), async () => {
    const output = Output.choice({ options: ["red", "blue"] });
    const answer = await generateText({ ...settings, prompt: "Hello!", output });
    assert.ok(["red", "blue"].includes(answer.output));
  });
}

test("@ai-sdk/openai-compatible: a completion", async () => {
  const model = compatible.completionModel(prompts.model);
  const answer = await generateText({ model, prompt: "Hello", maxOutputTokens: 4, temperature: 0, maxRetries: 0 });
  assert.ok(answer.usage.outputTokens <= 4);
});

test("@ai-sdk/mistral: its own fields", async () => {
  const model = providers["@ai-sdk/mistral"](prompts.model);
  const ask = (mistral) =>
    generateText({ model, prompt: "Hello!", maxOutputTokens: 4, maxRetries: 0, providerOptions: { mistral } });
  const [plain, safe] = await Promise.all([ask({}), ask({ safePrompt: true })]);
  assert.ok(safe.usage.inputTokens > plain.usage.inputTokens + 20);
});
