#!/usr/bin/env python3
"""Puts what the parts of gpu-check.sh measured into one flat file, and writes a table for people beside it.

Main functions: `merge(parts)`, and `table(results)`, which compares with the targets. Floors are arithmetic for the
shape of Mistral 7B in bf16 on a card that copies 4.3 TB/s and multiplies 790 TFLOP/s, an H200; floors and targets in
milliseconds are scaled to what the card at hand copies and multiplies in the same run. Invariant: a part that did not
run leaves no key, and the table says "not measured". Needs Python alone.

    scripts/gpu_report.py OUT.json PART.json ... --fact commit=... --fact date=...
    python3 -m doctest scripts/gpu_report.py
"""

import argparse
import dataclasses
import json
import pathlib
import re

REFERENCE = {"copy_gb_s": 4300.0, "matmul_bf16_tflop_s": 790.0}


@dataclasses.dataclass(frozen=True)
class Target:
    """A line of the table: `floor` and `target` are those of the reference card."""

    what: str
    key: str  # a pattern; of several keys the worst counts
    floor: object  # a number, or words
    target: float
    unit: str = ""
    at_least: bool = False
    scales_with: str | None = None  # the ceiling that bounds it

    def scaled(self, value, results):
        """What `value` becomes on this card.

        >>> TARGETS[0].scaled(3.75, {"copy_gb_s": 2150.0})
        7.5
        >>> TARGETS[0].scaled(3.75, {})
        3.75
        """
        if self.scales_with is None or not isinstance(value, float):
            return value
        ratio = results.get(self.scales_with, REFERENCE[self.scales_with]) / REFERENCE[self.scales_with]
        return value * ratio if self.at_least else value / ratio

    def line(self, results):
        """Cells: what, measured, floor, target, met.

        >>> TARGETS[0].line({"decode_ms.b1.1k": 3.8, "copy_gb_s": 4300.0})
        ['batch-1 decode, 1k context', '3.8 ms', '3.34 ms', '<= 3.75 ms', 'no']
        >>> TARGETS[1].line({"gemv_fraction.a": 0.91, "gemv_fraction.b": 0.87})
        ['each decode GEMV, the slowest: b', '0.87', 'copy bandwidth', '>= 0.85', 'yes']
        >>> TARGETS[2].line({})
        ['decode attention, 2k context', 'not measured', 'copy bandwidth', '>= 0.8', '-']
        """
        floor, target = self.scaled(self.floor, results), self.scaled(self.target, results)
        floor = floor if isinstance(floor, str) else f"{number(floor)} {self.unit}".strip()
        aim = f"{'>=' if self.at_least else '<='} {number(target)} {self.unit}".strip()
        found = {key: value for key, value in results.items() if re.fullmatch(self.key, key)}
        if not found:
            return [self.what, "not measured", floor, aim, "-"]
        worst = (min if self.at_least else max)(found, key=found.get)
        value = found[worst]
        what = f"{self.what}, the slowest: {worst.split('.', 1)[1]}" if len(found) > 1 else self.what
        met = value >= target if self.at_least else value <= target
        return [what, f"{number(value)} {self.unit}".strip(), floor, aim, "yes" if met else "no"]


