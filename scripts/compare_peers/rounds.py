"""One round: the machine, then every engine with every load. Main type: `Comparison`.

Rows are written as they are measured, and what is in the file already is not measured again. Invariant: no two servers
live at a time.
"""

import argparse
import dataclasses
import pathlib
import time
import typing

import checkpoint
import machine
from engines import GROUPS, SHORT_CONTEXT, SLOTS, Launch, Variant, variants
from install import Installed, NotInstalled
from processes import ForeignCores, Server, free_port
from rows import MACHINE, PROBLEM, Row, Rows
from scenarios import NotMeasured, Scenario, measure

START = "start"
START_LONG = "start-long"  # of a server for long contexts: its memory is another
SMOKE_PATIENCE = 3  # a smoke run may share the machine


@dataclasses.dataclass
class Comparison:
    """What all rounds share."""

    options: argparse.Namespace
    rows: Rows
    checkpoint: checkpoint.Checkpoint
    installed: dict[str, Installed]
    scenarios: list[Scenario]

    def chosen(self) -> list[Variant]:
        return [variant for variant in variants()
                if variant.engine in self.installed and variant.group in self.options.precisions]

    def model_of(self, variant: Variant) -> pathlib.Path:
        return self.checkpoint.path(variant.model, self.installed.get("llama.cpp"), self.options.build_jobs)

    def problem(self, found: Row) -> None:
        """Paths are left out: the results are for others too."""
        text = str(found.value).replace(str(self.options.peers_dir), "PEERS").replace(str(checkpoint.ROOT), ".")
        print(f"problem: {found.engine} {found.precision} {found.scenario}: {text}", flush=True)
        self.rows.add([dataclasses.replace(found, value=text)])

    def server(self, variant: Variant, name: str, **room: int) -> Server:
        launch = Launch(self.installed[variant.engine].program, self.model_of(variant), free_port(), self.options.threads, **room)
        log = self.options.peers_dir / "logs" / f"{variant.engine}-{variant.precision}-{name}.log"
        return Server(variant.command(launch), variant.environment(launch), launch.port, log)

    def ready_limit_s(self, variant: Variant) -> float:
        return variant.ready_limit_s * (SMOKE_PATIENCE if self.options.smoke else 1)


@dataclasses.dataclass(frozen=True)
class Turn:
    """One engine in one round."""

    comparison: Comparison
    variant: Variant
    number: int

    def has(self, scenario: Scenario) -> bool:
        version = self.comparison.installed[self.variant.engine].version
        return self.comparison.rows.has(self.variant.engine, version, self.variant.precision, scenario.name, self.number)

    def left(self) -> list[Scenario]:
        """Scenarios that are not measured yet, as far as it serves them."""
        return [scenario for scenario in self.comparison.scenarios
                if (self.variant.serves_long or not scenario.is_long) and not self.has(scenario)]

    def row(self, scenario: str, metric: str, value: float | str) -> Row:
        variant = self.variant
        version = self.comparison.installed[variant.engine].version
        return Row(variant.engine, version, variant.precision, scenario, metric, value, self.number)

    def add(self, scenario: str, found: typing.Mapping[str, float]) -> None:
        self.comparison.rows.add([self.row(scenario, metric, value) for metric, value in found.items()])
        say(f"{self.name}, {scenario}", found)

    def problem(self, scenario: str, error: Exception) -> None:
        self.comparison.problem(self.row(scenario, PROBLEM, str(error)))

    @property
    def name(self) -> str:
        return f"round {self.number}: {self.variant.engine} {self.variant.precision}"


def one_round(comparison: Comparison, number: int) -> None:
    turns = [Turn(comparison, variant, number) for variant in turned(comparison.chosen(), number)]
    turns = [turn for turn in turns if turn.left()]
    if not turns:
        print(f"round {number} is measured already")
        return
    measure_machine(comparison, number)
    for turn in turns:
        scenarios = turn.left()
        for part in [s for s in scenarios if not s.is_long], [s for s in scenarios if s.is_long]:
            if part:
                one_server(turn, part)


def turned(all_variants: list[Variant], number: int) -> list[Variant]:
    """Within a group another one begins each round, so that none always comes after the same."""
    found: list[Variant] = []
    for group in GROUPS:
        members = [variant for variant in all_variants if variant.group == group]
        first = (number - 1) % len(members) if members else 0
        found += members[first:] + members[:first]
    return found


def measure_machine(comparison: Comparison, number: int) -> None:
    options = comparison.options
    torch_python = options.peers_dir / "vllm/bin/python"
    try:
        with ForeignCores(None) as foreign:
            found = machine.measure(options.binary, torch_python if torch_python.is_file() else None, options.threads, number)
        found.append(Row(MACHINE, found[0].version, "", "peak", "foreign_cores", round(foreign.cores, 3), number))
        comparison.rows.add(found)
        say(f"round {number}: machine", {row.metric: float(row.value) for row in found})
    except NotMeasured as error:
        comparison.problem(Row(MACHINE, "", "", "peak", PROBLEM, str(error), number))


def one_server(turn: Turn, scenarios: list[Scenario]) -> None:
    """All of the scenarios on one server, then how it started and what memory it took."""
    comparison, variant = turn.comparison, turn.variant
    start, room = START, {"slots": SLOTS, "context": SHORT_CONTEXT}
    if scenarios[0].is_long:
        longest = max(scenario.input_tokens + scenario.output_tokens for scenario in scenarios)
        start, room = START_LONG, {"slots": 1, "context": longest + 128}
    try:
        checkpoint.warm(comparison.model_of(variant))
        with comparison.server(variant, f"{start}-{turn.number}", **room) as server:
            ready_s = server.wait_until_ready(comparison.ready_limit_s(variant))
            for scenario in scenarios:
                server.check()
                one_scenario(turn, server, scenario)
            peaks = {"peak_rss_mb": server.memory.resident_mb, "peak_anonymous_mb": server.memory.anonymous_mb}
        turn.add(start, {"ready_s": round(ready_s, 2), **{metric: highest(turn, start, metric, peaks[metric]) for metric in peaks}})
    except (NotMeasured, NotInstalled) as error:
        turn.problem(start, error)


def highest(turn: Turn, start: str, metric: str, peak_mb: float) -> float:
    """The peak of an earlier call counts too: it may have measured other scenarios."""
    variant = turn.variant
    known = turn.comparison.rows.value(variant.engine, variant.precision, start, metric, turn.number)
    return max(round(peak_mb), known or 0.0)


def one_scenario(turn: Turn, server: Server, scenario: Scenario) -> None:
    options = turn.comparison.options
    try:
        with ForeignCores(server) as foreign:
            found = measure(options.binary, server.url, scenario, options.limit_s)
    except NotMeasured as error:
        turn.problem(scenario.name, error)
        return
    turn.add(scenario.name, {**found, "foreign_cores": round(foreign.cores, 3)})


def say(name: str, found: typing.Mapping[str, float]) -> None:
    values = ", ".join(f"{metric} {value:g}" for metric, value in found.items())
    print(f"{time.strftime('%H:%M:%S')} {name}: {values}", flush=True)
