"""The published network's equations in torch, to be exported to ONNX: the other side of `lc_pfn.py onnx`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, LAYERS, BARS = 128, 3, 1000


def random_state(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights by the names of the published module, for one head of width 128."""
    w = WIDTH
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.2.weight": (w, 1), "encoder.2.bias": (w,), "y_encoder.1.weight": (w, 1), "y_encoder.1.bias": (w,),
        "decoder.0.weight": (2 * w, w), "decoder.0.bias": (2 * w,), "decoder.2.weight": (BARS, 2 * w), "decoder.2.bias": (BARS,),
    }  # fmt: skip
    for k in range(LAYERS):
        at = f"transformer_encoder.layers.{k}"
        shapes |= {
            f"{at}.self_attn.in_proj_weight": (3 * w, w), f"{at}.self_attn.in_proj_bias": (3 * w,),
            f"{at}.self_attn.out_proj.weight": (w, w), f"{at}.self_attn.out_proj.bias": (w,),
            f"{at}.linear1.weight": (2 * w, w), f"{at}.linear1.bias": (2 * w,),
            f"{at}.linear2.weight": (w, 2 * w), f"{at}.linear2.bias": (w,),
            **{f"{at}.norm{j}.{part}": (w,) for j in (1, 2) for part in ("weight", "bias")},
        }  # fmt: skip
    rng = np.random.default_rng(seed)
    state = {k: rng.normal(size=s) * (s[-1] ** -0.5 if len(s) > 1 else 0.3) for k, s in shapes.items()}
    return {k: v + 1 if "norm" in k and k.endswith("weight") else v for k, v in state.items()}


class PublishedLayers(nn.Module):
    """Logits (n, q, bars) of seen x, y (n, m) and asked positions (n, q)."""

    def __init__(self, state: dict[str, np.ndarray]) -> None:
        super().__init__()
        for name, value in state.items():
            self.register_buffer(name.replace(".", "_"), torch.tensor(value, dtype=torch.float32))

    def linear(self, name: str, x: Tensor) -> Tensor:
        name = name.replace(".", "_")
        return F.linear(x, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"))

    def norm(self, name: str, x: Tensor) -> Tensor:
        name = name.replace(".", "_")
        return F.layer_norm(x, (WIDTH,), getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"))

    def forward(self, x: Tensor, y: Tensor, at: Tensor) -> Tensor:
        root = 12.0**0.5
        a = self.linear("encoder.2", ((at / 101 - 0.5) * root)[..., None])
        s = self.linear("encoder.2", ((x / 101 - 0.5) * root)[..., None]) + self.linear(
            "y_encoder.1", ((y - 0.5) * root)[..., None]
        )
        for k in range(LAYERS):
            at_ = f"transformer_encoder.layers.{k}"
            name = f"{at_}.self_attn.in_proj".replace(".", "_")
            project = (getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"))
            qs, ks, vs = F.linear(s, *project).chunk(3, -1)
            qa, ka, va = F.linear(a, *project).chunk(3, -1)
            scale = WIDTH**-0.5
            seen = torch.softmax(qs @ ks.transpose(1, 2) * scale, -1) @ vs
            own = (qa * ka).sum(-1, keepdim=True)
            share = torch.softmax(torch.cat([qa @ ks.transpose(1, 2), own], -1) * scale, -1)
            asked = share[..., :-1] @ vs + share[..., -1:] * va
            both = []
            for tokens, mixed in ((s, seen), (a, asked)):
                v = self.norm(f"{at_}.norm1", tokens + self.linear(f"{at_}.self_attn.out_proj", mixed))
                hidden = F.gelu(self.linear(f"{at_}.linear1", v))
                both.append(self.norm(f"{at_}.norm2", v + self.linear(f"{at_}.linear2", hidden)))
            s, a = both
        return self.linear("decoder.2", F.gelu(self.linear("decoder.0", a)))
