"""The published network against its equations, token by token in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from farfield.curves.pfn.published import PublishedNetwork
from farfield.errors import FormatError, InputError

SEEN, ASKED, BARS, LAYERS = 7, 9, 11, 3
State = dict[str, np.ndarray]


def weights(width: int, seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.2.weight": (width, 1), "encoder.2.bias": (width,), "y_encoder.1.weight": (width, 1), "y_encoder.1.bias": (width,),
        "decoder.0.weight": (2 * width, width), "decoder.0.bias": (2 * width,),
        "decoder.2.weight": (BARS, 2 * width), "decoder.2.bias": (BARS,),
    }  # fmt: skip
    for k in range(LAYERS):
        at = f"transformer_encoder.layers.{k}"
        shapes |= {
            f"{at}.self_attn.in_proj_weight": (3 * width, width), f"{at}.self_attn.in_proj_bias": (3 * width,),
            f"{at}.self_attn.out_proj.weight": (width, width), f"{at}.self_attn.out_proj.bias": (width,),
            f"{at}.linear1.weight": (2 * width, width), f"{at}.linear1.bias": (2 * width,),
            f"{at}.linear2.weight": (width, 2 * width), f"{at}.linear2.bias": (width,),
            **{f"{at}.norm{j}.{part}": (width,) for j in (1, 2) for part in ("weight", "bias")},
        }  # fmt: skip
    state = {name: rng.normal(size=shape) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.3) for name, shape in shapes.items()}
    for name in state:
        if "norm" in name and name.endswith("weight"):
            state[name] += 1
    return state


def by_the_equations(state: State, x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(q, bars) of one curve: one token after another, one head after another."""

    def linear(name: str, v: np.ndarray) -> np.ndarray:
        return state[f"{name}.weight"] @ v + state[f"{name}.bias"]

    def gelu(v: np.ndarray) -> np.ndarray:
        return v * (1 + erf(v / np.sqrt(2))) / 2

    def norm(name: str, v: np.ndarray) -> np.ndarray:
        return (v - v.mean()) / np.sqrt(v.var() + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]

    z = [np.array([(t / 101 - 0.5) * np.sqrt(12)]) for t in (*x, *at)]
    tokens = [linear("encoder.2", v) for v in z]
    for i, value in enumerate(y):
        tokens[i] = tokens[i] + linear("y_encoder.1", np.array([(value - 0.5) * np.sqrt(12)]))
    width = tokens[0].size
    heads = max(width // 128, 1)
    for k in range(LAYERS):
        name = f"transformer_encoder.layers.{k}"
        project, shift = state[f"{name}.self_attn.in_proj_weight"], state[f"{name}.self_attn.in_proj_bias"]
        q, key, value = np.split(np.array([project @ t + shift for t in tokens]), 3, axis=1)
        new = []
        for i in range(len(tokens)):
            reads = [*range(len(x)), *([i] if i >= len(x) else [])]
            parts = []
            for h in np.split(np.arange(width), heads):
                score = np.array([q[i, h] @ key[j, h] for j in reads]) / np.sqrt(h.size)
                share = np.exp(score - score.max())
                parts.append((share / share.sum()) @ value[reads][:, h])
            v = norm(f"{name}.norm1", tokens[i] + linear(f"{name}.self_attn.out_proj", np.concatenate(parts)))
            new.append(norm(f"{name}.norm2", v + linear(f"{name}.linear2", gelu(linear(f"{name}.linear1", v)))))
        tokens = new
    return np.array([linear("decoder.2", gelu(linear("decoder.0", t))) for t in tokens[len(x) :]])


@pytest.mark.parametrize("width", [32, 256])
def test_logits_are_those_of_the_equations(width: int) -> None:
    """One head and two, more curves than are worked on at a time."""
    state, rng, n = weights(width), np.random.default_rng(1), 40
    x, at = np.tile(np.arange(1.0, SEEN + 1), (n, 1)), np.tile(np.arange(SEEN + 1.0, SEEN + ASKED + 1), (n, 1))
    y = rng.random((n, SEEN))
    network = PublishedNetwork.of(state, np.linspace(0, 1, BARS + 1))
    found = network.logits(x, y, at)
    for i in (0, 17, n - 1):
        np.testing.assert_allclose(found[i], by_the_equations(state, x[i], y[i], at[i]), atol=1e-5)
    bars = network.predict(x, y, at)
    assert bars.shape == (n, ASKED)
    assert np.isfinite(bars.quantile([0.001, 0.5, 0.999])).all()


def test_what_is_not_such_a_network_is_refused() -> None:
    state = weights(32)
    with pytest.raises(FormatError, match=r"decoder\.2\.bias"):
        PublishedNetwork.of({k: v for k, v in state.items() if k != "decoder.2.bias"}, np.linspace(0, 1, BARS + 1))
    with pytest.raises(FormatError, match="layers"):
        PublishedNetwork.of({k: v for k, v in state.items() if "transformer" not in k}, np.linspace(0, 1, BARS + 1))
    with pytest.raises(InputError, match="shapes"):
        PublishedNetwork.of(state, np.linspace(0, 1, BARS + 1)).logits(np.ones((1, 3)), np.ones((1, 2)), np.ones((1, 2)))
