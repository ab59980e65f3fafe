"""The loads, and how they are put on a server: by `tramontane bench serve`. Main type: `Scenario`.

Every prompt is other random words, so that no cache of prefixes helps; answers are greedy and as long as asked for.
Invariant: answers that failed, or had another length than asked for, are no measurement but `NotMeasured`.
"""

import dataclasses
import json
import pathlib
import subprocess
import tempfile

INPUT_TOLERANCE = 0.03  # words are not the same number of tokens in every prompt
SMOKE_DIVISOR = 16


class NotMeasured(Exception):
    """Why there is no value."""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """`requests` of so many tokens in and out, `concurrency` at a time; `metric` is the one that is compared."""

    name: str
    input_tokens: int
    output_tokens: int
    concurrency: int
    requests: int
    metric: str

    @property
    def is_long(self) -> bool:
        """Does it need a server with room for long contexts?"""
        return self.name.startswith("context")

    def shortened(self) -> "Scenario":
        """Enough to see that an engine answers."""
        return dataclasses.replace(self, input_tokens=max(16, self.input_tokens // SMOKE_DIVISOR),
                                   output_tokens=max(2, self.output_tokens // SMOKE_DIVISOR), requests=self.concurrency)


SCENARIOS = (
    Scenario("decode", 32, 128, 1, 2, "decode_tok_s"),
    Scenario("prefill", 1024, 2, 1, 3, "ttft_ms"),
    Scenario("c4", 128, 64, 4, 8, "output_tok_s"),
    Scenario("c16", 128, 64, 16, 16, "output_tok_s"),
    Scenario("context4k", 4096, 32, 1, 1, "decode_tok_s"),
    Scenario("context16k", 16384, 32, 1, 1, "decode_tok_s"),
)


def measure(binary: pathlib.Path, url: str, scenario: Scenario, limit_s: float) -> dict[str, float]:
    """Metrics of one run. Its two short requests that count the tokens of words are the warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        command = [binary, "bench", "serve", "--url", url, "--profile", "concurrent",
                   "--concurrency", scenario.concurrency, "--requests", scenario.requests, "--warmup", 0,
                   "--input-tokens", scenario.input_tokens, "--output-tokens", scenario.output_tokens,
                   "--extra-body", '{"temperature": 0}', "--timeout", f"{round(limit_s)}s", "--json", report]
        try:
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            raise NotMeasured(f"not done within {limit_s:.0f} s") from None
        # It makes the file before it measures.
        if not report.is_file() or report.stat().st_size == 0:
            raise NotMeasured(f"the load ended with code {done.returncode}: {(done.stderr or done.stdout)[-300:].strip()}")
        return metrics(json.loads(report.read_text())["runs"][0], scenario)


def metrics(run: dict, scenario: Scenario) -> dict[str, float]:
    """Those of a run's report, if it is what was asked for."""
    tokens = run["tokens"]
    if run["failures"] or run["completed"] != scenario.requests:
        raise NotMeasured(f"{run['completed']} of {scenario.requests} requests answered, failures: {json.dumps(run['failures'])}")
    if tokens["output"] != tokens["asked_output"]:
        raise NotMeasured(f"answers of {tokens['output']} tokens in place of {tokens['asked_output']}")
    if abs(tokens["input"] - tokens["asked_input"]) > INPUT_TOLERANCE * tokens["asked_input"] + 2 * scenario.requests:
        raise NotMeasured(f"prompts of {tokens['input']} tokens in place of {tokens['asked_input']}")
    tpot_ms = run["tpot_ms"]["p50"]
    return {
        "ttft_ms": round(run["ttft_ms"]["p50"], 2),
        "tpot_ms": round(tpot_ms, 3),
        "decode_tok_s": round(1e3 / tpot_ms, 3) if tpot_ms else 0.0,
        "output_tok_s": round(run["output_tokens_per_s"], 3),
        "seconds": round(run["duration_s"], 3),
    }
