"""Compares servers on a CPU; `scripts/compare-peers.sh` says how it is used.

Every round measures the machine, then starts each engine in each precision, puts the same loads on it, and ends it. The
results are written after each engine. Which of them are in the file is not measured again, unless `--fresh` is given; an
engine that fails is a row that says why, and tried again by the next call.
"""

import argparse
import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import checkpoint
import machine
import table
from engines import GROUPS, OURS, SHORT_CONTEXT, SLOTS, Launch, Variant, variants
from install import PEERS, Installed, NotInstalled, install
from processes import ForeignCores, Server, free_port
from rows import MACHINE, PROBLEM, Row, Rows
from scenarios import SCENARIOS, NotMeasured, Scenario, measure

ENGINES = (OURS, "llama.cpp", "vllm", "mistralrs")
PRIVATE_OPTIONS = ("--peers-dir", "--binary", "--model", "--json", "--build-jobs")  # not part of the command that is shown
START = "start"
SMOKE_PATIENCE = 3  # a smoke run may share the machine


@dataclasses.dataclass
class Comparison:
    """What all rounds share."""

    options: argparse.Namespace
    rows: Rows
    checkpoint: checkpoint.Checkpoint
    installed: dict[str, Installed]
    scenarios: list[Scenario]


def main() -> None:
    # As an exception, so that the server is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside; what was measured is kept"))
    options = parsed()
    comparison = prepared(options)
    try:
        if not options.table_only and not options.install_only:
            for number in range(1, options.rounds + 1):
                one_round(comparison, number)
    finally:
        if comparison.rows.rows:
            print(f"{comparison.rows.path} and {table.write(comparison.rows, facts(comparison))} are written")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/compare-peers.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    target = checkpoint.ROOT / "target"
    parser.add_argument("--engines", type=names(ENGINES), default=list(ENGINES), help=f"of {','.join(ENGINES)}")
    parser.add_argument("--precisions", type=names(tuple(GROUPS)), default=list(GROUPS), help=f"of {','.join(GROUPS)}")
    all_scenarios = tuple(scenario.name for scenario in SCENARIOS)
    parser.add_argument("--scenarios", type=names(all_scenarios), default=list(all_scenarios), help=f"of {','.join(all_scenarios)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every engine [one per core]")
    parser.add_argument("--peers-dir", type=pathlib.Path, default=target / "peers", help="where peers and models are kept [target/peers]")
    parser.add_argument("--binary", type=pathlib.Path, default=target / "release/tramontane", help="ours [target/release/tramontane]")
    parser.add_argument("--model", type=pathlib.Path, help="a checkpoint in place of the random one")
    parser.add_argument("--json", type=pathlib.Path, help="results [benches/results/cpu-peers.json]; the table is beside it")
    parser.add_argument("--limit-s", type=float, default=300.0, help="for one scenario of one engine [300]")
    parser.add_argument("--build-jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time [one per core]")
    parser.add_argument("--fresh", action="store_true", help="forget the results so far")
    parser.add_argument("--smoke", action="store_true", help="one round of short texts, into smoke.json in --peers-dir")
    parser.add_argument("--install-only", action="store_true", help="peers, model and GGUF files, no measuring")
    parser.add_argument("--table-only", action="store_true", help="write the table of the results so far")
    options = parser.parse_args()
    options.peers_dir, options.binary = options.peers_dir.resolve(), options.binary.resolve()
    if options.smoke:
        options.rounds = 1
    results = options.peers_dir / "smoke.json" if options.smoke else checkpoint.ROOT / "benches/results/cpu-peers.json"
    options.json = options.json or results
    return options


def names(known: tuple[str, ...]):
    """A parser of lists of these."""
    def parse(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
        return found

    return parse


def prepared(options: argparse.Namespace) -> Comparison:
    if options.fresh:
        options.json.unlink(missing_ok=True)
    rows = Rows(options.json)
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in options.scenarios]
    if options.smoke:
        scenarios = [scenario.shortened() for scenario in scenarios]
    comparison = Comparison(options, rows, checkpoint.Checkpoint(options.peers_dir, options.model), {}, scenarios)
    if options.table_only:
        return comparison
    if not options.binary.is_file():
        sys.exit(f"{options.binary} does not exist: `cargo build --release` makes target/release/tramontane, or name another with --binary")
    comparison.installed[OURS] = Installed(our_version(options.binary), options.binary, pathlib.Path(sys.executable))
    # vLLM first: llama.cpp's converter uses its packages.
    for engine in sorted(set(options.engines) - {OURS}, key=lambda engine: engine != "vllm"):
        try:
            comparison.installed[engine] = install(engine, options.peers_dir, options.build_jobs)
            rows.forget(engine, "installation")
        except NotInstalled as error:
            problem(comparison, Row(engine, PEERS[engine].version, "", "installation", PROBLEM, str(error), 0))
    for variant in chosen(comparison):
        rows.forget(variant.engine, "model")
    for variant in chosen(comparison):
        try:
            model_of(comparison, variant)
            start_once(comparison, variant)
        except (NotInstalled, NotMeasured) as error:
            problem(comparison, row(comparison, variant, "model", PROBLEM, str(error), 0))
    return comparison


