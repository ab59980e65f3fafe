"""Messages -> tokens of the v3 instruct format, with the spans that carry the loss.

Main type: `Renderer`. It is a fast copy of mistral-common's InstructTokenizerV3 for the requests
that the generator makes (no images, no same-role neighbours); `python render.py --samples 3000`
proves token-for-token equality. Must not know what the samples mean.
"""

import argparse
import json

import sentencepiece

from words import TOKENIZER_PATH

BOS, EOS, INST, END_INST, TOOL_CALLS = 1, 2, 3, 4, 5
AVAILABLE_TOOLS, END_AVAILABLE_TOOLS, TOOL_RESULTS, END_TOOL_RESULTS = 6, 7, 8, 9


class Renderer:
    def __init__(self, tokenizer_path=TOKENIZER_PATH):
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_path))

    def prompt(self, request):
        """Tokens of a chat request whose last message is the user's or a tool's."""
        tokens = [BOS]
        messages = [m for m in request["messages"] if m["role"] != "system"]
        system = "\n\n".join(m["content"] for m in request["messages"] if m["role"] == "system")
        last_user = max(i for i, m in enumerate(messages) if m["role"] == "user")
        for index, message in enumerate(messages):
            role = message["role"]
            if role == "user":
                if index == last_user and request.get("tools"):
                    listed = json.dumps([_tool(t) for t in request["tools"]], ensure_ascii=False)
                    tokens += [AVAILABLE_TOOLS, *self.model.encode(listed), END_AVAILABLE_TOOLS]
                content = message["content"]
                if index == last_user and system:
                    content = system + "\n\n" + content
                tokens += [INST, *self.model.encode(content), END_INST]
            elif role == "assistant":
                tokens += self.answer(message)
            else:
                result = {"content": _parsed(message["content"]), "call_id": message["tool_call_id"]}
                tokens += [TOOL_RESULTS, *self.model.encode(json.dumps(result, ensure_ascii=False)), END_TOOL_RESULTS]
        return tokens

    def answer(self, message):
        """Tokens of an assistant message, the end of sequence included."""
        if message.get("tool_calls"):
            calls = [{"name": c["function"]["name"], "arguments": _parsed(c["function"]["arguments"]), "id": c["id"]}
                     for c in message["tool_calls"]]
            return [TOOL_CALLS, *self.model.encode(json.dumps(calls, ensure_ascii=False)), EOS]
        return [*self.model.encode(message["content"].rstrip(" ")), EOS]

    def training_tokens(self, sample):
        """(tokens, mask): the mask is True where a token is to be predicted.

        Earlier assistant turns count too when neither tools nor a system prompt move to the last
        user message, for then they are rendered just as they were when it was their turn. The one
        layout that no template writes: `more` requests follow a call at once, without its result,
        so that the definitions of the tools, most of the tokens, serve several times.
        """
        request, expected = sample["request"], sample["expected"]
        prompt = self.prompt(request)
        mask = [False] * len(prompt)
        if not request.get("tools") and request["messages"][0]["role"] != "system":
            inside = False
            for index, token in enumerate(prompt):
                if inside:
                    mask[index] = True
                if token == END_INST:
                    inside = True
                elif token == EOS:
                    inside = False
        tokens = prompt
        for part, predicted in [(self.answer(answer_message(expected)), True), *self._more(expected.get("more", ()))]:
            tokens, mask = tokens + part, mask + [predicted] * len(part)
        return tokens, mask

    def _more(self, requests):
        for content, calls in requests:
            yield [INST, *self.model.encode(content), END_INST], False
            yield self.answer(answer_message({"tool_calls": calls})), True

    def decode(self, tokens):
        return self.model.decode([t for t in tokens if t > 9])


def answer_message(expected):
    """The expected answer as an OpenAI assistant message. Call ids count from call00001."""
    if "tool_calls" not in expected:
        return {"role": "assistant", "content": expected["content"]}
    return {"role": "assistant", "content": "", "tool_calls": [
        {"id": f"call{index + 1:05}", "type": "function",
         "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}}
        for index, call in enumerate(expected["tool_calls"])]}


def _tool(tool):
    function = tool["function"]
    return {"type": "function", "function": {"name": function["name"], "description": function.get("description", ""),
                                             "parameters": function.get("parameters", {})}}


def _parsed(text):
    if not text:
        return {}
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _verify(samples, seed):
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    from data import generate

    reference, renderer = MistralTokenizer.v3(), Renderer()
    for split in ("train", "heldout"):
        for index in range(samples):
            sample = generate(split, seed, index)
            body = {"model": "tiny", **sample["request"]}
            expected = reference.encode_chat_completion(ChatCompletionRequest.from_openai(**body)).tokens
            assert renderer.prompt(sample["request"]) == expected, json.dumps(sample, ensure_ascii=False)
            # The answer, as history of a longer conversation.
            longer = [*sample["request"]["messages"], answer_message(sample["expected"])]
            if "tool_calls" in sample["expected"]:
                longer += [{"role": "tool", "tool_call_id": c["id"], "content": "{\"a\": 1}"} for c in longer[-1]["tool_calls"]]
            else:
                longer += [{"role": "user", "content": "Thanks!"}]
            body = {**body, "messages": longer}
            expected = reference.encode_chat_completion(ChatCompletionRequest.from_openai(**body)).tokens
            assert renderer.prompt(body) == expected, json.dumps(body, ensure_ascii=False)
    print(f"{2 * samples} samples and as many continued conversations: all tokens equal")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    _verify(arguments.samples, arguments.seed)
