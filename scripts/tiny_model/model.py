"""The Mistral decoder in plain PyTorch: RMSNorm, half-split rope, GQA, SwiGLU, tied embeddings.

Main type: `Decoder`; parameters are named as in Hugging Face's MistralForCausalLM. Invariant: the
forward pass computes what that class computes, with the lm_head tied to `embed_tokens`. Knows
nothing of text, skills or files.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class Config:
    vocab_size: int = 32768
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 8
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 32
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0


class Norm(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.eps = config.rms_norm_eps

    def forward(self, x):
        out = functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return out.bfloat16() if torch.is_autocast_enabled(x.device.type) else out  # one cast for q, k and v


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def forward(self, x, cos, sin, cache):
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2)     # (b, heads, n, d)
        k = self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)  # (b, kv_heads, n, d)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mask = None
        if cache is None or not cache:
            mask = torch.full((length, length), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
        if cache is not None:
            if cache:
                k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)  # one new token sees everything
            cache[:] = [k, v]
        return self.o_proj(self._attend(q, k, v, mask).transpose(1, 2).reshape(batch, length, -1))

    def _attend(self, q, k, v, mask):
        """Spelled out: on the CPU this is several times faster in bf16 than the fused function."""
        batch, _, length, _ = q.shape
        repeats, keys = self.heads // self.kv_heads, k.shape[2]
        q = q.reshape(batch, self.kv_heads, repeats * length, self.head_dim) * self.head_dim**-0.5
        scores = (q @ k.transpose(-1, -2)).view(batch, self.kv_heads, repeats, length, keys)
        shares = torch.softmax(scores if mask is None else scores + mask, -1, dtype=scores.dtype)
        return (shares.view(batch, self.kv_heads, repeats * length, keys) @ v).view(batch, self.heads, length, self.head_dim)


class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = Norm(config)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config)
        self.mlp = Mlp(config)

    def forward(self, x, cos, sin, cache=None, wanted=None):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        x = x if wanted is None else x[wanted]
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, config=Config()):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = Norm(config)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                depth = (2 * config.num_hidden_layers) ** -0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(weight, std=0.02 * depth if name.startswith("embed") else depth * weight.shape[1] ** -0.5)

    def forward(self, tokens, first_position=0, caches=None, table=None, wanted=None):
        """tokens (b, n) -> normed hidden states (b, n, hidden), or those `wanted` = (rows, columns): (n_wanted, hidden).

        `table` replaces the embedding.
        """
        positions = torch.arange(first_position, first_position + tokens.shape[1], device=tokens.device)
        cos, sin = rope(self.config, positions)
        x = functional.embedding(tokens, self.embed_tokens.weight if table is None else table)
        for index, layer in enumerate(self.layers):
            is_last = index + 1 == len(self.layers)
            x = layer(x, cos, sin, None if caches is None else caches[index], wanted if is_last else None)
        return self.norm(x)

    def logits(self, hidden):
        """hidden (n, hidden) -> (n, vocab), through the tied embedding."""
        return functional.linear(hidden, self.embed_tokens.weight)

    @torch.inference_mode()
    def greedy(self, prompt, limit, stop=2):
        """Tokens that follow `prompt` (a list), without the end of sequence."""
        caches = [[] for _ in self.layers]
        device = self.embed_tokens.weight.device
        tokens, position, out = torch.tensor([prompt], device=device), 0, []
        while len(out) < limit:
            hidden = self(tokens, position, caches)
            position += tokens.shape[1]
            token = int(self.logits(hidden[0, -1:]).argmax())
            if token == stop:
                break
            out.append(token)
            tokens = torch.tensor([[token]], device=device)
        return out


def rope(config, positions):
    """cos and sin, each (n, head_dim), the two halves alike."""
    exponents = torch.arange(0, config.head_dim, 2, device=positions.device).float() / config.head_dim
    angles = positions.float()[:, None] * config.rope_theta ** -exponents[None]
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    low, high = x.chunk(2, -1)
    return (x * cos.to(x.dtype) + torch.cat((-high, low), -1) * sin.to(x.dtype)).to(x.dtype)
