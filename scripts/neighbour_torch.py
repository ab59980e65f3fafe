#!/usr/bin/env python3
"""What PyTorch makes of the same card: decode steps of Mistral 7B's shape, a copy's bandwidth, a product's rate.

Main function: `measure(plan, device)`, which returns flat keys. A decode step is written as one would by hand: packed
projections, PyTorch's own operators, caches that are allocated once, and on a GPU one CUDA graph of it all. Times are of
what `benches/gpu.rs` times too: the replay of the graph and the logits' way to the host. Weights are random. Invariant:
every layer has weights and a cache of its own, so nothing stays in the card's cache from one to the next.
Needs PyTorch 2.5 or later.

    scripts/neighbour_torch.py OUT.json
    scripts/neighbour_torch.py OUT.json --tiny --device cpu    # shows that it runs; without a graph
"""

import argparse
import json
import pathlib
import statistics
import time

import torch
from torch.nn import functional

REPEATS = 10
DTYPE = torch.bfloat16
THETA = 1e6
EPSILON = 1e-5
# Of the shapes: vocabulary, hidden, layers, heads, KV heads, head width, feed-forward.
FULL = {"shape": (32768, 4096, 32, 32, 8, 128, 14336), "batches": [1, 8, 32, 128], "context": 1024, "copy_bytes": 2 << 30,
        "product": 8192}
TINY = {"shape": (512, 64, 2, 4, 2, 32, 96), "batches": [1, 3], "context": 40, "copy_bytes": 1 << 20, "product": 128}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a shape that takes a second and means nothing")
    arguments = parser.parse_args()
    with torch.inference_mode():
        results = measure(TINY if arguments.tiny else FULL, torch.device(arguments.device))
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def measure(plan, device):
    torch.manual_seed(0)
    results = {"torch_version": torch.__version__, "torch_copy_gb_s": copy_gb_s(plan["copy_bytes"], device)}
    results["torch_matmul_bf16_tflop_s"] = matmul_tflop_s(plan["product"], device)
    model = Model(plan["shape"], device)
    context = plan["context"]
    for batch in plan["batches"]:
        name = f"torch_decode_ms.b{batch}.{f'{context // 1024}k' if context % 1024 == 0 else context}"
        results[name] = decode_ms(model, batch, context)
    return results


def copy_gb_s(size, device):
    """Bytes read and written per second."""
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device) / 1e9


def matmul_tflop_s(rows, device):
    """Of a square product of normal values: zeros would make a card faster than it is."""
    left, right = (torch.randn(rows, rows, dtype=DTYPE, device=device) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * rows**3 / seconds(lambda: torch.matmul(left, right, out=out), device) / 1e12


def decode_ms(model, batch, context):
    """The median of some steps: the computation and its logits in the host's memory."""
    step = Step(model, batch, context)
    compute = recorded(step) if model.device.type == "cuda" else step.compute
    host = torch.empty(batch, model.vocabulary, pin_memory=model.device.type == "cuda")
    times = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        compute()
        host.copy_(step.logits, non_blocking=True)
        wait(model.device)
        times.append(time.perf_counter() - began)
    if not torch.isfinite(host).all():
        raise RuntimeError("a logit is not finite: what was timed is not a decode step")
    return 1e3 * statistics.median(times[1:])


def recorded(step):
    """The step as a CUDA graph."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):  # libraries allocate their work space in first calls, which a recording does not allow
            step.compute()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step.compute()
    return graph.replay


def seconds(run, device):
    for _ in range(3):
        run()
    wait(device)
    began = time.perf_counter()
    for _ in range(REPEATS):
        run()
    wait(device)
    return (time.perf_counter() - began) / REPEATS


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


class Model:
    """Random weights."""

    def __init__(self, shape, device):
        self.vocabulary, hidden, layers, self.heads, self.kv_heads, self.head_dim, width = shape
        self.device = device

        def matrix(rows, columns):
            return torch.randn(rows, columns, dtype=DTYPE, device=device).mul_(0.02)

        q_width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.embed_tokens, self.lm_head = matrix(self.vocabulary, hidden), matrix(self.vocabulary, hidden)
        self.layers = [{"qkv_proj": matrix(q_width + 2 * kv_width, hidden), "o_proj": matrix(hidden, q_width),
                        "gate_up_proj": matrix(2 * width, hidden), "down_proj": matrix(hidden, width)}
                       for _ in range(layers)]
        self.norm = torch.ones(hidden, dtype=DTYPE, device=device)

    def normed(self, x):
        return functional.rms_norm(x, self.norm.shape, self.norm, EPSILON)


class Step:
    """A token for each of `batch` sequences of `context` positions, of which it is the last."""

    def __init__(self, model, batch, context):
        self.model, self.batch, self.last = model, batch, context - 1
        device, half = model.device, model.head_dim // 2
        self.tokens = torch.randint(model.vocabulary, (batch,), device=device)
        self.logits = torch.empty(batch, model.vocabulary, device=device)
        cache = batch, model.kv_heads, context, model.head_dim
        self.caches = [[torch.randn(cache, dtype=DTYPE, device=device) for _ in range(2)] for _ in model.layers]
        angles = self.last * THETA ** (-torch.arange(half, device=device) / half)
        self.cos, self.sin = (torch.cat([part, part]).to(DTYPE) for part in (angles.cos(), angles.sin()))

    def compute(self):
        model = self.model
        residual = functional.embedding(self.tokens, model.embed_tokens)
        for layer, cache in zip(model.layers, self.caches):
            attended = self.attention(functional.linear(model.normed(residual), layer["qkv_proj"]), cache)
            residual = residual + functional.linear(attended, layer["o_proj"])
            gate, up = functional.linear(model.normed(residual), layer["gate_up_proj"]).chunk(2, dim=-1)
            residual = residual + functional.linear(functional.silu(gate) * up, layer["down_proj"])
        self.logits.copy_(functional.linear(model.normed(residual), model.lm_head))

    def attention(self, qkv, cache):
        model, batch = self.model, self.batch
        heads = qkv.view(batch, model.heads + 2 * model.kv_heads, 1, model.head_dim)
        q, k, v = heads.split([model.heads, model.kv_heads, model.kv_heads], dim=1)
        keys, values = cache
        keys[:, :, self.last :] = self.rotated(k)
        values[:, :, self.last :] = v
        attended = functional.scaled_dot_product_attention(self.rotated(q), keys, values, enable_gqa=True)
        return attended.reshape(batch, model.heads * model.head_dim)

    def rotated(self, x):
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-second, first], dim=-1) * self.sin


if __name__ == "__main__":
    main()
