"""The first weights: a decoder that can already continue a text that it has seen before.

Main function: `initialise(model, pieces)`. A small model needs millions of tokens until attention
learns to copy, and until then it learns nothing else that matters here. So the circuit for it (heads
that look at the tokens before this one, and heads that look for what came after these tokens before:
Olsson et al. 2022, In-context Learning and Induction Heads) is written into the first three layers;
in the later layers queries resemble keys (Trockman and Kolter 2023, Mimetic Initialization); and a
word's token after a space resembles the one without, which quotes make of it. All of it is a start,
trained on like every other weight. Invariant: the architecture is untouched.

The residual stream at the start: dimension 0 is constant, 1 to 127 hold the token, 128 to 191 are
for the two tokens before it, each group of heads in its half. Figures are the best of some dozens, by
the loss on repeated words before any training. Written for two groups of heads of 32 dimensions.
"""

import torch

CONSTANT, TOKEN, PREVIOUS = 0, slice(1, 128), slice(128, 192)
TOKEN_DIMENSIONS = TOKEN.stop - TOKEN.start
EMBEDDING_SIZE = 0.06
SPACE = "\u2581"     # how SentencePiece spells it
SAME_WORD, HAS_SPACE = 0.75, 0.1  # shares of an embedding's variance; the rest is the token's own
SHARP_PAIRS = 6      # rope pairs of high frequency, which tell positions apart
SLOW_PAIRS = 8       # rope pairs from here on hardly turn: fit to compare contents at any distance
SHARPNESS = 2.5
BEFORE_PREVIOUS = 0.4  # weight of the second token before, beside that of the first
COPIED = 0.3           # size of what is copied
FINAL_GAIN = 2.0       # else the tied embedding, which is small, makes no decided logits


@torch.no_grad()
def initialise(model, pieces):
    """`pieces`: the tokens' spellings, by id."""
    embedding = model.embed_tokens.weight
    embedding.normal_(0, 0.1 * EMBEDDING_SIZE)
    embedding[:, CONSTANT] = 0.5
    embedding[:, TOKEN] = EMBEDDING_SIZE * _spelled_alike(pieces).to(embedding.device)
    model.norm.weight.fill_(FINAL_GAIN)
    for layer in model.layers:  # else random outputs drown the small embeddings
        layer.self_attn.o_proj.weight *= 0.05
        layer.mlp.down_proj.weight *= 0.05
    for layer in model.layers[2:]:
        _resemble(layer.self_attn)
    projections = _orthonormal(64, TOKEN_DIMENSIONS)  # token -> what is kept of it two positions on
    _look_back(model.layers[0].self_attn, projections, model.config)
    # The heads of one layer copy half of a token's dimensions, and compare half of what is kept.
    copied = _orthonormal(TOKEN_DIMENSIONS, TOKEN_DIMENSIONS)
    _continue(model.layers[1].self_attn, projections, copied[:64], first_compared=0)
    _continue(model.layers[2].self_attn, projections, copied[-64:], first_compared=16)


def _spelled_alike(pieces):
    """(vocab, token dimensions) of unit variance."""
    words = {}
    rows = torch.tensor([words.setdefault(piece.lstrip(SPACE) or piece, len(words)) for piece in pieces])
    signs = torch.tensor([1.0 if piece.startswith(SPACE) else -1.0 for piece in pieces])
    word, space, own = (torch.randn(count, TOKEN_DIMENSIONS) for count in (len(words), 1, len(pieces)))
    return SAME_WORD**0.5 * word[rows] + HAS_SPACE**0.5 * signs[:, None] * space + (1 - SAME_WORD - HAS_SPACE) ** 0.5 * own


def _look_back(attention, projections, config):
    """Layer 0: in each group one head attends to distance 1, one to 2, one to 3; the first two keep what they see.

    Group g's half of PREVIOUS gets the previous token in its own projection and, smaller, the one before in the
    other group's, so that the four tell apart what one projection confuses.
    """
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
            if repeat < 2:
                attention.o_proj.weight[:, first : first + size] *= 0.1
                place = PREVIOUS.start + (group if repeat == 0 else 1 - group) * size
                attention.o_proj.weight[place + torch.arange(size), first + torch.arange(size)] = 0.1 * BEFORE_PREVIOUS**repeat


def _continue(attention, projections, copied, first_compared):
    """Look for the position whose two tokens before are this one and the one before; copy what stands there."""
    size = attention.head_dim
    half, repeats = size // 2, attention.heads // attention.kv_heads
    slow = torch.cat((torch.arange(SLOW_PAIRS, half), torch.arange(half + SLOW_PAIRS, size)))  # 16 dimensions
    kept = first_compared + torch.arange(len(slow))  # of a group's half of PREVIOUS
    for group in range(attention.kv_heads):
        own, other = group * size + kept, (1 - group) * size + kept
        key = attention.k_proj.weight[group * size : (group + 1) * size]
        key.mul_(0.1)
        key[slow, PREVIOUS.start + own] = SHARPNESS
        block = copied[group * size : (group + 1) * size]
        value = attention.v_proj.weight[group * size : (group + 1) * size]
        value.mul_(0.1)
        value[:, TOKEN] = block
        for repeat in range(repeats - 1):
            first = (group * repeats + repeat) * size
            query = attention.q_proj.weight[first : first + size]
            query.mul_(0.1)
            query[slow, TOKEN] = SHARPNESS * projections[own]
            query[slow, PREVIOUS.start + other] = SHARPNESS * BEFORE_PREVIOUS
            attention.o_proj.weight[:, first : first + size] *= 0.1
            attention.o_proj.weight[TOKEN, first : first + size] = COPIED * block.T


def _resemble(attention):
    """Queries start near their group's keys, so that like tokens find each other."""
    repeats = attention.heads // attention.kv_heads
    keys = attention.k_proj.weight.view(attention.kv_heads, 1, attention.head_dim, -1)
    queries = attention.q_proj.weight.view(attention.kv_heads, repeats, attention.head_dim, -1)
    queries.copy_(0.7 * queries + 0.7 * keys)


def _orthonormal(rows, columns):
    return torch.linalg.qr(torch.randn(columns, rows))[0].T