COPY, PRODUCT = "copy_gb_s", "matmul_bf16_tflop_s"
TARGETS = [
    Target("batch-1 decode, 1k context", r"decode_ms\.b1\.1k", 3.34, 3.75, "ms", scales_with=COPY),
    Target("each decode GEMV", r"gemv_fraction\..*", "copy bandwidth", 0.85, at_least=True),
    Target("decode attention, 2k context", r"attention_fraction\.2k", "copy bandwidth", 0.80, at_least=True),
    Target("decode attention, 8k context", r"attention_fraction\.8k", "copy bandwidth", 0.80, at_least=True),
    Target("decode batch 128, 1k context", r"decode_ms\.b128\.1k", 7.3, 9.5, "ms", scales_with=COPY),
    Target("prefill 1k", r"prefill_ms\.1k", 18.5, 22.0, "ms", scales_with=PRODUCT),
    Target("prefill 8k", r"prefill_ms\.8k", 173.0, 215.0, "ms", scales_with=PRODUCT),
    Target("host time per decode step, one request", r"host_us_per_step\.c1", "-", 30.0, "us"),
    Target("throughput 1000 in, 1000 out, through HTTP", r"throughput_tok_s\.1000x1000", 20_000.0, 14_000.0, "tok/s",
           at_least=True, scales_with=COPY),
    Target("load of 14.5 GB", r"load_s", "PCIe", 10.0, "s"),
    Target("memory left taken by 1,000 replays", r"replay_drift_bytes", "0", 0.0, "bytes"),
    Target("errors by compute-sanitizer", r"sanitizer_errors", "0", 0.0),
    Target("greedy answers that differ in company", r"greedy_different", "0", 0.0),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--fact", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("parts", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    facts = dict(fact.split("=", 1) for fact in arguments.fact)
    parts = [json.loads(part.read_text()) for part in arguments.parts if part.is_file()]
    results = merge([{key: as_number(value) for key, value in facts.items() if value}, *parts])
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    text = table(results)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def as_number(text):
    """Errors are counted; a date and a commit stay what they are.

    >>> as_number("0"), as_number("2026-11-25"), as_number("1e5")
    (0, '2026-11-25', '1e5')
    """
    return int(text) if text.isdecimal() and len(text) < 10 else text


def merge(parts):
    """One flat dictionary. Of two ways to copy the faster one shows what the card can do, so fractions are of it.

    >>> merge([{"copy_gb_s": 2000.0, "gemv_gb_s.a": 1800.0, "gemv_fraction.a": 0.9}, {"torch_copy_gb_s": 2400.0}])
    {'copy_gb_s': 2400.0, 'gemv_gb_s.a': 1800.0, 'gemv_fraction.a': 0.75, 'torch_copy_gb_s': 2400.0, 'own_copy_gb_s': 2000.0}
    """
    results = {key: value for part in parts for key, value in part.items()}
    if "copy_gb_s" in results:
        results["own_copy_gb_s"] = results["copy_gb_s"]
        results["copy_gb_s"] = max(results["copy_gb_s"], results.get("torch_copy_gb_s", 0.0))
        for key in [key for key in results if re.match(r"(gemv|attention)_fraction\.", key)]:
            results[key] = results[key.replace("_fraction.", "_gb_s.")] / results["copy_gb_s"]
    if "torch_matmul_bf16_tflop_s" in results:
        results["matmul_bf16_tflop_s"] = results["torch_matmul_bf16_tflop_s"]
    return results


def table(results):
    """Markdown: facts and a note, targets, neighbours, HTTP, everything else."""
    facts = [f"{key} {results[key]}" for key in ("card", "commit", "date", "driver", "toolkit") if key in results]
    ceilings = []
    for name, key, unit in ("copy", COPY, "GB/s"), ("product", PRODUCT, "TFLOP/s"):
        measured = f"{number(results[key])} {unit}" if key in results else f"not measured, {REFERENCE[key]:.0f} {unit} taken"
        ceilings.append(f"{name} {measured}")
    note = ["", results["note"], ""] if "note" in results else []
    text = ["# What a GPU showed", "", "; ".join(facts) + ".", *note, "Ceilings of the card in this run: " + "; ".join(ceilings) + ".",
            "Floors and targets are scaled to them.", ""]
    text += markdown(["what", "measured", "floor", "target", "met?"], [target.line(results) for target in TARGETS])
    shown = {key for key in results if any(re.fullmatch(target.key, key) for target in TARGETS)}
    text += neighbours(results, shown) + through_http(results, shown)
    rest = {key: value for key, value in results.items() if key not in shown and isinstance(value, (int, float))}
    text += ["", "## What else was measured", ""]
    text += markdown(["key", "value"], [[f"`{key}`", number(value)] for key, value in sorted(rest.items(), key=natural)])
    return "\n".join(text) + "\n"


def neighbours(results, shown):
    """Decode steps beside PyTorch's."""
    rows = []
    for key in sorted((key for key in results if key.startswith("torch_decode_ms.")), key=natural):
        ours, theirs = results.get(key.removeprefix("torch_")), results[key]
        ratio = number(theirs / ours) if ours else "-"
        rows.append([key.split(".", 1)[1], number(ours) if ours else "not measured", number(theirs), ratio])
        shown.update({key, key.removeprefix("torch_")})
    if not rows:
        return []
    title = f"## Beside PyTorch {results.get('torch_version', '')} with CUDA graphs"
    return ["", title, ""] + markdown(["decode", "ours, ms", "PyTorch, ms", "PyTorch / ours"], rows)


def through_http(results, shown):
    """Latency by concurrency."""
    columns = ["ttft_ms_p50", "ttft_ms_p99", "itl_ms_p50", "itl_ms_p99", "throughput_tok_s", "client_busy"]
    loads = {key.split(".", 1)[1] for key in results if key.startswith("http_")}
    rows = []
    for load in sorted(loads, key=natural):
        cells = [results.get(f"http_{column}.{load}", results.get(f"{column}.{load}")) for column in columns]
        shown.update(f"{prefix}{column}.{load}" for column in columns for prefix in ("http_", ""))
        rows.append([load, *("-" if cell is None else number(cell) for cell in cells)])
    if not rows:
        return []
    names = ["load", "TTFT p50, ms", "p99", "between tokens p50, ms", "p99", "tok/s", "client busy"]
    return ["", "## Through HTTP", "", "`c8`: 8 requests at a time; `1000x1000`: tokens in and out. A client that is busy for "
            "nearly all of the time (1) measures itself.", ""] + markdown(names, rows)


def markdown(names, rows):
    return ["| " + " | ".join(cells) + " |" for cells in [names, ["---"] * len(names), *rows]]


def natural(key):
    """Numbers within names in their order.

    >>> sorted(["b128.1k", "b8.1k", "b1.1k"], key=natural)
    ['b1.1k', 'b8.1k', 'b128.1k']
    """
    key = key[0] if isinstance(key, tuple) else key
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", key)]


def number(value):
    """Three digits that matter.

    >>> number(0.8512), number(3.3449), number(20431.7), number(0), number(1048576)
    ('0.851', '3.34', '20,432', '0', '1,048,576')
    """
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


if __name__ == "__main__":
    main()
