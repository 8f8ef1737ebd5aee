"""Recipes: what they mean tensor by tensor, schedules, rules, mergekit's YAML converted, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from farfield import formats
from farfield.errors import FarfieldError, FormatError, InputError
from farfield.weights.io import Checkpoint, CheckpointWriter
from farfield.weights.mergekit import convert, parse
from farfield.weights.recipes import METHODS, layer_of, read_recipe, recipe_from, scheduled

NAMES = ("model.embed.weight", "model.layers.0.attn.w", "model.layers.1.attn.w", "model.layers.2.mlp.w")


def make(folder: Path, n: int = 3) -> dict[str, list[NDArray[np.float64]]]:
    """Checkpoints m0, m1, ... in float32; name -> their values."""
    rng = np.random.default_rng(0)
    values: dict[str, list[NDArray[np.float64]]] = {}
    for name in NAMES:
        base = np.float32(rng.normal(0, 0.1, 24))
        values[name] = [np.float64(np.float32(base + i * rng.normal(0, 0.01, 24))) for i in range(n)]
    for i in range(n):
        with CheckpointWriter(folder / f"m{i}", [("model.safetensors", [(k, "F32", (24,)) for k in NAMES])], sync=False) as w:
            for name in NAMES:
                w.write(name, 0, formats.round_to(values[name][i], "F32"))
            w.finish()
    return values


def merged(folder: Path, recipe: str, ending: str = "toml") -> dict[str, NDArray[np.float64]]:
    path = folder / f"recipe.{ending}"
    path.write_text(recipe)
    read_recipe(path).run(folder / "out")
    with Checkpoint.open(folder / "out") as out:
        return {name: out.read_float64(name) for name in out.tensors}


def close(a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(a, b, rtol=2e-7, atol=1e-9)


def test_linear_with_shares_and_without(tmp_path: Path) -> None:
    values = make(tmp_path)
    models = '[[models]]\npath="m0"\nweight=1\n[[models]]\npath="m1"\nweight=3\n'
    out = merged(tmp_path, 'method="linear"\n' + models)
    for name, v in values.items():
        close(out[name], 0.25 * v[0] + 0.75 * v[1])
    (tmp_path / "two").mkdir()
    make(tmp_path / "two")
    out = merged(tmp_path / "two", 'method="linear"\nnormalize=false\n' + models)
    for name, v in values.items():
        close(out[name], v[0] + 3 * v[1])


def test_extrapolation_as_a_recipe_starts_at_the_tuned_model(tmp_path: Path) -> None:
    values = make(tmp_path)
    out = merged(tmp_path, 'method="extrapolate"\nbase="m0"\nalpha=0.5\nexclude=["embed"]\n[[models]]\npath="m1"\n')
    for name, v in values.items():
        close(out[name], v[1] if "embed" in name else v[1] + 0.5 * (v[1] - v[0]))


def test_schedules_and_rules(tmp_path: Path) -> None:
    values = make(tmp_path)
    out = merged(
        tmp_path,
        'method="task_arithmetic"\nbase="m0"\n'
        '[[models]]\npath="m1"\nweight=[0.0, 1.0]\n[[models]]\npath="m2"\nweight=0.5\n'
        "[[rules]]\nmatch='mlp'\nweight=[[0.1], [0.2]]\n",
    )
    first = {NAMES[0]: 0.0, NAMES[1]: 0.0, NAMES[2]: 0.5}
    for name, v in values.items():
        weights = (first[name], 0.5) if name in first else (0.1, 0.2)
        close(out[name], v[0] + weights[0] * (v[1] - v[0]) + weights[1] * (v[2] - v[0]))


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("extrapolate", "slerp")])
def test_every_method_runs_and_all_kept_is_the_weighted_sum(tmp_path: Path, method: str) -> None:
    values = make(tmp_path)
    gamma = "gamma=0.0\n" if method.startswith("bread") else ""
    switch = "normalize=false\n" if "normalize" in METHODS[method] else ""
    base = "" if method == "linear" else 'base="m0"\n'
    weights = "weight=0.5\n" if "weight" in METHODS[method] else ""
    every = {"quantize": "bits=40\n", "low_rank": "rank=999\n", "bitdelta": "bits=40\n"}.get(method, "")
    out = merged(
        tmp_path, f'method="{method}"\n{base}{switch}{gamma}{every}[[models]]\npath="m1"\n{weights}[[models]]\npath="m2"\n{weights}'
    )
    for name, v in values.items():
        if method == "linear":
            close(out[name], 0.5 * v[1] + 0.5 * v[2])
        elif method.endswith("ties"):
            d = np.stack([0.5 * (v[1] - v[0]), 0.5 * (v[2] - v[0])])
            close(out[name], v[0] + np.where(np.sign(d) == np.sign(d.sum(0)), d, 0).sum(0))
        elif method == "bitdelta":  # each bit leaves less, and one scale a tensor never nothing
            want = v[0] + 0.5 * (v[1] - v[0]) + 0.5 * (v[2] - v[0])
            assert np.mean((out[name] - want) ** 2) < 0.02 * np.mean((want - v[0]) ** 2)
        elif method != "model_stock":
            close(out[name], v[0] + 0.5 * (v[1] - v[0]) + 0.5 * (v[2] - v[0]))


def test_layers_and_schedules_by_hand() -> None:
    assert [layer_of(n) for n in ("model.layers.12.mlp.w", "h.3.attn", "lm_head.weight", "0.weight")] == [12, 3, None, 0]
    assert [scheduled([0, 1, 0], t) for t in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 0.5, 0]
    assert scheduled([0.3], 0.7) == scheduled(0.3, 0.1) == 0.3


YAML = """
# a recipe as mergekit's users write it
models:
  - model: m1   # the first
    parameters:
      weight: 0.5
      density: [1, 1.0]
  - model: "m2"
    parameters:
      weight:
      - filter: mlp
        value: 0.25
      - value: 0.5
