"""Compares servers on a CPU; `scripts/compare-peers.sh` says how it is used.

Every round measures the machine, then starts each engine in each precision, puts the same loads on it, and ends it. The
results are written as they come. What the file has is not measured again, unless `--fresh` is given; what failed is a row
that says why, and tried again by the next call.
"""

import argparse
import pathlib
import signal
import subprocess
import sys

import table
from checkpoint import ROOT, Checkpoint
from engines import OURS, Variant
from install import PEERS, Installed, NotInstalled, install
from options import parsed, shown_command
from rounds import SMOKE_PATIENCE, Comparison, one_round
from rows import PROBLEM, Row, Rows
from scenarios import SCENARIOS, NotMeasured

MODEL, INSTALLATION = "model", "installation"


def main() -> None:
    # As an exception, so that the server is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside; what was measured is kept"))
    options = parsed(__doc__)
    if options.fresh:
        options.json.unlink(missing_ok=True)
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in options.scenarios]
    if options.smoke:
        scenarios = [scenario.shortened() for scenario in scenarios]
    comparison = Comparison(options, Rows(options.json), Checkpoint(options.peers_dir, options.model), {}, scenarios)
    try:
        if not options.table_only:
            prepare(comparison)
            if not options.install_only:
                comparison.rows.add_command(shown_command(sys.argv[1:]))
            for number in range(1, 1 if options.install_only else options.rounds + 1):
                one_round(comparison, number)
    finally:
        if comparison.rows.rows:
            print(f"{options.json} and {table.write(comparison.rows, facts(comparison))} are written")


def prepare(comparison: Comparison) -> None:
    """Installs what is missing and makes the files that it needs."""
    options, rows = comparison.options, comparison.rows
    if OURS in options.engines:
        comparison.installed[OURS] = ours(options)
    # vLLM first: llama.cpp's converter uses its packages.
    for engine in sorted(set(options.engines) - {OURS}, key=lambda engine: (engine != "vllm", engine)):
        rows.forget(engine, INSTALLATION)
        rows.forget(engine, MODEL)
        try:
            comparison.installed[engine] = install(engine, options.peers_dir, options.build_jobs)
        except NotInstalled as error:
            comparison.problem(Row(engine, PEERS[engine].version, "", INSTALLATION, PROBLEM, str(error), 0))
    for variant in comparison.chosen():
        try:
            comparison.model_of(variant)
            start_once(comparison, variant)
        except (NotInstalled, NotMeasured) as error:
            version = comparison.installed[variant.engine].version
            comparison.problem(Row(variant.engine, version, variant.precision, MODEL, PROBLEM, str(error), 0))


def ours(options: argparse.Namespace) -> Installed:
    """Its version is the program's, and the last commit that touched what it is made of."""
    if not options.binary.is_file():
        sys.exit(f"{options.binary} does not exist: make it with `cargo build --release`, or name one with --binary")
    said = subprocess.run([options.binary, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    made_of = ["src", "kernels", "Cargo.toml", "Cargo.lock"]
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%h", "--", *made_of]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run(["git", "-C", str(ROOT), "status", "--porcelain", "--", *made_of],
                             capture_output=True, text=True, check=False).stdout.strip()
    return Installed(f"{said} {commit}{'+' if changed else ''}".strip(), options.binary, pathlib.Path(sys.executable))


def start_once(comparison: Comparison, variant: Variant) -> None:
    """What an engine compiles and keeps when it first sees a model is not part of its start."""
    name = f"started-{comparison.checkpoint.model.name}-{variant.precision}"
    mark = comparison.options.peers_dir / variant.engine / name
    if not variant.compiles or mark.is_file():
        return
    print(f"starting {variant.engine} {variant.precision} once, as it compiles the model", flush=True)
    with comparison.server(variant, "first-start") as server:
        server.wait_until_ready(SMOKE_PATIENCE * variant.ready_limit_s)
    mark.touch()


def facts(comparison: Comparison) -> table.Facts:
    config, parameters = comparison.checkpoint.config, comparison.checkpoint.parameters()
    model = (f"Random weights of Mistral architecture: hidden {config['hidden_size']}, {config['num_hidden_layers']} layers, "
             f"{config['num_attention_heads']} query and {config['num_key_value_heads']} key/value heads of "
             f"{config['head_dim']}, feed-forward {config['intermediate_size']}, {config['vocab_size']:,} tokens; a decode "
             f"step reads {parameters / 1e9:.2f} B weights")
    options = comparison.options
    return table.Facts(model, parameters, options.threads, options.smoke)


if __name__ == "__main__":
    main()
