#!/usr/bin/env python3
"""Writes a checkpoint of random bf16 weights in the layout of a Hugging Face model folder, for measuring.

Main function: `write(shape, folder)`. Values are drawn once, a block whose length is prime, and every tensor repeats the
block from a place of its own: no two rows are equal, and writing is as fast as the disk. The rows of control tokens and
single bytes in the output matrix are zeros, so that greedy answers are whole pieces of text and do not end by
themselves. Invariant: the same shape gives the same files. Needs Python alone; the tokenizer is the built-in model's.

    scripts/random_checkpoint.py 7b /tmp/random-7b      # Mistral 7B v0.3: 14.5 GB in three files
    scripts/random_checkpoint.py 1b /tmp/random-1b      # what benches/results/cpu-*.md are about: 2 GB
    scripts/random_checkpoint.py tiny /tmp/random-tiny  # 14 MB
"""

import argparse
import array
import concurrent.futures
import json
import os
import pathlib
import random
import shutil
import struct
import sys
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "models/tiny/tokenizer.model.v3"
VOCABULARY = 32768
FIRST_TEXT_TOKEN = 1027  # in tokenizers of version v3; before it are 771 control tokens and 256 single bytes
BLOCK_VALUES = 1_000_003  # prime, so that rows of any width begin at different places of the block
DEVIATION = 0.02
BYTES = 2
PIECE_BLOCKS = 8  # blocks per write

# hidden, layers, heads, KV heads, head width, feed-forward, positions, files
SHAPES = {
    "7b": (4096, 32, 32, 8, 128, 14336, 32768, 3),
    "1b": (2048, 16, 16, 4, 128, 7168, 32768, 1),
    "tiny": (96, 2, 4, 2, 32, 160, 4096, 2),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    started = time.monotonic()
    size = write(arguments.shape, arguments.folder)
    print(f"{arguments.folder}: {size / 1e9:.3f} GB in {time.monotonic() - started:.1f} s")


def write(shape, folder):
    """Writes all files into `folder`, which it makes; returns the bytes of weights. Raises OSError if they do not fit."""
    config = configuration(shape)
    folder.mkdir(parents=True, exist_ok=True)
    shards = divide(list(tensors(config)), SHAPES[shape][-1])
    size = sum(bytes_of(dimensions) for shard in shards for _, dimensions in shard)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(f"{folder} has {free / 1e9:.1f} GB free, and the weights take {size / 1e9:.1f} GB")
    block = memoryview(random_block() * (PIECE_BLOCKS + 1))
    index = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / name, shard, block)
        index.update({tensor: name for tensor, _ in shard})
    for name, content in {
        "config.json": config,
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2},
        "model.safetensors.index.json": {"metadata": {"total_size": size}, "weight_map": index},
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    shutil.copyfile(TOKENIZER, folder / TOKENIZER.name)
    return size


def configuration(shape):
    hidden, layers, heads, kv_heads, head_width, feed_forward, positions, _ = SHAPES[shape]
    return {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_width,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "hidden_act": "silu",
        "sliding_window": None,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }


def tensors(config):
    """Name and dimensions of every tensor, in the order of the files."""
    hidden, feed_forward = config["hidden_size"], config["intermediate_size"]
    q_width = config["num_attention_heads"] * config["head_dim"]
    kv_width = config["num_key_value_heads"] * config["head_dim"]
    yield "model.embed_tokens.weight", (VOCABULARY, hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.self_attn.q_proj.weight", (q_width, hidden)
        yield f"{prefix}.self_attn.k_proj.weight", (kv_width, hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (kv_width, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, q_width)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        yield f"{prefix}.mlp.gate_proj.weight", (feed_forward, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (feed_forward, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, feed_forward)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (VOCABULARY, hidden)


def divide(all_tensors, parts):
    """Consecutive lists of about the same size."""
    total = sum(bytes_of(dimensions) for _, dimensions in all_tensors)
    shards = [[] for _ in range(parts)]
    done = 0
    for name, dimensions in all_tensors:
        shards[min(parts * done // total, parts - 1)].append((name, dimensions))
        done += bytes_of(dimensions)
    return [shard for shard in shards if shard]


def bytes_of(dimensions):
    size = BYTES
    for dimension in dimensions:
        size *= dimension
    return size


def random_block():
    """Normal values as little-endian bf16: the upper halves of floats, cut off rather than rounded."""
    generator = random.Random(0)
    floats = array.array("f", (generator.gauss(0.0, DEVIATION) for _ in range(BLOCK_VALUES)))
    if sys.byteorder == "big":
        floats.byteswap()
    raw = floats.tobytes()
    block = bytearray(BYTES * BLOCK_VALUES)
    block[0::2], block[1::2] = raw[2::4], raw[3::4]
    return bytes(block)


def write_shard(path, shard, block):
    """A safetensors file: the length of the header, the header, the tensors."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, dimensions in shard:
        begin, end = end, end + bytes_of(dimensions)
        header[name] = {"dtype": "BF16", "shape": list(dimensions), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.flush()
        start = 8 + len(text)
        # The threads copy at the same time: a write does not hold the interpreter's lock.
        with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            offsets = [start + header[name]["data_offsets"][0] for name, _ in shard]
            for done in [threads.submit(write_tensor, file.fileno(), offset, tensor, block)
                         for offset, tensor in zip(offsets, shard)]:
                done.result()


def write_tensor(descriptor, offset, tensor, block):
    name, dimensions = tensor
    left = bytes_of(dimensions)
    if len(dimensions) == 1:
        write_all(descriptor, struct.pack("<H", 0x3F80) * dimensions[0], offset)  # norms: 1.0
        return
    if name == "lm_head.weight":
        silent = BYTES * FIRST_TEXT_TOKEN * dimensions[1]
        write_all(descriptor, bytes(silent), offset)
        offset, left = offset + silent, left - silent
    place = BYTES * (zlib.crc32(name.encode()) % BLOCK_VALUES)
    step = PIECE_BLOCKS * BYTES * BLOCK_VALUES  # whole blocks, so that the next piece begins at the same place
    while left > 0:
        size = min(step, left)
        write_all(descriptor, block[place : place + size], offset)
        offset, left = offset + size, left - size


def write_all(descriptor, data, offset):
    data = memoryview(data)
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


if __name__ == "__main__":
    main()
