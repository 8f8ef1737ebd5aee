"""The one small decoder-only transformer: pre-norm blocks, rotary, learned or no positions, attention that can be swapped.

What papers about length and arithmetic change is handed in, not subclassed:

- *attention* is a function of queries, keys and values (`Attend`), by default causal scaled dot-product attention. Queries are
  the last of the keys' positions, so distances, biases and score maps follow from the two lengths alone.
- *frequencies* of rotary positions are a vector (`inv_freq`), *positions* an argument of `forward`: rules that rescale either
  need nothing else. Rotary pairs are (i, i + d/2), as in GPT-NeoX and Llama weights.

Weights are drawn by a generator of their own: normal, with variance 1/fan-in, and smaller by sqrt(2 layers) where a block
writes to the residual stream; embeddings enter with unit variance. The same seed gives the same weights whatever ran before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional

from farfield import checks
from farfield.errors import InputError

Position = Literal["rotary", "learned", "none"]
Norm = Literal["rms", "layer"]
# queries (b, h, t, d), keys and values (b, h, s, d), s >= t -> (b, h, t, d); query i stands at key position s - t + i
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
# keys and values of every layer so far, each (b, h, s, d)
Cache = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class DecoderConfig:
    """Everything that shapes a `Decoder` but its seed. Raises InputError for sizes that do not fit together."""

    vocab: int  # tokens, 0 to vocab - 1
    layers: int = 2  # blocks of attention and feed-forward
    heads: int = 4  # attention heads; they divide the width
    width: int = 128  # of the residual stream
    context: int = 256  # positions there are embeddings for ("learned" only); the others have no end
    position: Position = "rotary"  # how attention learns of order; "none" leaves it to the causal mask
    rotary_base: float = 10_000.0  # inv_freq_i = base^(-2i/d), "rotary" only
    norm: Norm = "rms"  # before attention, before feed-forward, and before the logits
    hidden: int | None = None  # width of the feed-forward layer; None for 4 width
    tied: bool = False  # logits from the embedding table, else from a matrix of their own

    def __post_init__(self) -> None:
        for name in ("vocab", "layers", "heads", "width", "context"):
            checks.count(name, getattr(self, name))
        if self.hidden is not None:
            checks.count("hidden", self.hidden)
        checks.choice("position", self.position, ("rotary", "learned", "none"))
        checks.choice("norm", self.norm, ("rms", "layer"))
        checks.positive("rotary_base", self.rotary_base)
        if self.width % self.heads:
            raise InputError(f"width is {self.width} and heads {self.heads}; allowed: a number of heads that divides the width")
        if self.position == "rotary" and self.head_width % 2:
            raise InputError(f"width / heads is {self.head_width}; rotary positions turn pairs, so it must be even")

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.width // self.heads


def inverse_frequencies(head_width: int, base: float = 10_000.0) -> Tensor:
    """(head_width / 2,) angles per position, ``base ** (-2 i / head_width)`` (Su et al. 2021, arXiv 2104.09864, eq. 15)."""
    return torch.from_numpy(base ** (-np.arange(0, head_width, 2) / head_width)).float()


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """`x` (b, h, t, d) with its pairs (i, i + d/2) turned by `angle` (b or 1, t, d/2) radians."""
    cos, sin = (f(angle)[:, None].to(x.dtype) for f in (torch.cos, torch.sin))
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal scaled dot-product attention of the last t of s positions; see `Attend`."""
    t, s = q.shape[-2], k.shape[-2]
    if t == s or t == 1:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
    seen = torch.ones(t, s, dtype=torch.bool, device=q.device).tril(s - t)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)


