"""Recipes: a merge written down in TOML, or in mergekit's YAML (:mod:`farfield.weights.mergekit`), and its edit of each tensor.

    method = "ties"              # one of METHODS
    base = "sft"                 # paths, relative to the recipe
    dtype = "bfloat16"           # of the output; left out: as the inputs
    rounding = "nearest"         # or "stochastic", with rounding_seed
    exclude = ['rotary_emb']     # regular expressions searched in tensor names: these are copied from the base
    scale = 1.0                  # any parameter of the method
    [[models]]
    path = "math"                # a checkpoint, or a LoRA adapter on the base
    weight = 0.5                 # a number, or a list: a schedule over the layers, from the first to the last
    density = [0.3, 0.7]
    [[rules]]                    # the first rule whose expression is found in the name wins over what stands above
    match = 'self_attn'
    weight = 0.3                 # for all models, or a list in a list: one a model

A schedule's anchors lie evenly from the first layer to the last, straight lines between; tensors outside the layers (embeddings,
the last norm) take its first anchor.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farfield import checks
from farfield.errors import FormatError, InputError, unknown_name
from farfield.formats import Rounding
from farfield.weights.algebra import Choose, Plan, dtype_named, open_operands, plan, write_plan
from farfield.weights.compression import LowRank, Quantised, Signs
from farfield.weights.edits import (
    Breadcrumbs,
    DeltaEdit,
    Linear,
    Magnitude,
    ModelStock,
    Random,
    Slerp,
    Sparse,
    Thinning,
    Weighted,
)

# method -> its parameters with their defaults; `weight`, `density` and `gamma` may differ from model to model
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"weight": 1.0, "normalize": True},
    "task_arithmetic": {"weight": 1.0, "scale": 1.0, "normalize": False},
    "extrapolate": {"alpha": None},
    "slerp": {"t": None},
    "model_stock": {},
    "ties": {"weight": 1.0, "density": 1.0, "scale": 1.0, "normalize": True, "across": "tensor"},
    "dare_linear": {
        "weight": 1.0,
        "density": 1.0,
        "scale": 1.0,
        "normalize": False,
        "rescale": True,
        "seed": 0,
        "factor": math.nan,
    },
    "dare_ties": {"weight": 1.0, "density": 1.0, "scale": 1.0, "normalize": False, "rescale": True, "seed": 0},
    "breadcrumbs": {"weight": 1.0, "density": 1.0, "gamma": 0.01, "scale": 1.0, "normalize": False, "across": "tensor"},
    "breadcrumbs_ties": {"weight": 1.0, "density": 1.0, "gamma": 0.01, "scale": 1.0, "normalize": False, "across": "tensor"},
    "bitdelta": {"weight": 1.0, "scale": 1.0, "normalize": False, "bits": 1, "block": 0},
    "quantize": {"weight": 1.0, "scale": 1.0, "normalize": False, "bits": 8, "block": 0},
    "low_rank": {"weight": 1.0, "scale": 1.0, "normalize": False, "rank": None},
}
PER_MODEL = ("weight", "density", "gamma")
_SWITCHES = ("normalize", "rescale")
_COUNTS = {"bits": 1, "block": 0, "rank": 1}  # with the least that is allowed
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")  # the first number in a name counts the layers: model.layers.7.mlp..., h.3.attn...
_KEYS = ("method", "base", "models", "dtype", "rounding", "rounding_seed", "include", "exclude", "rules")


@dataclass(frozen=True)
class Rule:
    """Parameters for the tensors in whose name `match` is found."""

    match: re.Pattern[str]
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A merge: the method, the checkpoints (`base` and `models`), and parameters, those of the models as one list a parameter.

    For ``linear`` and ``slerp`` without a base the first model is it; a ``linear`` base has no weight of its own.
    """

    method: str
    base: str | None
    models: tuple[str, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    include: tuple[re.Pattern[str], ...] = ()
    exclude: tuple[re.Pattern[str], ...] = ()
    rules: tuple[Rule, ...] = ()
    rounding: Rounding = "nearest"
    rounding_seed: int = 0

    @property
    def paths(self) -> tuple[str, ...]:
        """The operands, the one that the deltas start from first; for ``extrapolate`` that is the tuned model."""
        if self.method == "extrapolate" and self.base is not None:
            return (*self.models, self.base)
        return self.models if self.base is None else (self.base, *self.models)

    def plan(self) -> Plan:
        """Open the checkpoints and check that they can be merged; nothing is written."""
        operands = open_operands(self.paths, base=self.paths.index(self.base) if self.base is not None else 0)
        n_layers = 1 + max((layer_of(name) or 0 for name in operands[0].tensors), default=0)
        return plan(operands, self.choose(n_layers), dtype=self.dtype, rounding=self.rounding, seed=self.rounding_seed)

    def run(self, out: str | os.PathLike[str], *, low: str | os.PathLike[str] | None = None, threads: int | None = None) -> Path:
        """Write the merged checkpoint to `out`; see :func:`farfield.weights.algebra.write_plan`."""
        return write_plan(self.plan(), out, low=low, threads=threads)

    def choose(self, n_layers: int) -> Choose:
        """The edit of each tensor of a model with this many layers."""

        def edit(name: str) -> DeltaEdit | None:
            if self.include and not any(p.search(name) for p in self.include):
                return None
            if any(p.search(name) for p in self.exclude):
                return None
            rule = next((r for r in self.rules if r.match.search(name)), None)
            layer = layer_of(name)
            at = layer / (n_layers - 1) if layer is not None and n_layers > 1 else 0.0
            given = {**METHODS[self.method], **self.parameters, **(rule.parameters if rule else {})}
            values = {key: self._value(key, value, at) for key, value in given.items()}
            return _edit(self.method, values, len(self.models), self.base is not None)

        return edit

    def _value(self, key: str, value: Any, at: float) -> Any:
        if key in PER_MODEL:
            each = value if isinstance(value, tuple) else (value,) * len(self.models)
            return tuple(scheduled(v, at) for v in each)
        return scheduled(value, at) if isinstance(value, list) else value


def layer_of(name: str) -> int | None:
    """The number of the layer that a tensor's name says it is in, or None."""
    found = _LAYER.search(name)
    return int(found[1]) if found and len(found[1]) < 7 else None


def scheduled(value: float | Sequence[float], at: float) -> float:
    """A number, or a schedule's value at the fraction `at` of the layers, 0 to 1."""
    if isinstance(value, int | float):
        return float(value)
    place = at * (len(value) - 1)
    left = min(int(place), max(0, len(value) - 2))
    right = min(left + 1, len(value) - 1)
    return float(value[left]) + (place - left) * (float(value[right]) - float(value[left]))


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe: TOML, or mergekit's YAML or JSON by their ending.

    Raises InputError for what cannot be read or means nothing, FormatError for what is not in the format of its ending.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror or error}; give a .toml, .yaml or .json file") from error
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); a recipe is TOML, YAML or JSON"
        ) from error
    if file.suffix.casefold() in (".yaml", ".yml", ".json"):
        from farfield.weights.mergekit import convert, parse

        document = convert(parse(text, file.suffix.casefold() == ".json"))
    else:
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise FormatError(f"{path} is not valid TOML: {error}; mergekit's own recipes end in .yaml") from error
    return recipe_from(document, file.parent)


