"""The command line. Main function: `parsed()`. Lists are checked, folders absolute, and nothing is left open."""

import argparse
import os
import pathlib
import shlex
import typing

from checkpoint import ROOT
from engines import GROUPS, OURS
from scenarios import SCENARIOS

ENGINES = (OURS, "llama.cpp", "vllm", "mistralrs")
# Not part of the command that is shown: they belong to one machine, or do not measure.
PRIVATE = ("--peers-dir", "--binary", "--model", "--json", "--build-jobs")
PRIVATE_SWITCHES = ("--table-only", "--install-only", "--fresh")


def parsed(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/compare-peers.sh", description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    target = ROOT / "target"
    add_list(parser, "--engines", ENGINES)
    add_list(parser, "--precisions", tuple(GROUPS))
    add_list(parser, "--scenarios", tuple(scenario.name for scenario in SCENARIOS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every engine [one per core]")
    parser.add_argument("--peers-dir", type=pathlib.Path, default=target / "peers",
                        help="where peers and models are kept [target/peers]")
    parser.add_argument("--binary", type=pathlib.Path, default=target / "release/tramontane",
                        help="ours [target/release/tramontane]")
    parser.add_argument("--model", type=pathlib.Path, help="a checkpoint in place of the random one")
    parser.add_argument("--json", type=pathlib.Path,
                        help="results [benches/results/cpu-peers.json]; the table is beside it")
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
    if options.json is None:
        options.json = options.peers_dir / "smoke.json" if options.smoke else ROOT / "benches/results/cpu-peers.json"
    return options


def add_list(parser: argparse.ArgumentParser, name: str, known: tuple[str, ...]) -> None:
    parser.add_argument(name, type=names(known), default=list(known), help=f"some of {','.join(known)} [all]")


def names(known: tuple[str, ...]) -> typing.Callable[[str], list[str]]:
    """A parser of lists of these."""
    def parse(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
        return found

    return parse


def shown_command(arguments: list[str]) -> str:
    """As typed, for others to repeat."""
    kept, is_value = [], False
    for argument in arguments:
        is_private = argument.split("=")[0] in PRIVATE
        if not is_value and not is_private and argument not in PRIVATE_SWITCHES:
            kept.append(argument)
        is_value = is_private and "=" not in argument and not is_value
    return shlex.join(["scripts/compare-peers.sh", *kept])