class _Block(nn.Module):  # type: ignore[misc]  # torch is untyped here
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.hidden or 4 * config.width
        self.heads = config.heads
        self.norm_attention, self.norm_feed = _norm(config), _norm(config)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(
        self, x: Tensor, angle: Tensor | None, attend: Attend, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        b, t, width = x.shape
        q, k, v = self.qkv(self.norm_attention(x)).view(b, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if angle is not None:
            q, k = rotate(q, angle), rotate(k, angle)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        x = x + self.out(attend(q, k, v).transpose(1, 2).reshape(b, t, width))
        return x + self.down(functional.gelu(self.up(self.norm_feed(x)))), (k, v)


def _norm(config: DecoderConfig) -> Any:
    return nn.RMSNorm(config.width, eps=1e-6) if config.norm == "rms" else nn.LayerNorm(config.width)


class Decoder(nn.Module):  # type: ignore[misc]
    """Decoder-only transformer: tokens in, logits of the next token out.

    Parameters
    ----------
    config : sizes and kinds
    seed : of the initial weights
    attend : attention to use in place of `causal_attention`; may be set later (``model.attend = ...``)
    inv_freq : (width / heads / 2,) angles per position in place of the usual ones; may be set later

    Raises InputError for frequencies of another length, or any without rotary positions.
    """

    inv_freq: Tensor | None

    def __init__(
        self, config: DecoderConfig, *, seed: int = 0, attend: Attend = causal_attention, inv_freq: ArrayLike | None = None
    ) -> None:
        super().__init__()
        self.config, self.attend = config, attend
        self.embed = nn.Embedding(config.vocab, config.width)
        self.places = nn.Embedding(config.context, config.width) if config.position == "learned" else None
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = _norm(config)
        self.unembed = None if config.tied else nn.Linear(config.width, config.vocab, bias=False)
        rotary = config.position == "rotary"
        if inv_freq is not None and (not rotary or np.shape(inv_freq) != (config.head_width // 2,)):
            raise InputError(
                f"inv_freq has shape {np.shape(inv_freq)} with {config.position} positions; allowed: rotary positions and "
                f"({config.head_width // 2},), one angle a pair"
            )
        angles = torch.as_tensor(np.asarray(inv_freq, dtype=np.float32)) if inv_freq is not None else None
        if rotary and angles is None:
            angles = inverse_frequencies(config.head_width, config.rotary_base)
        self.register_buffer("inv_freq", angles, persistent=False)
        self._draw(checks.count("seed", seed, least=0))

    def _draw(self, seed: int) -> None:
        source = torch.Generator().manual_seed(seed)
        width = self.config.width
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.endswith("bias"):
                    weight.zero_()
                elif weight.ndim == 2:
                    fan_in = width if name.startswith(("embed", "places")) else weight.shape[1]
                    writes = name.endswith(("out.weight", "down.weight"))
                    spread = 1 / math.sqrt(fan_in * (2 * self.config.layers if writes else 1))
                    weight.normal_(0.0, spread, generator=source)

    def forward(self, tokens: Tensor, *, positions: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Logits (b, t, vocab) of the token after each of `tokens` (b, t).

        Parameters
        ----------
        positions : (t,) or (b, t) where the tokens stand, fractions allowed with rotary positions; by default they are counted
            from 0, or on from the cache
        cache : keys and values of the tokens before, extended in place; an empty list starts one
        """
        past = cache[0][0].shape[2] if cache else 0
        if positions is None:
            positions = torch.arange(past, past + tokens.shape[1], device=tokens.device)
        where = positions if positions.ndim == 2 else positions[None]
        x = self.embed(tokens) * math.sqrt(self.config.width)
        if self.places is not None:
            last = int(where.max())
            if last >= self.config.context:
                raise InputError(f"position {last} with learned positions for {self.config.context}; give a longer context")
            x = x + self.places(where) * math.sqrt(self.config.width)
        angle = None if self.inv_freq is None else where[..., None] * self.inv_freq
        for i, block in enumerate(self.blocks):
            x, pair = block(x, angle, self.attend, cache[i] if past else None)  # type: ignore[index]
            if cache is not None:
                cache[i : i + 1] = [pair]
        x = self.norm(x)
        return self.unembed(x) if self.unembed is not None else functional.linear(x, self.embed.weight)

    def generate(self, tokens: Tensor, n: int, *, end: int | None = None) -> Tensor:
        """`tokens` (b, t) continued greedily by at most `n` tokens, (b, t + at most n).

        With `end`, a row that has produced it goes on with it, and all stop once each has.
        """
        cache: Cache = []
        done = torch.zeros(tokens.shape[0], dtype=torch.bool, device=tokens.device)
        new = tokens
        with torch.no_grad():
            for _ in range(checks.count("n", n, least=0)):
                step = self(new, cache=cache)[:, -1].argmax(-1)
                if end is not None:
                    step = torch.where(done, end, step)
                    done |= step == end
                new = step[:, None]
                tokens = torch.cat([tokens, new], dim=1)
                if end is not None and bool(done.all()):
                    break
        return tokens

    def n_parameters(self) -> int:
        """Trainable numbers, embeddings included."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
