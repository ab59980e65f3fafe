"""The model that all serve: random weights, with what each engine needs beside them. Main type: `Checkpoint`.

Our server takes the folder as it is; peers get one that links to its files and has the tokenizer in formats that they
read; llama.cpp gets GGUF files, made by its own converter and quantizer. Invariant: a file is there whole or not at all.
"""

import json
import os
import pathlib
import subprocess
import sys

import tokenizer_json
from install import Installed, NotInstalled, install, source_of_llama_cpp

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SHAPE = "1b"
TOKENIZERS = ("tokenizer.model", "tokenizer.model.v3")


class Checkpoint:
    """A folder in the layout of Hugging Face; the random one is made in `folder` if none is given."""

    def __init__(self, folder: pathlib.Path, model: pathlib.Path | None) -> None:
        self.folder = folder
        self.model = (model or folder / f"models/random-{SHAPE}").resolve()
        if model is None and not (self.model / "model.safetensors.index.json").is_file():
            print(f"making {self.model}", flush=True)
            subprocess.run([sys.executable, ROOT / "scripts/random_checkpoint.py", SHAPE, self.model], check=True)
        self.config = json.loads((self.model / "config.json").read_text())

    def path(self, kind: str, llama: Installed | None, jobs: int) -> pathlib.Path:
        """`checkpoint`, `peers` or the suffix of a GGUF file."""
        if kind == "checkpoint":
            return self.model
        return self.for_peers() if kind == "peers" else self.gguf(kind, llama, jobs)

    def parameters(self) -> int:
        """Those that a decode step reads: all but the table of tokens."""
        config = self.config
        hidden, head = config["hidden_size"], config["head_dim"]
        attention = 2 * hidden * head * (config["num_attention_heads"] + config["num_key_value_heads"])
        layer = attention + 3 * hidden * config["intermediate_size"]
        return config["num_hidden_layers"] * layer + hidden * config["vocab_size"]

    def for_peers(self) -> pathlib.Path:
        folder = self.folder / "models" / f"{self.model.name}-for-peers"
        if (folder / "complete").is_file() and (folder / "complete").read_text() == str(self.model):
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        for file in self.model.iterdir():
            if file.name not in TOKENIZERS:
                link(folder / file.name, file)
        source = next((self.model / name for name in TOKENIZERS if (self.model / name).is_file()), None)
        if source is None:
            raise NotInstalled(f"{self.model} has no SentencePiece tokenizer for the peers")
        link(folder / "tokenizer.model", source)
        if not (folder / "tokenizer.json").exists():
            (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json.convert(source.read_bytes())))
        if not (folder / "tokenizer_config.json").exists():
            special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
            content = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": False,
                       **special}
            (folder / "tokenizer_config.json").write_text(json.dumps(content, indent=1))
        (folder / "complete").write_text(str(self.model))
        return folder

    def gguf(self, precision: str, llama: Installed | None, jobs: int) -> pathlib.Path:
        if llama is None:
            raise NotInstalled("GGUF files are made by llama.cpp, which is not installed")
        path = self.folder / "gguf" / f"{self.model.name}-{precision}.gguf"
        if path.is_file():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"making {path}", flush=True)
        draft = path.with_suffix(".new")
        if precision == "bf16":
            script = source_of_llama_cpp(self.folder / "src") / "convert_hf_to_gguf.py"
            self.run(self.converter(jobs).python, script, self.for_peers(), "--outtype", "bf16", "--outfile", draft)
        else:
            self.run(llama.program.with_name("llama-quantize"), self.gguf("bf16", llama, jobs), draft, precision.upper(), 2)
        os.replace(draft, path)
        return path

    def converter(self, jobs: int) -> Installed:
        """vLLM's packages if they are there, else those that the converter asks for."""
        engine = "vllm" if (self.folder / "vllm/installed").is_file() else "converter"
        return install(engine, self.folder, jobs)

    def run(self, *command: object) -> None:
        log = self.folder / "logs/gguf.log"
        with open(log, "a", encoding="utf-8") as file:
            code = subprocess.run(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        if code != 0:
            raise NotInstalled(f"{command[0]} ended with code {code}: {log.read_text(errors='replace')[-300:].strip()}")


def link(path: pathlib.Path, target: pathlib.Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target.resolve())


def warm(path: pathlib.Path) -> None:
    """Reads the weights, so that they are in the page cache when a server starts."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    for name in files:
        with open(name, "rb", buffering=0) as file:
            while file.read(1 << 24):
                pass
