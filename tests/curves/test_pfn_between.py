"""Attention, normalisation and GELU against their formulas in double precision, compiled and in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from farfield.curves.pfn import LCPFN, between, engine
from farfield.curves.pfn.architecture import Architecture
from farfield.curves.pfn.between import NORMAL, TANH, UNIT, Gelu, attend, normed, point
from farfield.curves.pfn.engine import Engine
from farfield.curves.pfn.published import PublishedNetwork

WAYS = ["numpy", pytest.param("compiled", marks=pytest.mark.compiled)]
SINGLE = np.float32


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(between, "library", lambda: None)
    return str(request.param)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(SINGLE)


@pytest.mark.parametrize(("kind", "unit"), [(TANH, 1.0), (NORMAL, UNIT)])
@pytest.mark.usefixtures("way")
def test_gelu(kind: Gelu, unit: float) -> None:
    """Also of tiny and of large numbers, and of rows that are apart."""
    values = np.concatenate([np.linspace(-12, 12, 4801), [-3000, -300, -40, -1e-30, 0, 1e-30, 40, 300, 3000]])
    bias = normal(240)
    x = np.zeros((21, 241), dtype=SINGLE)
    flat = np.resize(values * unit, (21, 240)).astype(SINGLE)
    x[:, :240], x[:, 240] = flat, 7.0
    found = kind(x[:, :240], bias).astype(float)
    z = (flat + bias).astype(float)
    inner = np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)
    expected = z * (1 + np.tanh(inner)) if kind is TANH else 2 * z * ndtr(z / unit)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1.5e-6)
    assert (x[:, 240] == 7.0).all()


@pytest.mark.parametrize("width", [8, 40, 128, 13])
@pytest.mark.usefixtures("way")
def test_normalisation(width: int) -> None:
    x, more, bias, scale = normal(3, 5, width), normal(3, 5, width, seed=1), normal(width, seed=2), normal(width, seed=3)
    x[0, 0] += 50
    x[1] *= 1e-4
    whole = x.astype(float) + more + bias

    def expected(z: np.ndarray) -> np.ndarray:
        return np.asarray((z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5))

    np.testing.assert_allclose(normed(x.copy()), expected(x.astype(float)), rtol=1e-5, atol=1e-5)
    found = normed(x, more, bias, scale)
    np.testing.assert_allclose(found, expected(whole) * scale, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(x, whole, rtol=1e-6, atol=1e-6)
    again = normed(x, out=x)
    assert again is x
    np.testing.assert_allclose(x, expected(whole), rtol=1e-5, atol=1e-5)


def by_the_formula(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: int, until: np.ndarray, seen: int
) -> np.ndarray:  # fmt: skip
    """One row after another, one head after another."""
    n, rows, width = query.shape
    out, own = np.zeros((n, rows, value.shape[-1])), rows - (key.shape[1] - seen)
    for i in range(n):
        for r in range(rows):
            reads = [*range(until[i, r]), *([seen + r - own] if r >= own else [])]
            for h in range(heads):
                k, v = (np.arange(h * w // heads, (h + 1) * w // heads) for w in (width, value.shape[-1]))
                score = key[i][np.ix_(reads, k)] @ query[i, r, k]
                share = np.exp(score - score.max())
                out[i, r, v] = (share / share.sum()) @ value[i][np.ix_(reads, v)]
    return out


@pytest.mark.parametrize(
    ("rows", "seen", "more", "heads", "d"),
    [(1, 1, 0, 1, 8), (17, 20, 0, 4, 8), (32, 16, 0, 2, 24), (12, 5, 7, 1, 40), (9, 13, 9, 2, 8), (8, 7, 0, 2, 5)],
)
@pytest.mark.usefixtures("way")
def test_attention(rows: int, seen: int, more: int, heads: int, d: int) -> None:
    """With keys of their own for the last rows and without, all keys read or the first ones, any widths."""
    width = heads * d
    query, bias, both = normal(2, rows, width), normal(width, seed=1), normal(2, seen + more, 2 * width, seed=2)
    query[0, 0] *= 6  # one score above all others
    key, value = both[..., :width], both[..., width:]
    until = np.random.default_rng(3).integers(1, seen + 1, (2, rows))
    wide = [a.astype(float) for a in (query + bias, key, value)]
    found = attend(query, bias, key, value, heads, seen=seen, until=until)
    np.testing.assert_allclose(found, by_the_formula(*wide, heads, until, seen), rtol=1e-5, atol=1e-5)
    found = attend(query, bias, key, value, heads, seen=seen)
    np.testing.assert_allclose(found, by_the_formula(*wide, heads, np.full_like(until, seen), seen), rtol=1e-5, atol=1e-5)
    if not more:
        numbers = np.random.default_rng(4).normal(size=(2, seen))
        every = np.repeat(numbers[..., None], heads, axis=-1)
        found = point(query, bias, key, numbers, heads, until)
        np.testing.assert_allclose(found, by_the_formula(*wide[:2], every, heads, until, seen), rtol=1e-5, atol=1e-5)


def test_both_ways_give_the_same_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of widths the loops take, and of widths they do not."""
    x, y, at = np.arange(1.0, 24.0), 0.9 - 0.6 * np.arange(1.0, 24.0) ** -0.7, [30.0, 60.0, 99.0]
    answers = []
    for compiled in (True, False):
        with monkeypatch.context() as without:
            if not compiled:
                without.setattr(between, "library", lambda: None)
            answers.append([LCPFN.load(name).predict(x, y, at) for name in ("wide", "domhan")])
    for found, plain in zip(*answers, strict=True):
        for name in ("weights", "loc", "scale"):
            np.testing.assert_allclose(getattr(found, name), getattr(plain, name), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("tile", [4, 16])
@pytest.mark.usefixtures("way")
def test_a_curve_is_the_same_to_the_bit_in_every_batch(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (between, engine):
        monkeypatch.setattr(module, "TILE", tile)
    rng = np.random.default_rng(0)
    lengths = [1, 3, 4, 5, 17, 30, 30, 64, 100]
    xs = [np.arange(1.0, n + 1) for n in lengths]
    ys = [rng.random(n) for n in lengths]
    model = LCPFN.load("wide")
    together = model.predict(xs, ys, [110.0, 120.0, 150.0])
    for i in range(len(lengths)):
        alone = model.predict(xs[i], ys[i], [110.0, 120.0, 150.0])
        for name in ("weights", "loc", "scale"):
            np.testing.assert_array_equal(getattr(together, name)[i], getattr(alone, name)[0])


def test_a_network_whose_widths_are_not_in_eights_is_left_to_numpy() -> None:
    """Its answers in single precision are those in double."""
    arch = Architecture(width=12, layers=2, heads=3, hidden=20, pointers=2, pointer_width=5, components=2)
    rng, tensors = np.random.default_rng(0), {}
    maps = {
        "context.0": (11, 12), "context.2": (12, 12), "asked.0": (8, 12), "asked.2": (12, 12), "pointer_query": (12, 10),
        "pointer_key": (12, 10), "head.0": (12, 20), "head.2": (20, arch.outputs),
    }  # fmt: skip
    for i in range(2):
        at = f"layers.{i}"
        maps |= {
            f"{at}.attention.query": (12, 12), f"{at}.attention.key_value": (12, 24), f"{at}.attention.out": (12, 12),
            f"{at}.perceptron.0": (12, 20), f"{at}.perceptron.2": (20, 12),
        }  # fmt: skip
    for name, (a, b) in maps.items():
        tensors |= {f"{name}.weight": rng.normal(0, a**-0.5, (b, a)), f"{name}.bias": rng.normal(0, 0.1, b)}
    for name in ("norm_asked", "norm_context", *(f"layers.{i}.norm_{k}" for i in range(2) for k in ("attention", "perceptron"))):
        tensors |= {f"{name}.weight": rng.normal(1, 0.1, 12), f"{name}.bias": rng.normal(0, 0.1, 12)}
    x, y = np.tile(np.arange(1.0, 10.0), (2, 1)), rng.random((2, 9))
    given = (x, y, np.array([[3, 9], [9, 9]]), np.array([[10.0, 12.0], [20.0, 30.0]]), np.array([np.nan, 40.0]))
    for single, double in zip(Engine.of(arch, tensors)(*given), Engine.of(arch, tensors, np.float64)(*given), strict=True):
        np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-5)


@pytest.mark.compiled
def test_published_layers_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.curves.test_pfn_published import weights

    rng = np.random.default_rng(0)
    x, at, y = np.tile(np.arange(1.0, 8.0), (3, 1)), np.tile(np.arange(8.0, 17.0), (3, 1)), rng.random((3, 7))
    for width in (32, 256):
        network = PublishedNetwork.of(weights(width), np.linspace(0, 1, 12))
        found = network.logits(x, y, at)
        with monkeypatch.context() as without:
            without.setattr(between, "library", lambda: None)
            np.testing.assert_allclose(found, network.logits(x, y, at), atol=1e-5)
