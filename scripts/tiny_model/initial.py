"""The first weights: a decoder that can already continue a text that it has seen before.

Main function: `initialise(model)`. A small model needs millions of tokens until attention learns to
copy, and until then it learns nothing else that matters here. So the circuit for it (a head that
looks at the previous token, and one that looks for "what came after this token before": Olsson et
al. 2022, In-context Learning and Induction Heads) is written into the first two layers, and in the
other layers queries resemble keys (Trockman and Kolter 2023, Mimetic Initialization). All of it is
a start, trained on like every other weight. Invariant: the architecture is untouched.

The residual stream at the start: dimension 0 is constant, 1 to 127 hold the token, 128 to 191 are
for the previous token.
"""

import torch

CONSTANT, TOKEN, PREVIOUS = 0, slice(1, 128), slice(128, 192)
SHARP_PAIRS = 6      # rope pairs of high frequency, which tell positions apart
SLOW_PAIRS = 8       # rope pairs from here on hardly turn: fit to compare contents at any distance


@torch.no_grad()
def initialise(model):
    embedding = model.embed_tokens.weight
    embedding.normal_(0, 0.07)
    embedding[:, CONSTANT] = 0.5
    embedding[:, PREVIOUS] *= 0.1
    for layer in model.layers:  # else random outputs drown the small embeddings
        layer.self_attn.o_proj.weight *= 0.05
        layer.mlp.down_proj.weight *= 0.05
    for layer in model.layers[2:]:
        _resemble(layer.self_attn)
    projections = _orthonormal(64, 127)  # token -> what is kept of the previous token
    _look_back(model.layers[0].self_attn, projections, model.config)
    _continue(model.layers[1].self_attn, projections)


def _look_back(attention, projections, config):
    """Layer 0: in each group one head attends to distance 1, one to 2, one to 3."""
    size, pairs = attention.head_dim, torch.arange(SHARP_PAIRS)
    half = size // 2
    angles = config.rope_theta ** (-pairs.float() / half)
    repeats = attention.heads // attention.kv_heads
    for group in range(attention.kv_heads):
        key = attention.k_proj.weight[group * size : (group + 1) * size]
        key.mul_(0.1)
        key[pairs, CONSTANT] = 1.0
        value = attention.v_proj.weight[group * size : (group + 1) * size]
        value.mul_(0.1)
        value[:, TOKEN] = projections[group * size : (group + 1) * size]
        for repeat in range(repeats):
            first = (group * repeats + repeat) * size
            query = attention.q_proj.weight[first : first + size]
            query.mul_(0.1)
            query[pairs, CONSTANT] = torch.cos(angles * (repeat + 1))
            query[pairs + half, CONSTANT] = -torch.sin(angles * (repeat + 1))
            if repeat == 0:
                attention.o_proj.weight[:, first : first + size] *= 0.1
                rows = torch.arange(size) + PREVIOUS.start + group * size
                attention.o_proj.weight[rows, first + torch.arange(size)] = 0.1


def _continue(attention, projections):
    """Layer 1: look for the position whose previous token is this token, and copy what stands there."""
    size = attention.head_dim
    half, repeats = size // 2, attention.heads // attention.kv_heads
    slow = torch.cat((torch.arange(SLOW_PAIRS, half), torch.arange(half + SLOW_PAIRS, size)))  # 16 dimensions
    copied = _orthonormal(attention.kv_heads * size, 127)
    for group in range(attention.kv_heads):
        compared = group * size + torch.arange(len(slow))
        key = attention.k_proj.weight[group * size : (group + 1) * size]
        key.mul_(0.1)
        key[slow, PREVIOUS.start + compared] = 2.5
        block = copied[group * size : (group + 1) * size]
        value = attention.v_proj.weight[group * size : (group + 1) * size]
        value.mul_(0.1)
        value[:, TOKEN] = block
        for repeat in range(repeats - 1):
            first = (group * repeats + repeat) * size
            query = attention.q_proj.weight[first : first + size]
            query.mul_(0.1)
            query[slow, TOKEN] = 2.5 * projections[compared]
            attention.o_proj.weight[:, first : first + size] *= 0.1
            attention.o_proj.weight[TOKEN, first : first + size] = 0.15 * block.T


def _resemble(attention):
    """Queries start near their group's keys, so that like tokens find each other."""
    repeats = attention.heads // attention.kv_heads
    keys = attention.k_proj.weight.view(attention.kv_heads, 1, attention.head_dim, -1)
    queries = attention.q_proj.weight.view(attention.kv_heads, repeats, attention.head_dim, -1)
    queries.copy_(0.7 * queries + 0.7 * keys)


def _orthonormal(rows, columns):
    return torch.linalg.qr(torch.randn(columns, rows))[0].T
