"""mergekit's recipes, converted: its YAML, read by a small parser of the part of YAML that they use, or the same as JSON.

Read are block mappings and sequences by indentation, scalars (numbers, booleans, null, plain and quoted text), lists in brackets
and comments. Anchors, tags, multi-line text, braces and tabs are refused: write the recipe in TOML then.

Converted are ``models`` with ``merge_method`` linear, task_arithmetic, ties, dare_linear, dare_ties, breadcrumbs,
breadcrumbs_ties, slerp and model_stock, their ``parameters`` (numbers, schedules, lists of ``filter`` and ``value``),
``base_model`` and ``dtype``.
Refused, by name, is what would change the result and has no counterpart here: ``slices``, ``tokenizer_source`` other than base, ...
Results are rounded once here; random masks differ from mergekit's, and ``rescale`` divides by the density (as the DARE paper does),
where mergekit restores the L1 norm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from farfield.errors import FormatError, InputError, unknown_name

_NAMES = {"lambda": "scale", "weight": "weight", "density": "density", "gamma": "gamma", "normalize": "normalize", "t": "t"}
_NAMES |= {"rescale": "rescale"}
_IGNORED = ("int8_mask",)  # how mergekit holds its masks in memory; it does not change the result
_METHODS = (
    *("linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "slerp"),
    "model_stock",
)
_NORMALIZED = ("linear", "ties")  # methods that normalise unless told otherwise
_TOP = ("merge_method", "models", "base_model", "parameters", "dtype", "tokenizer_source", "out_dtype")


def convert(document: Any) -> dict[str, Any]:
    """A mergekit document as one of :func:`farfield.weights.recipes.recipe_from`.

    Raises InputError for what has no counterpart.
    """
    if not isinstance(document, dict):
        raise FormatError("a mergekit recipe is a mapping with merge_method and models")
    for key in document:
        if key not in _TOP:
            raise InputError(f"cannot convert mergekit's {key!r}; allowed: {', '.join(_TOP)}")
    method = document.get("merge_method")
    if method not in _METHODS:
        raise unknown_name("merge_method to convert", str(method), _METHODS)
    if document.get("tokenizer_source") not in (None, "base"):
        raise InputError("tokenizer_source other than base changes the vocabulary; leave it out and keep the base's tokenizer")
    dtype, out_dtype = document.get("dtype"), document.get("out_dtype")
    base = document.get("base_model")
    models = document.get("models")
    if not isinstance(models, list) or not all(isinstance(m, dict) and isinstance(m.get("model"), str) for m in models):
        raise InputError("a mergekit recipe needs models, each with its model")
    if method == "slerp":
        models = [m for m in models if m["model"] != base]
    elif method != "linear":
        # mergekit lists the base among the models without parameters
        models = [m for m in models if m["model"] != base or m.get("parameters")]
    out: dict[str, Any] = {"method": method, "models": [{"path": m["model"]} for m in models]}
    if base is not None and method != "linear":
        out["base"] = base
    if out_dtype or dtype:
        out["dtype"] = out_dtype or dtype
    out |= {"normalize": method in _NORMALIZED} if method not in ("slerp", "model_stock") else {}
    filters: dict[str, dict[str, Any]] = {}
    for key, value in _parameters(document.get("parameters"), filters, None, len(models)):
        out[key] = value
    for i, (model, entry) in enumerate(zip(models, out["models"], strict=True)):
        for key, value in _parameters(model.get("parameters"), filters, i, len(models)):
            entry[key] = value
    if filters:
        _complete(filters, out, len(models))
        out["rules"] = [{"match": re.escape(text), **values} for text, values in filters.items()]
    return out


def _parameters(given: Any, filters: dict[str, dict[str, Any]], model: int | None, n_models: int) -> Iterator[tuple[str, Any]]:
    """(name, value) of parameters without a filter; those with one go into `filters`: text -> parameter -> value."""
    if given is None:
        return
    if not isinstance(given, dict):
        raise InputError(f"mergekit parameters are {given!r}; allowed: a mapping")
    for name, value in given.items():
        if name in _IGNORED:
            continue
        if name not in _NAMES:
            raise unknown_name("mergekit parameter", str(name), (*_NAMES, *_IGNORED))
        key = _NAMES[name]
        if not (isinstance(value, list) and any(isinstance(v, dict) for v in value)):
            yield key, value
            continue
        for entry in value:
            if not isinstance(entry, dict) or "value" not in entry or set(entry) - {"filter", "value"}:
                raise InputError(f"{name} lists {entry!r}; allowed: mappings of filter and value")
            text = entry.get("filter")
            if text is None or text == "*":
                yield key, entry["value"]
                break  # the first that matches wins, so nothing after it counts
            rule = filters.setdefault(str(text), {})
            if model is None:
                rule.setdefault(key, entry["value"])
            else:
                rule.setdefault(key, [None] * n_models)[model] = entry["value"]


def _complete(filters: dict[str, dict[str, Any]], out: Mapping[str, Any], n_models: int) -> None:
    """Fill in, per model, what a rule leaves to the recipe: a rule replaces a parameter for all models at once."""
    for rule in filters.values():
        for key, value in rule.items():
            if isinstance(value, list) and None in value:
                shared = out.get(key, 1.0)
                rule[key] = [out["models"][i].get(key, shared) if v is None else v for i, v in enumerate(value)]
            if isinstance(rule[key], list) and len(rule[key]) == n_models and key in ("weight", "density", "gamma"):
                # a list of lists is one value a model; a plain list would be a schedule
                rule[key] = [v if isinstance(v, list) else [v] for v in rule[key]]


# -- the part of YAML -----------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_KEY = re.compile(r"""("[^"\\]*"|'[^']*'|[^\s'"\[\]{}#&*!|>%@`,:-][^#]*?|[^\s'"\[\]{}#&*!|>%@`,]*?)\s*:(?:\s+(.*))?$""")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "yes": True, "no": False, "": None}
_DEEPEST = 20


