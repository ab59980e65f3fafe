// Embeddings by every unmodified client for Node.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createMistral } from "@ai-sdk/mistral";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, embedMany } from "ai";
import OpenAI from "openai";
import { prompts, url } from "./support.js";

const texts = ["Hello!", prompts.one_city, prompts.said_of_result];
const client = new OpenAI({ apiKey: "none", baseURL: url(), maxRetries: 0 });
const asked = client.embeddings.create({ model: prompts.model, input: texts, encoding_format: "float" });

function agree(found, expected) {
  assert.equal(found.length, expected.length);
  for (const [index, value] of found.entries()) assert.ok(Math.abs(value - expected[index]) < 1e-6);
}

test("openai: as base64, which it asks for by itself", async () => {
  const expected = (await asked).data;
  const found = (await client.embeddings.create({ model: prompts.model, input: texts })).data;
  assert.equal(found.length, texts.length);
  for (const [index, each] of found.entries()) agree(each.embedding, expected[index].embedding);
});

const providers = {
  "@ai-sdk/openai-compatible": createOpenAICompatible({ name: "tramontane", baseURL: url(), apiKey: "none" }),
  "@ai-sdk/mistral": createMistral({ baseURL: url(), apiKey: "none" }),
};
for (const [provider, of] of Object.entries(providers)) {
  test(`${provider}: one text and many`, async () => {
    const expected = (await asked).data;
    const model = of.embeddingModel(prompts.model);
    const one = await embed({ model, value: texts[0], maxRetries: 0 });
    agree(one.embedding, expected[0].embedding);
    assert.ok(one.usage.tokens > 0);
    const many = await embedMany({ model, values: texts, maxRetries: 0 });
    for (const [index, embedding] of many.embeddings.entries()) agree(embedding, expected[index].embedding);
    assert.equal(many.embeddings.length, texts.length);
  });
}