def start_once(comparison: Comparison, variant: Variant) -> None:
    """What an engine compiles and keeps when it first sees a model is not part of its start."""
    folder, name = comparison.options.peers_dir, comparison.checkpoint.model.name
    mark = folder / variant.engine / f"started-{name}-{variant.precision}"
    if not variant.compiles or mark.is_file():
        return
    print(f"starting {variant.engine} {variant.precision} once, as it compiles the model", flush=True)
    with server_of(comparison, variant, {}, "first-start") as server:
        server.wait_until_ready(SMOKE_PATIENCE * variant.ready_limit_s)
    mark.touch()


def our_version(binary: pathlib.Path) -> str:
    """The program's, and the last commit that touched what it is made of."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    made_of = ["src", "kernels", "Cargo.toml", "Cargo.lock"]
    commit = subprocess.run(["git", "-C", checkpoint.ROOT, "log", "-1", "--format=%h", "--", *made_of], capture_output=True, text=True, check=False)
    return f"{said} {commit.stdout.strip()}".strip()


def chosen(comparison: Comparison) -> list[Variant]:
    options = comparison.options
    return [v for v in variants() if v.engine in options.engines and v.engine in comparison.installed and v.group in options.precisions]


def model_of(comparison: Comparison, variant: Variant) -> pathlib.Path:
    return comparison.checkpoint.path(variant.model, comparison.installed.get("llama.cpp"), comparison.options.build_jobs)


def row(comparison: Comparison, variant: Variant, scenario: str, metric: str, value: float | str, number: int) -> Row:
    return Row(variant.engine, comparison.installed[variant.engine].version, variant.precision, scenario, metric, value, number)


def problem(comparison: Comparison, found: Row) -> None:
    """Paths are left out: the results are for others too."""
    text = str(found.value).replace(str(comparison.options.peers_dir), "PEERS").replace(str(checkpoint.ROOT), ".")
    print(f"problem: {found.engine} {found.precision} {found.scenario}: {text}", flush=True)
    comparison.rows.add([dataclasses.replace(found, value=text)])


def one_round(comparison: Comparison, number: int) -> None:
    left = [(variant, missing(comparison, variant, number)) for variant in turned(chosen(comparison), number)]
    left = [(variant, scenarios) for variant, scenarios in left if scenarios]
    if not left:
        print(f"round {number} is measured already")
        return
    torch_python = comparison.options.peers_dir / "vllm/bin/python"
    try:
        with ForeignCores(None) as foreign:
            found = machine.measure(comparison.options.binary, torch_python if torch_python.is_file() else None,
                                    comparison.options.threads, number)
        found.append(Row(MACHINE, found[0].version, "", "peak", "foreign_cores", round(foreign.cores, 3), number))
        comparison.rows.add(found)
        say(f"round {number}: machine", {row.metric: float(row.value) for row in found})
    except NotMeasured as error:
        problem(comparison, Row(MACHINE, "", "", "peak", PROBLEM, str(error), number))
    for variant, scenarios in left:
        for part in [s for s in scenarios if not s.is_long], [s for s in scenarios if s.is_long]:
            if part:
                one_server(comparison, variant, part, number)


def turned(all_variants: list[Variant], number: int) -> list[Variant]:
    """Within a group another one begins each round, so that none always comes after the same."""
    found: list[Variant] = []
    for group in GROUPS:
        members = [variant for variant in all_variants if variant.group == group]
        first = (number - 1) % len(members) if members else 0
        found += members[first:] + members[:first]
    return found


def missing(comparison: Comparison, variant: Variant, number: int) -> list[Scenario]:
    version = comparison.installed[variant.engine].version
    wanted = [s for s in comparison.scenarios if variant.serves_long or not s.is_long]
    return [s for s in wanted if not comparison.rows.has(variant.engine, version, variant.precision, s.name, number)]


def one_server(comparison: Comparison, variant: Variant, scenarios: list[Scenario], number: int) -> None:
    """All of the scenarios on one server; start-up and memory count where it is the one for short contexts."""
    options = comparison.options
    name = f"round {number}: {variant.engine} {variant.precision}"
    is_long = scenarios[0].is_long
    start = "start long" if is_long else START
    longest = max(s.input_tokens + s.output_tokens for s in scenarios)
    room = {"slots": 1, "context": longest + 128} if is_long else {"slots": SLOTS, "context": SHORT_CONTEXT}
    try:
        checkpoint.warm(model_of(comparison, variant))
        with server_of(comparison, variant, room, f"{start.replace(' ', '-')}-{number}") as server:
            ready_s = server.wait_until_ready(variant.ready_limit_s * (SMOKE_PATIENCE if options.smoke else 1))
            say(name, {"ready_s": round(ready_s, 2)})
            for scenario in scenarios:
                if server.process.poll() is not None:
                    raise NotMeasured(f"the server ended with code {server.process.returncode}: {server.last_words()}")
                one_scenario(comparison, variant, (server, scenario), number)
            sizes = {"peak_rss_mb": round(server.memory.resident_mb), "peak_anonymous_mb": round(server.memory.anonymous_mb)}
        # Peaks of an earlier call count too: it may have measured other scenarios.
        sizes = {metric: max(value, comparison.rows.value(variant.engine, variant.precision, start, metric, number) or 0.0)
                 for metric, value in sizes.items()}
        comparison.rows.add([row(comparison, variant, start, metric, value, number)
                             for metric, value in {"ready_s": round(ready_s, 2), **sizes}.items()])
        say(name, sizes)
    except (NotMeasured, NotInstalled) as error:
        problem(comparison, row(comparison, variant, start, PROBLEM, str(error), number))


def server_of(comparison: Comparison, variant: Variant, room: dict[str, int], name: str) -> Server:
    options = comparison.options
    program = comparison.installed[variant.engine].program
    launch = Launch(program, model_of(comparison, variant), free_port(), options.threads, **room)
    log = options.peers_dir / "logs" / f"{variant.engine}-{variant.precision}-{name}.log"
    return Server(variant.command(launch), variant.environment(launch), launch.port, log)


def one_scenario(comparison: Comparison, variant: Variant, what: tuple[Server, Scenario], number: int) -> None:
    server, scenario = what
    try:
        with ForeignCores(server) as foreign:
            found = measure(comparison.options.binary, server.url, scenario, comparison.options.limit_s)
    except NotMeasured as error:
        return problem(comparison, row(comparison, variant, scenario.name, PROBLEM, str(error), number))
    found["foreign_cores"] = round(foreign.cores, 3)
    comparison.rows.add([row(comparison, variant, scenario.name, metric, value, number) for metric, value in found.items()])
    say(f"round {number}: {variant.engine} {variant.precision} {scenario.name}", found)
    return None


def say(name: str, found: dict[str, float]) -> None:
    print(f"{time.strftime('%H:%M:%S')} {name}: " + ", ".join(f"{metric} {value:g}" for metric, value in found.items()), flush=True)


def facts(comparison: Comparison) -> table.Facts:
    config, parameters = comparison.checkpoint.config, comparison.checkpoint.parameters()
    model = (f"Random weights of Mistral architecture: hidden {config['hidden_size']}, {config['num_hidden_layers']} layers, "
             f"{config['num_attention_heads']} query and {config['num_key_value_heads']} key/value heads of {config['head_dim']}, "
             f"feed-forward {config['intermediate_size']}, {config['vocab_size']:,} tokens; a decode step reads {parameters / 1e9:.2f} B weights")
    return table.Facts(shown_command(sys.argv[1:]), model, parameters, comparison.options.threads, comparison.options.smoke)


def shown_command(arguments: list[str]) -> str:
    """As typed, without what belongs to one machine alone."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument.split("=")[0] not in PRIVATE_OPTIONS and argument != "--table-only":
            kept.append(argument)
        skip = not skip and argument in PRIVATE_OPTIONS
    return shlex.join(["scripts/compare-peers.sh", *kept])


if __name__ == "__main__":
    main()
