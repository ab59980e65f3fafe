"""The engines in each of their precisions, and the command that serves one. Main type: `Variant`.

Every one computes with the same number of threads. Precisions are compared within a group; mistral.rs, which has no
16-bit products on a CPU, is in f32 in the group of bf16. A new engine is a function here and one in `install.py`.
"""

import dataclasses
import os
import pathlib
import typing

OURS = "tramontane"
SLOTS = 16
SHORT_CONTEXT = 8192  # tokens of all slots together
GROUPS = {"bf16": "16 bits and more", "q8": "8 bits", "q4": "4 bits"}
ADAPTER = pathlib.Path(__file__).with_name("mistralrs_server.py")
QUIET = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}


@dataclasses.dataclass(frozen=True)
class Launch:
    """What a command is made of."""

    program: pathlib.Path
    model: pathlib.Path
    port: int
    threads: int
    slots: int = SLOTS
    context: int = SHORT_CONTEXT


@dataclasses.dataclass(frozen=True)
class Variant:
    """An engine in a precision. `command` and `environment` make a server of a launch."""

    engine: str
    precision: str
    group: str
    command: typing.Callable[[Launch], list[str]]
    environment: typing.Callable[[Launch], dict[str, str]]
    model: str = "checkpoint"  # or `peers`, or the suffix of a GGUF file
    serves_long: bool = False
    compiles: bool = False
    ready_limit_s: float = 120.0


def variants() -> list[Variant]:
    """All of them, those of one group one after the other, so that what is compared is measured close in time."""
    found = []
    for group, gguf, isq in (("bf16", "bf16", None), ("q8", "q8_0", "q8_0"), ("q4", "q4_k_m", "q4k")):
        quantize = "none" if group == "bf16" else group
        found.append(Variant(OURS, group, group, ours(quantize), no_environment, serves_long=True))
        found.append(Variant("llama.cpp", gguf, group, llama_cpp, no_environment, model=gguf, serves_long=True))
        if group == "bf16":
            found.append(Variant("vllm", "bf16", group, vllm, vllm_environment, model="peers", compiles=True,
                                 ready_limit_s=420.0))
        found.append(Variant("mistralrs", isq or "f32", group, mistralrs(isq), mistralrs_environment, model="peers",
                             ready_limit_s=240.0))
    return found


def no_environment(_: Launch) -> dict[str, str]:
    return {}


def ours(quantize: str) -> typing.Callable[[Launch], list[str]]:
    def command(launch: Launch) -> list[str]:
        tells_version = any(launch.model.glob("tokenizer.model.v*")) or (launch.model / "tekken.json").is_file()
        return [str(launch.program), "serve", str(launch.model), "--device", "cpu", "--quantize", quantize,
                "--threads", str(launch.threads), "--bind", f"127.0.0.1:{launch.port}", "--offline", "--ephemeral",
                "--drain-timeout", "2s", "--speculation", "off", *([] if tells_version else ["--tokenizer-version", "v3"])]

    return command


def llama_cpp(launch: Launch) -> list[str]:
    threads = str(launch.threads)
    return [str(launch.program), "-m", str(launch.model), "--host", "127.0.0.1", "--port", str(launch.port), "-t", threads,
            "-tb", threads, "-np", str(launch.slots), "-kvu", "-c", str(launch.context)]


def vllm(launch: Launch) -> list[str]:
    return [str(launch.program), "serve", str(launch.model), "--host", "127.0.0.1", "--port", str(launch.port),
            "--dtype", "bfloat16", "--max-model-len", "4096", "--max-num-seqs", str(launch.slots)]


def vllm_environment(launch: Launch) -> dict[str, str]:
    """It would keep a core for its front end, and compute with one thread of two."""
    cores = sorted(os.sched_getaffinity(0))[:launch.threads]
    return {**QUIET, "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
            "VLLM_CACHE_ROOT": str(launch.program.parent.parent / "cache"),
            "PATH": f"{launch.program.parent}:{os.environ['PATH']}"}


def mistralrs(isq: str | None) -> typing.Callable[[Launch], list[str]]:
    def command(launch: Launch) -> list[str]:
        quantize = ["--isq", isq] if isq else []
        return [str(launch.program), str(ADAPTER), str(launch.model), "--port", str(launch.port), "--dtype", "f32",
                "--max-seqs", str(launch.slots), *quantize]

    return command


def mistralrs_environment(launch: Launch) -> dict[str, str]:
    return {**QUIET, "RAYON_NUM_THREADS": str(launch.threads), "CANDLE_NUM_THREADS": str(launch.threads)}
