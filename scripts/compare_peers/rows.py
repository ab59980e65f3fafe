"""The results: rows of engine, version, precision, scenario, metric, value and round. Main type: `Rows`.

Invariant: the file is whole after every `add`, and holds one version of an engine, the newest that was measured. What
could not be measured is a row too: its metric is `problem`, its value says why.
"""

import dataclasses
import json
import os
import pathlib
import statistics

MACHINE = "machine"
PROBLEM = "problem"
COMMAND = "command"


@dataclasses.dataclass(frozen=True)
class Row:
    """One value. Rows of the machine have no precision, rows of an installation that failed no scenario."""

    engine: str
    version: str
    precision: str
    scenario: str
    metric: str
    value: float | str
    round: int

    @property
    def place(self) -> tuple[str, str, str, int]:
        """What is measured at once and replaced at once."""
        return self.engine, self.precision, self.scenario, self.round


class Rows:
    """The rows of a file, which need not exist yet."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.rows = [Row(**row) for row in json.loads(path.read_text())] if path.is_file() else []

    def add(self, new: list[Row]) -> None:
        """Replaces what was known of the same places, and everything of another version of the same engine."""
        places = {row.place for row in new}
        versions = {row.engine: row.version for row in new if row.engine != MACHINE}
        self.rows = [row for row in self.rows if row.place not in places and versions.get(row.engine, row.version) == row.version]
        self.rows.extend(new)
        self.save()

    def forget(self, engine: str, scenario: str) -> None:
        """A step of the preparation that failed before and does not any more."""
        self.rows = [row for row in self.rows if (row.engine, row.scenario) != (engine, scenario)]

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(" " + json.dumps(dataclasses.asdict(row)) for row in self.rows)
        draft = self.path.with_name(self.path.name + ".new")
        draft.write_text(f"[\n{lines}\n]\n")
        os.replace(draft, self.path)

    def has(self, engine: str, version: str, precision: str, scenario: str, round_number: int) -> bool:
        """Is it measured, not only known to fail?"""
        found = [row for row in self.rows if row.place == (engine, precision, scenario, round_number)]
        return any(row.version == version and row.metric != PROBLEM for row in found)

    def value(self, engine: str, precision: str, scenario: str, metric: str, round_number: int) -> float | None:
        found = (row.value for row in self.rows
                 if (*row.place, row.metric) == (engine, precision, scenario, round_number, metric))
        return next(map(float, found), None)

    def values(self, engine: str, precision: str, scenario: str, metric: str) -> list[float]:
        return [float(row.value) for row in self.rows
                if (row.engine, row.precision, row.scenario, row.metric) == (engine, precision, scenario, metric)]

    def median(self, engine: str, precision: str, scenario: str, metric: str) -> float | None:
        values = self.values(engine, precision, scenario, metric)
        return statistics.median(values) if values else None

    def version(self, engine: str) -> str | None:
        return next((row.version for row in self.rows if row.engine == engine and row.version), None)

    def add_command(self, command: str) -> None:
        """That wrote some of the rows; each is kept once."""
        self.add([Row(COMMAND, "", "", command, COMMAND, command, 0)])

    def commands(self) -> list[str]:
        return [str(row.value) for row in self.rows if row.metric == COMMAND]

    def problems(self) -> list[Row]:
        return [row for row in self.rows if row.metric == PROBLEM]
