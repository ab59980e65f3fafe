// Each client's own error for what the server answers, status by status.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createMistral } from "@ai-sdk/mistral";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Mistral } from "@mistralai/mistralai";
import { HTTPValidationError, SDKError } from "@mistralai/mistralai/models/errors/index.js";
import { APICallError, generateText, streamText } from "ai";
import OpenAI from "openai";
import { prompts, server as serverOf, url, user } from "./support.js";

const { model } = prompts;
const clientOf = (baseURL) => new OpenAI({ apiKey: "none", baseURL, maxRetries: 0 });

// The first comes first: that model will not load for ever.
const faults = [
  ["a model that loads", 503, OpenAI.InternalServerError, "LOADING", {}],
  ["a wrong field", 400, OpenAI.BadRequestError, "SERVER", { temperature: 9 }],
  ["a stranger", 401, OpenAI.AuthenticationError, "KEYED", {}],
  ["another model", 404, OpenAI.NotFoundError, "SERVER", { name: "other" }],
  ["a large body", 413, OpenAI.APIError, "NARROW", { content: "a".repeat(10_000) }],
  ["a full queue", 429, OpenAI.RateLimitError, "BUSY", {}],
  ["a broken model", 500, OpenAI.InternalServerError, "BROKEN", {}],
];
for (const [what, status, Expected, server, fault] of faults) {
  const { name = model, content = "Hello!", temperature } = fault;

  test(`openai: ${what} is ${status}`, async () => {
    const request = { model: name, messages: user(content), max_tokens: 4, temperature };
    await assert.rejects(clientOf(url(server)).chat.completions.create(request), (error) => {
      assert.equal(error.constructor, Expected);
      assert.equal(error.status, status);
      return true;
    });
  });

  test(`@mistralai/mistralai: ${what} is told`, async () => {
    const client = new Mistral({ apiKey: "none", serverURL: serverOf(server), retryConfig: { strategy: "none" } });
    const request = { model: name, messages: user(content), maxTokens: 4, temperature };
    await assert.rejects(client.chat.complete(request), (error) => {
      // In Mistral's dialect what is wrong with one field is 422.
      const isField = temperature !== undefined;
      assert.ok(error instanceof (isField ? HTTPValidationError : SDKError), String(error));
      assert.equal(error.statusCode, isField ? 422 : status);
      return true;
    });
  });

  const retryable = [429, 500, 503].includes(status);
  const providers = {
    "@ai-sdk/openai-compatible": createOpenAICompatible({ name: "tramontane", baseURL: url(server), apiKey: "none" }),
    "@ai-sdk/mistral": createMistral({ baseURL: url(server), apiKey: "none" }),
  };
  for (const [provider, languageModel] of Object.entries(providers)) {
    test(`${provider}: ${what} is ${status}`, async () => {
      const request = { model: languageModel(name), prompt: content, maxOutputTokens: 4, maxRetries: 0, temperature };
      await assert.rejects(generateText(request), (error) => {
        assert.ok(APICallError.isInstance(error), String(error));
        assert.equal(error.statusCode, status);
        assert.equal(error.isRetryable, retryable);
        return true;
      });
    });
  }
}

test("openai: a wrong field of a route that only Mistral has is 422", async () => {
  const asked = clientOf(url()).post("/fim/completions", { body: { model, prompt: 1 } });
  await assert.rejects(asked, OpenAI.UnprocessableEntityError);
});

test("@ai-sdk/mistral: a wrong field is 422 where the client says who it is", async () => {
  const errors = [];
  const languageModel = createMistral({ baseURL: url(), apiKey: "none" })(model);
  const answer = streamText({
    model: languageModel,
    prompt: "Hello!",
    temperature: 9,
    maxRetries: 0,
    onError: ({ error }) => errors.push(error),
  });
  await answer.consumeStream();
  assert.deepEqual(errors.map((error) => [APICallError.isInstance(error), error.statusCode]), [[true, 422]]);
});

test("openai: a stream that breaks is an error", async () => {
  const stream = await clientOf(url("BROKEN")).chat.completions.create({ model, messages: user("Hello!"), stream: true });
  await assert.rejects(async () => {
    for await (const chunk of stream) assert.equal(chunk.object, "chat.completion.chunk");
  }, OpenAI.APIError);
});