def parse(text: str, as_json: bool = False) -> Any:
    """The document of a recipe's text. FormatError with the line where it leaves what is read."""
    if as_json:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"the recipe is not valid JSON: {error}") from error
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if "\t" in line[: len(line) - len(line.lstrip())]:
            raise FormatError(f"line {number}: tabs do not indent YAML; use spaces")
        body = _without_comment(line).rstrip()
        if body.strip() and body.strip() != "---":
            lines.append((number, len(body) - len(body.lstrip()), body.strip()))
    if not lines:
        raise FormatError("the recipe is empty")
    value, rest = _block(lines, lines[0][1], 0)
    if rest:
        raise FormatError(f"line {rest[0][0]}: {rest[0][2]!r} is indented as nothing before it")
    return value


_Lines = list[tuple[int, int, str]]


def _block(lines: _Lines, indent: int, depth: int) -> tuple[Any, _Lines]:
    if depth > _DEEPEST:
        raise FormatError(f"line {lines[0][0]}: nested too deeply")
    if lines[0][2] == "-" or lines[0][2].startswith("- "):
        return _sequence(lines, indent, depth)
    if _KEY.match(lines[0][2]) is None:
        number, _, text = lines[0]
        return _scalar(text, number), lines[1:]
    return _mapping(lines, indent, depth)


def _sequence(lines: _Lines, indent: int, depth: int) -> tuple[list[Any], _Lines]:
    out: list[Any] = []
    while lines and lines[0][1] == indent and (lines[0][2] == "-" or lines[0][2].startswith("- ")):
        number, _, text = lines[0]
        item = text[1:].lstrip()
        if item:
            # what follows the dash is the first line of a block that is indented as far as it stands
            inner = indent + len(text) - len(item)
            value, lines = _block([(number, inner, item), *lines[1:]], inner, depth + 1)
        elif len(lines) > 1 and lines[1][1] > indent:
            value, lines = _block(lines[1:], lines[1][1], depth + 1)
        else:
            value, lines = None, lines[1:]
        out.append(value)
    return out, lines


def _mapping(lines: _Lines, indent: int, depth: int) -> tuple[dict[str, Any], _Lines]:
    out: dict[str, Any] = {}
    while lines and lines[0][1] == indent:
        number, _, text = lines[0]
        found = _KEY.match(text)
        if found is None or text.startswith("- "):
            raise FormatError(f"line {number}: {text!r} is no 'key: value'")
        key = str(_scalar(found[1], number)) if found[1][:1] in "\"'" else found[1]
        if key in out:
            raise FormatError(f"line {number}: the key {key!r} stands twice")
        lines = lines[1:]
        if found[2]:
            out[key] = _scalar(found[2], number)
        elif lines and (lines[0][1] > indent or (lines[0][1] == indent and lines[0][2].startswith("-"))):
            out[key], lines = _block(lines, lines[0][1], depth + 1)
        else:
            out[key] = None
    return out, lines


def _scalar(text: str, number: int) -> Any:
    text = text.strip()
    if text.startswith("["):
        if not text.endswith("]") or any(c in text[1:-1] for c in "[]{}"):
            raise FormatError(f"line {number}: {text!r}: a list in brackets must be on one line and hold no other")
        inside = text[1:-1].strip().removesuffix(",")
        return [_scalar(part, number) for part in inside.split(",")] if inside else []
    if text[:1] in "\"'":
        if len(text) < 2 or text[-1] != text[0] or text[0] in text[1:-1] or "\\" in text:
            raise FormatError(f"line {number}: {text!r}: quoted text must end on its line and hold no quotes or backslashes")
        return text[1:-1]
    if text[:1] in "&*!|>{}%@`" or ": " in text:
        raise FormatError(f"line {number}: {text!r} is YAML beyond what is read here; write the recipe in TOML")
    if text.casefold() in _WORDS:
        return _WORDS[text.casefold()]
    if _NUMBER.fullmatch(text):
        return float(text) if any(c in text for c in ".eE") else int(text)
    return text


def _without_comment(line: str) -> str:
    quote = ""
    for i, c in enumerate(line):
        if quote:
            quote = "" if c == quote else quote
        elif c in "\"'" and (i == 0 or line[i - 1] in " [,"):
            quote = c
        elif c == "#" and (i == 0 or line[i - 1] == " "):
            return line[:i]
    return line
