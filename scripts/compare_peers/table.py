"""The table for people, made of nothing but the rows and a few facts of the run. Main function: `write`.

Values are medians over rounds, with the range where there are several. A ratio above 1 says that ours is better,
whether the value is a rate or a time.
"""

import dataclasses
import pathlib
import textwrap
import time

from engines import GROUPS, OURS, Launch, Variant, variants
from rows import MACHINE, Rows
from scenarios import SCENARIOS, Scenario

PREFILL_TOKENS = 1024
NOISY_CORES = 0.1
WIDTH = 120
SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Column:
    """A compared value."""

    title: str
    scenario: str
    metric: str
    less_is_better: bool = False
    digits: int = 1


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the rows do not say."""

    model: str
    parameters: int
    threads: int
    is_smoke: bool


def title(scenario: Scenario) -> str:
    unit = {"decode_tok_s": "decode tok/s", "ttft_ms": "first token ms", "output_tok_s": "output tok/s"}[scenario.metric]
    return f"{scenario.name}: {unit}"


COLUMNS = [Column(title(s), s.name, s.metric, s.metric.endswith("_ms"), 0 if s.metric.endswith("_ms") else 1) for s in SCENARIOS]
COLUMNS += [Column("ready s", "start", "ready_s", True, 1), Column("peak RSS MB", "start", "peak_rss_mb", True, 0),
            Column("of it no file's MB", "start", "peak_anonymous_mb", True, 0)]


def write(rows: Rows, facts: Facts) -> pathlib.Path:
    path = rows.path.with_suffix(".md")
    parts = [heading(rows, facts), ceilings(rows, facts)]
    parts += [group_table(rows, group, name) for group, name in GROUPS.items()]
    parts += [noise(rows), missing(rows), servers(rows, facts)]
    path.write_text("\n\n".join(part for part in parts if part) + "\n")
    return path


def heading(rows: Rows, facts: Facts) -> str:
    machine = rows.version(MACHINE) or "a machine that was not measured"
    loads = "; ".join(f"`{s.name}` {s.input_tokens} / {s.output_tokens}, {s.concurrency}" for s in SCENARIOS)
    smoke = "The figures mean nothing: texts were shorter than it says, only to see that all answer. " if facts.is_smoke else ""
    text = (f"{smoke}{machine}. {facts.model}. One server at a time, all in every round, those of one precision one after the "
            f"other; `tramontane bench serve` is the load for all: greedy, answers as long as asked for, every prompt another "
            f"text. Tokens in / out, requests at a time: {loads}. Medians over the rounds, the range in brackets. *ours / best "
            "peer* is above 1 where ours is better. `ready` is from the start to the first answer, the weights in the page "
            "cache, without what vLLM compiles when it first sees a model.")
    date, commands = time.strftime("%Y-%m-%d"), "\n".join(f"    {command}" for command in rows.commands())
    return f"# Beside other servers on {facts.threads} CPU threads, {date}\n\n{commands}\n\n{wrapped(text)}"


def ceilings(rows: Rows, facts: Facts) -> str:
    measured = {metric: value for metric in ("bandwidth_gb_s", "bf16_gflop_s", "onednn_bf16_gflop_s")
                if (value := rows.median(MACHINE, "", "peak", metric)) is not None}
    if "bandwidth_gb_s" not in measured:
        return ""
    best = max(measured.get("bf16_gflop_s", 0.0), measured.get("onednn_bf16_gflop_s", 0.0))
    decode = measured["bandwidth_gb_s"] * 1e9 / (2 * facts.parameters)
    prefill_s = 2 * facts.parameters * PREFILL_TOKENS / (best * 1e9)
    onednn = f", oneDNN's bf16 products at {cell(rows, MACHINE, '', 'peak', 'onednn_bf16_gflop_s', 0)} GFLOP/s" \
        if "onednn_bf16_gflop_s" in measured else ""
    return wrapped(f"Memory was read at {cell(rows, MACHINE, '', 'peak', 'bandwidth_gb_s', 1)} GB/s, bf16 products in registers ran at "
            f"{cell(rows, MACHINE, '', 'peak', 'bf16_gflop_s', 0)} GFLOP/s{onednn}. That bounds `decode` in bf16 to "
            f"{decode:.1f} tok/s, and `prefill` to {prefill_s * 1e3:,.0f} ms.")


def wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def group_table(rows: Rows, group: str, name: str) -> str:
    members = [v for v in variants() if v.group == group and any(r.engine == v.engine and r.precision == v.precision for r in rows.rows)]
    columns = [column for column in COLUMNS if any(value(rows, v, column) is not None for v in members)]
    if not columns:
        return ""
    lines = [f"## {name}", "", "| | " + " | ".join(column.title for column in columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for member in members:
        cells = [cell(rows, member.engine, member.precision, c.scenario, c.metric, c.digits) for c in columns]
        lines.append(f"| {member.engine} {rows.version(member.engine)}, {member.precision} | " + " | ".join(cells) + " |")
    lines.append("| *ours / best peer* | " + " | ".join(ratio(rows, members, column) for column in columns) + " |")
    return "\n".join(lines)


def value(rows: Rows, variant: Variant, column: Column) -> float | None:
    return rows.median(variant.engine, variant.precision, column.scenario, column.metric)


def cell(rows: Rows, engine: str, precision: str, scenario: str, metric: str, digits: int) -> str:
    values = rows.values(engine, precision, scenario, metric)
    middle = rows.median(engine, precision, scenario, metric)
    if middle is None:
        return "-"
    low, high = f"{min(values):,.{digits}f}", f"{max(values):,.{digits}f}"
    return f"{middle:,.{digits}f}" + (f" ({low}-{high})" if low != high else "")


def ratio(rows: Rows, members: list[Variant], column: Column) -> str:
    ours = next((found for v in members if v.engine == OURS and (found := value(rows, v, column)) is not None), None)
    peers = {v.engine: found for v in members if v.engine != OURS and (found := value(rows, v, column))}
    if not ours or not peers:
        return "-"
    best = (min if column.less_is_better else max)(peers, key=peers.__getitem__)
    return f"{peers[best] / ours if column.less_is_better else ours / peers[best]:.2f} ({best})"


def noise(rows: Rows) -> str:
    found = [row for row in rows.rows if row.metric == "foreign_cores"]
    noisy = sorted((row for row in found if float(row.value) > NOISY_CORES), key=lambda row: -float(row.value))
    if not found:
        return ""
    text = f"Other processes kept more than {NOISY_CORES} cores busy during {len(noisy)} of {len(found)} measurements"
    shown = [" ".join(f"{row.engine} {row.precision} {row.scenario} in round {row.round}: {float(row.value):.2f}".split())
             for row in noisy[:SHOWN]]
    listed = f": {'; '.join(shown)}" if shown else ""
    return "## Noise\n\n" + wrapped(f"{text}{listed}{'; and less in others' if len(noisy) > SHOWN else ''}.")


def missing(rows: Rows) -> str:
    lines = {"- " + " ".join(f"{row.engine} {row.precision} {row.scenario}: {row.value}".split()) for row in rows.problems()}
    return "\n".join(["## Not measured", "", *sorted(lines)]) if lines else ""


def servers(rows: Rows, facts: Facts) -> str:
    """How each engine was started."""
    lines = ["## The servers", ""]
    known = {(row.engine, row.precision) for row in rows.rows}
    for variant in variants():
        if (variant.engine, variant.precision) not in known:
            continue
        model = {"checkpoint": "MODEL", "peers": "MODEL"}.get(variant.model, f"MODEL-{variant.precision}.gguf")
        program = {"llama.cpp": "llama-server", "mistralrs": "python"}.get(variant.engine, variant.engine)
        launch = Launch(pathlib.Path(program), pathlib.Path(model), 8000, facts.threads)
        words = [pathlib.Path(word).name if word.endswith("mistralrs_server.py") else word for word in variant.command(launch)]
        settings = {key: text for key, text in variant.environment(launch).items() if key.startswith(("RAYON", "CANDLE", "VLLM_CPU"))}
        lines.append("    " + " ".join([*(f"{key}={text}" for key, text in settings.items()), *words]))
    return "\n".join(lines)
