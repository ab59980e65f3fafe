"""Writes a checkpoint of train.py in the layout of a Hugging Face model folder.

Main function: `export(checkpoint, folder)`. Invariant: the folder loads as MistralForCausalLM;
weights are bf16, the lm_head is tied and therefore absent. Knows nothing of the training data.

    python export.py /tmp/tramontane-tiny/checkpoint.pt ../../models/tiny
"""

import argparse
import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file

from model import Config, Decoder
from words import TOKENIZER_PATH


def export(checkpoint, folder):
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = Decoder(Config())
    model.load_state_dict(saved["model"])
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": weight.detach().bfloat16().contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", **vars(model.config),
        "hidden_act": "silu", "attention_dropout": 0.0, "initializer_range": 0.02, "sliding_window": None,
        "tie_word_embeddings": True, "use_cache": True, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16"})
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "do_sample": False})
    (folder / "model.safetensors").chmod(0o644)
    tokenizer = folder / TOKENIZER_PATH.name
    if tokenizer.resolve() != TOKENIZER_PATH:
        shutil.copyfile(TOKENIZER_PATH, tokenizer)
    return saved["state"]


def _write_json(path, values):
    path.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    print(json.dumps(export(arguments.checkpoint, arguments.folder)))