def recipe_from(document: Mapping[str, Any], folder: Path = Path()) -> Recipe:
    """A recipe from its document, as TOML gives it; paths are relative to `folder`.

    Raises InputError for unknown keys, methods and parameters, values of the wrong kind and numbers of models that do not fit.
    """
    method = document.get("method")
    if method is None:
        raise InputError(f'the recipe names no method; give one, such as method = "linear"; allowed: {", ".join(METHODS)}')
    if not isinstance(method, str) or method not in METHODS:
        raise unknown_name("method", str(method), METHODS)
    models = document.get("models")
    if (
        not isinstance(models, list)
        or not models
        or not all(isinstance(m, dict) and isinstance(m.get("path"), str) for m in models)
    ):
        raise InputError("a recipe needs [[models]], each with its path")
    base = document.get("base")
    if base is not None and not isinstance(base, str):
        raise InputError(f"base is {base!r}; allowed: a path")
    if base is None and method not in ("linear", "slerp"):
        raise InputError(f"{method} needs a base: the checkpoint that the others were tuned from")
    if (method == "slerp" and len(models) + (base is not None) != 2) or (method == "extrapolate" and len(models) != 1):
        raise InputError(f"{method} takes two checkpoints; got {len(models) + (base is not None)}")
    parameters = _parameters(method, {k: v for k, v in document.items() if k not in _KEYS}, len(models))
    for key in PER_MODEL:
        if any(key in m for m in models):
            _known(method, key)
            shared = document.get(key, METHODS[method][key])
            parameters[key] = tuple(_number(key, m.get(key, shared)) for m in models)
    for m in models:
        for key in m:
            if key not in ("path", *PER_MODEL):
                raise unknown_name("key of a model", key, ("path", *PER_MODEL))
    rules = document.get("rules", [])
    if not isinstance(rules, list) or not all(isinstance(r, dict) and isinstance(r.get("match"), str) for r in rules):
        raise InputError("each of [[rules]] needs match, a regular expression")
    for key, default in METHODS[method].items():
        if default is None and key not in parameters:
            raise InputError(f"{method} needs {key}")
    dtype = document.get("dtype")
    dtype_named(dtype)
    rounding = checks.choice("rounding", document.get("rounding", "nearest"), ("nearest", "stochastic"))
    return Recipe(
        method,
        None if base is None else str(folder / base),
        tuple(str(folder / m["path"]) for m in models),
        parameters,
        dtype,
        patterns("include", document.get("include", [])),
        patterns("exclude", document.get("exclude", [])),
        tuple(
            Rule(patterns("match", [r["match"]])[0], _parameters(method, {k: v for k, v in r.items() if k != "match"}, len(models)))
            for r in rules
        ),
        "stochastic" if rounding == "stochastic" else "nearest",
        checks.count("rounding_seed", document.get("rounding_seed", 0), least=0),
    )


