"""Puts HTTP before the `mistralrs` package, whose wheels have no server: streamed completions, and the list of models.

Runs in the package's own environment and knows nothing of the rest. Texts go to the model as they are; the answer's
pieces are passed on as they come, in the form of OpenAI's completions.

    python mistralrs_server.py MODEL --port 8000 --dtype f32 --isq q8_0
"""

import argparse
import http.server
import json
import threading
import typing

import mistralrs

MODEL = "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", choices=("f32", "bf16", "f16"), default="f32")
    parser.add_argument("--isq")
    parser.add_argument("--max-seqs", type=int, default=16)
    arguments = parser.parse_args()
    dtype = {"f32": mistralrs.ModelDType.F32, "bf16": mistralrs.ModelDType.BF16, "f16": mistralrs.ModelDType.F16}[arguments.dtype]
    which = mistralrs.Which.Plain(model_id=arguments.model, arch=mistralrs.Architecture.Mistral, dtype=dtype)
    Handler.runner = mistralrs.Runner(which=which, in_situ_quant=arguments.isq, max_seqs=arguments.max_seqs)
    Listener(("127.0.0.1", arguments.port), Handler).serve_forever()


class Listener(http.server.ThreadingHTTPServer):
    """With room for connections that come at once."""

    request_queue_size = 128


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection, in a thread of its own."""

    runner: typing.Any = None
    # The package refuses two calls at once; a call ends when the request is queued, long before its first token.
    sending = threading.Lock()

    def do_GET(self) -> None:
        self.reply({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = mistralrs.ChatCompletionRequest(
            messages=body["prompt"], model="default", max_tokens=body.get("max_tokens", 16), temperature=0.0, top_k=1,
            ignore_eos=body.get("ignore_eos", False), stream=True)
        with self.sending:
            chunks = self.runner.send_chat_completion_request(request)
        if not body.get("stream"):
            return self.reply({"choices": [{"text": "".join(text for text, _, _ in map(parts, chunks))}]})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        usage = None
        try:
            for text, reason, usage_now in map(parts, chunks):
                usage = usage_now or usage
                self.event({"choices": [{"index": 0, "text": text, "finish_reason": reason}]})
        except ValueError as error:  # what the package raises when its model fails
            return self.event({"error": {"message": str(error).splitlines()[0]}})
        if usage:
            self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        return None

    def event(self, content: dict) -> None:
        self.wfile.write(b"data: " + json.dumps(content).encode() + b"\n\n")

    def reply(self, content: dict) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Requests are not logged."""


def parts(chunk: typing.Any) -> tuple[str, str | None, dict[str, int] | None]:
    """Text, reason to finish, usage."""
    usage = chunk.usage and {"prompt_tokens": chunk.usage.prompt_tokens, "completion_tokens": chunk.usage.completion_tokens}
    choice = chunk.choices[0] if chunk.choices else None
    return (choice.delta.content or "", choice.finish_reason, usage) if choice else ("", None, usage)


if __name__ == "__main__":
    main()
