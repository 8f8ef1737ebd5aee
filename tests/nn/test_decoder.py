"""The decoder against a slow loop in float64, its cache, its rotary positions, its seed, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from farfield.errors import InputError
from farfield.nn.decoder import Decoder, DecoderConfig, causal_attention, inverse_frequencies, rotate

pytestmark = pytest.mark.extra("torch")


def slow_norm(x: np.ndarray, module: torch.nn.Module) -> np.ndarray:
    if isinstance(module, torch.nn.LayerNorm):
        x = x - x.mean()
        return x / math.sqrt((x * x).mean() + 1e-5) * module.weight.numpy() + module.bias.numpy()
    return x / math.sqrt((x * x).mean() + 1e-6) * module.weight.numpy()


def slow_logits(model: Decoder, tokens: list[int]) -> np.ndarray:
    """One sequence, token by token, head by head, pair by pair."""
    c = model.config
    d = c.width // c.heads
    stream = [model.embed.weight[t].numpy() * math.sqrt(c.width) for t in tokens]
    if c.position == "learned":
        stream = [x + model.places.weight[i].numpy() * math.sqrt(c.width) for i, x in enumerate(stream)]
    for block in model.blocks:
        parts = [(block.qkv.weight.numpy() @ slow_norm(x, block.norm_attention)).reshape(3, c.heads, d).copy() for x in stream]
        if c.position == "rotary":
            for place, part in enumerate(parts):
                for kind in (0, 1):
                    for h in range(c.heads):
                        for i in range(d // 2):
                            turn = place * c.rotary_base ** (-2 * i / d)
                            z = complex(part[kind, h, i], part[kind, h, i + d // 2]) * complex(math.cos(turn), math.sin(turn))
                            part[kind, h, i], part[kind, h, i + d // 2] = z.real, z.imag
        out = []
        for place, part in enumerate(parts):
            heads = []
            for h in range(c.heads):
                score = np.array([part[0, h] @ parts[j][1, h] / math.sqrt(d) for j in range(place + 1)])
                share = np.exp(score - score.max())
                heads.append(sum(s * parts[j][2, h] for j, s in enumerate(share / share.sum())))
            x = stream[place] + block.out.weight.numpy() @ np.concatenate(heads)
            up = block.up.weight.numpy() @ slow_norm(x, block.norm_feed) + block.up.bias.numpy()
            up = np.array([u * 0.5 * (1 + math.erf(u / math.sqrt(2))) for u in up])
            out.append(x + block.down.weight.numpy() @ up + block.down.bias.numpy())
        stream = out
    table = model.embed.weight.numpy() if model.unembed is None else model.unembed.weight.numpy()
    return np.stack([table @ slow_norm(x, model.norm) for x in stream])


@pytest.mark.parametrize(
    ("position", "norm", "tied"), [("rotary", "rms", True), ("none", "layer", False), ("learned", "rms", False)]
)
def test_logits_against_a_slow_loop(position, norm, tied):
    model = Decoder(DecoderConfig(11, 2, 2, 12, 16, position, norm=norm, tied=tied, hidden=20), seed=3).double()
    if model.inv_freq is not None:
        model.inv_freq = torch.tensor([10_000.0 ** (-2 * i / 6) for i in range(3)], dtype=torch.float64)
    tokens = [3, 10, 0, 0, 7, 5, 1]
    with torch.no_grad():
        for weight in model.parameters():  # biases and norms away from 0 and 1
            weight.add_(torch.linspace(-0.1, 0.1, weight.numel(), dtype=torch.float64).view_as(weight))
        got = model(torch.tensor([tokens, tokens[::-1]]))
        for row, asked in zip(got, (tokens, tokens[::-1]), strict=True):
            np.testing.assert_allclose(row.numpy(), slow_logits(model, asked), rtol=0, atol=1e-10)


@pytest.mark.parametrize("position", ["rotary", "learned", "none"])
def test_the_cache_gives_what_the_whole_sequence_gives(position):
    model = Decoder(DecoderConfig(13, 2, 2, 16, position=position), seed=1)
    tokens = torch.arange(24).view(2, 12) % 13
    with torch.no_grad():
        whole, cache = model(tokens), []
        parts = [model(tokens[:, a:b], cache=cache) for a, b in ((0, 5), (5, 6), (6, 12))]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-5)
        said = model.generate(tokens[:, :4], 6)
        assert said.shape == (2, 10)
        for i in range(4, 10):
            assert said[:, i].tolist() == model(said[:, :i])[:, -1].argmax(-1).tolist()


def test_generation_stops_at_the_end_token():
    model = Decoder(DecoderConfig(5, 1, 1, 8), seed=0)
    free = model.generate(torch.tensor([[1], [2]]), 8)
    end = int(free[0, 1])
    said = model.generate(torch.tensor([[1], [2]]), 8, end=end)
    assert (said[0, 1:] == end).all()
    assert model.generate(torch.tensor([[1]]), 8, end=end).shape == (1, 2)


def test_rotary_scores_depend_on_the_distance_alone():
    inv = inverse_frequencies(8)
    assert inv.tolist() == pytest.approx([10_000.0 ** (-i / 4) for i in range(4)])
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    scores = [(rotate(q, (a * inv)[None, None]) * rotate(k, (b * inv)[None, None])).sum() for a, b in ((9.0, 2.0), (107.5, 100.5))]
    assert float(scores[0]) == pytest.approx(float(scores[1]), abs=1e-4)
    model = Decoder(DecoderConfig(7, 1, 2, 8))
    tokens = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        here, there = model(tokens), model(tokens, positions=torch.arange(4) + 1000.0)
        halved = model(tokens, positions=torch.arange(4) / 2)
        slower = Decoder(DecoderConfig(7, 1, 2, 8), inv_freq=inverse_frequencies(4).numpy() / 2)(tokens)
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(halved, slower)
    assert (here - halved).abs().max() > 1e-3


def test_attention_can_be_handed_in():
    calls = []

    def seen(q, k, v):
        calls.append((q.shape[-2], k.shape[-2]))
        return causal_attention(q, k, v)

    model = Decoder(DecoderConfig(7, 2, 2, 8), attend=seen)
    model.generate(torch.tensor([[1, 2, 3]]), 2)
    assert calls == [(3, 3), (3, 3), (1, 4), (1, 4)]


def test_the_same_seed_gives_the_same_weights_and_a_sane_start():
    config = DecoderConfig(64, 2, 4, 32)
    torch.manual_seed(5)
    one, _, two, other = Decoder(config, seed=7), torch.randn(3), Decoder(config, seed=7), Decoder(config, seed=8)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embed.weight, other.embed.weight)
    assert one.n_parameters() == 64 * 32 + 2 * (4 * 32**2 + 8 * 32**2 + 5 * 32 + 2 * 32) + 32 + 64 * 32
    tokens = torch.randint(0, 64, (64, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(one(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(64), abs=1.0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"heads": 3}, "divides the width"),
        ({"heads": 16, "width": 16}, "even"),
        ({"position": "rotry"}, "rotary"),
        ({"layers": 0}, "layers is 0"),
        ({"norm": "batch"}, "unknown norm"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, match):
    with pytest.raises(InputError, match=match):
        DecoderConfig(**({"vocab": 7, "width": 16} | options))


def test_positions_that_do_not_fit_are_refused():
    model = Decoder(DecoderConfig(7, 1, 1, 8, 4, "learned"))
    with pytest.raises(InputError, match="position 4 with learned positions for 4"):
        model(torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(InputError, match="one angle a pair"):
        Decoder(DecoderConfig(7, 1, 1, 8), inv_freq=[1.0, 2.0])
    with pytest.raises(InputError, match="learned positions"):
        Decoder(DecoderConfig(7, 1, 1, 8, 4, "learned"), inv_freq=[1.0] * 4)