def patterns(key: str, texts: Any) -> tuple[re.Pattern[str], ...]:
    """Compiled regular expressions; InputError for one that is not."""
    if not isinstance(texts, list | tuple) or not all(isinstance(t, str) for t in texts):
        raise InputError(f"{key} is {texts!r}; allowed: a list of regular expressions")
    out = []
    for text in texts:
        try:
            out.append(re.compile(text))
        except re.error as error:
            raise InputError(f"{key}: {text!r} is not a regular expression: {error}") from error
    return tuple(out)


def _parameters(method: str, given: Mapping[str, Any], n_models: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in given.items():
        _known(method, key)
        if key in _SWITCHES:
            if not isinstance(value, bool):
                raise InputError(f"{key} is {value!r}; allowed: true or false")
            out[key] = value
        elif key == "across":
            out[key] = checks.choice(key, value, ("tensor", "model"))
        elif key in _COUNTS:
            out[key] = checks.count(key, value, least=_COUNTS[key])
        elif key == "seed":
            if isinstance(value, bool) or not isinstance(value, int):
                raise InputError(f"seed is {value!r}; allowed: an integer")
            out[key] = value
        elif key in PER_MODEL and isinstance(value, list) and any(isinstance(v, list) for v in value):
            if len(value) != n_models:
                raise InputError(f"{key} lists {len(value)} models; there are {n_models}")
            out[key] = tuple(_number(key, v) for v in value)
        else:
            out[key] = _number(key, value)
    return out


def _known(method: str, key: str) -> None:
    if key not in METHODS[method]:
        raise unknown_name(f"parameter of {method}", key, (*METHODS[method], *_KEYS))


def _number(key: str, value: Any) -> Any:
    """A finite number, or a schedule: a list of them, kept as a list."""
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e300 for v in numbers):
        raise InputError(f"{key} is {value!r}; allowed: a finite number, or a list of them as a schedule over the layers")
    if key in ("density", "gamma") and not all(0 <= v <= 1 for v in numbers):
        raise InputError(f"{key} is {value!r}; allowed: 0 to 1")
    return [float(v) for v in value] if isinstance(value, list) else float(value)


def _edit(method: str, p: Mapping[str, Any], n: int, has_base: bool) -> DeltaEdit:
    if method == "extrapolate":
        return Linear((-p["alpha"],))  # the operands are tuned and base: tuned - alpha (base - tuned)
    if method == "slerp":
        return Slerp(p["t"])
    if method == "model_stock":
        return ModelStock()
    weights: tuple[float, ...] = p["weight"]
    total = sum(weights)
    if p["normalize"] and method in ("linear", "task_arithmetic") and total == 0:
        raise InputError("the weights add up to 0 and cannot be normalised; set normalize = false")
    if method == "linear":
        if p["normalize"]:
            # shares of the whole: the first model, or a base without weight, is where the deltas start
            shares = tuple(w / total for w in weights)
            return Weighted((0.0, *shares)) if has_base else Linear(shares[1:])
        return Weighted((0.0, *weights) if has_base else weights)
    if method == "task_arithmetic":
        factor = p["scale"] / total if p["normalize"] else p["scale"]
        return Linear(tuple(w * factor for w in weights))
    return Sparse(weights, _thinning(method, p, n), p["scale"], method.endswith("ties"), p["normalize"])


def _thinning(method: str, p: Mapping[str, Any], n: int) -> tuple[Thinning, ...]:
    if method.startswith("dare"):
        factor = p.get("factor", math.nan)
        return tuple(Random(p["density"][i], p["seed"], p["rescale"], None if math.isnan(factor) else factor) for i in range(n))
    if method.startswith("breadcrumbs"):
        return tuple(Breadcrumbs(p["density"][i], p["gamma"][i], p["across"]) for i in range(n))
    if method == "bitdelta":
        return (Signs(p["block"], p["bits"]),) * n
    if method == "quantize":
        return (Quantised(p["bits"], p["block"]),) * n
    if method == "low_rank":
        return (LowRank(p["rank"]),) * n
    return tuple(Magnitude(p["density"][i], p["across"]) for i in range(n))