merge_method: ties
base_model: m0
parameters:
  normalize: false
  int8_mask: true
  lambda: 2.0
dtype: float32
"""


def test_mergekit_yaml_is_the_recipe_it_says(tmp_path: Path) -> None:
    document = convert(parse(YAML))
    assert document == {
        "method": "ties",
        "base": "m0",
        "dtype": "float32",
        "normalize": False,
        "scale": 2.0,
        "models": [{"path": "m1", "weight": 0.5, "density": [1, 1.0]}, {"path": "m2", "weight": 0.5}],
        "rules": [{"match": "mlp", "weight": [[0.5], [0.25]]}],
    }
    values = make(tmp_path)
    out = merged(tmp_path, YAML, "yaml")
    for name, v in values.items():
        d = np.stack([0.5 * (v[1] - v[0]), (0.25 if "mlp" in name else 0.5) * (v[2] - v[0])])
        close(out[name], v[0] + 2 * np.where(np.sign(d) == np.sign(d.sum(0)), d, 0).sum(0))


def test_mergekit_slerp_with_filters_as_json(tmp_path: Path) -> None:
    values = make(tmp_path)
    t = [{"filter": "attn", "value": [0, 1]}, {"value": 1.0}]
    recipe: dict[str, Any] = {"merge_method": "slerp", "base_model": "m0", "models": [{"model": "m0"}, {"model": "m1"}]}
    out = merged(tmp_path, json.dumps(recipe | {"parameters": {"t": t}, "dtype": "float32"}), "json")
    close(out[NAMES[0]], values[NAMES[0]][1])
    close(out[NAMES[1]], values[NAMES[1]][0])
    close(out[NAMES[3]], values[NAMES[3]][1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1", "TOML"),
        ("a: {b: 1}", "TOML"),
        ("a: |\n  text", "TOML"),
        ("a: 1\na: 2", "twice"),
        ("\ta: 1", "tabs"),
        ("a:\n    b: 1\n  c: 2", "line 3"),
        ("a: 'it", "quoted"),
        ("a: [[1], 2]", "brackets"),
        ("", "empty"),
        ("- " * 30 + "a: 1", "nested"),
    ],
)
def test_yaml_beyond_the_part_that_is_read(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse(text)


@settings(max_examples=200, deadline=None)
@given(st.text("ab:-[]{}'\"#&\n 1.,\t", max_size=60))
def test_no_text_breaks_the_yaml_parser(text: str) -> None:
    try:
        convert(parse(text))
    except FarfieldError:
        return


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"slices": []}, "slices"),
        ({"merge_method": "karcher", "models": []}, "merge_method"),
        ({"merge_method": "linear", "models": [{"model": "a"}], "tokenizer_source": "union"}, "tokenizer"),
        ({"merge_method": "linear", "models": [{"model": "a", "parameters": {"wieght": 1}}]}, "weight"),
    ],
)
def test_what_mergekit_has_and_is_not_here_is_named(document: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(document)


TWO = [{"path": "a"}, {"path": "b"}]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"method": "teis", "models": TWO}, "ties"),
        ({"models": TWO}, r"names no method; give one, such as method = \"linear\"; allowed: linear, "),
        ({"method": "ties", "models": TWO}, "needs a base"),
        ({"method": "slerp", "models": TWO}, "needs t"),
        ({"method": "slerp", "models": [*TWO, {"path": "c"}], "t": 0.5}, "two checkpoints"),
        ({"method": "linear", "models": []}, "models"),
        ({"method": "linear", "models": TWO, "density": 0.5}, "density"),
        ({"method": "ties", "base": "c", "models": TWO, "density": 1.5}, "0 to 1"),
        ({"method": "linear", "models": [{"path": "a", "wight": 1}]}, "weight"),
        ({"method": "linear", "models": TWO, "weight": "half"}, "number"),
        ({"method": "linear", "models": TWO, "weight": [[1.0]]}, "lists 1"),
        ({"method": "linear", "models": TWO, "normalize": 1}, "true or false"),
        ({"method": "linear", "models": TWO, "exclude": ["("]}, "regular expression"),
        ({"method": "linear", "models": TWO, "dtype": "int8"}, "dtype"),
        ({"method": "linear", "models": TWO, "rules": [{"weight": 1}]}, "match"),
    ],
)
def test_recipes_that_mean_nothing(document: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe_from(document)


def test_recipes_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the recipe .*: No such file or directory; give a .toml"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("method = ")
    with pytest.raises(FormatError, match="TOML"):
        read_recipe(tmp_path / "bad.toml")
