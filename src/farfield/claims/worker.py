"""One seed of one claim in a process of its own: ``python -m farfield.claims.worker REQUEST.json``.

The request names the claim's file, budget, seed, memory limit and the file for the answer. The answer is one JSON object, with
``measured`` or with ``error``; what the claim prints goes wherever the caller sent standard output, and is never parsed. Memory is
limited by the operating system (``RLIMIT_DATA``: heap and private mappings of each process; Linux enforces it), files the
claim writes to 1 GiB each, and the process ends by itself when the one that started it is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import farfield
from farfield.claims.criteria import Count, Measured, Trend
from farfield.claims.data import MissingDataError
from farfield.errors import InputError, MissingExtraError
from farfield.files import write_atomic

_PACKAGE = Path(farfield.__file__).parent
REPORTED = ("numpy", "scipy", "polars", "torch", "sklearn", "transformers")  # versions that can move a number


def main(request_file: str) -> int:
    """Run the request in `request_file`; 0 when an answer was written, be it an error."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    _limit(request["memory"])
    _end_with(os.getppid())
    started = time.monotonic()
    try:
        module = load(Path(request["module"]))
        answer: dict[str, Any] = {"measured": encode(_run(module, request["budget"], request["seed"]))}
    except MemoryError:
        traceback.print_exc()
        answer = {"error": f"ran out of memory (limit {request['memory'] / 2**30:g} GiB)", "kind": "failed"}
    except (MissingDataError, MissingExtraError) as error:
        answer = {"error": str(error), "kind": "unavailable"}
    except Exception as error:  # whatever a claim raises is its result: reported, never hidden
        traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:300]
        answer = {"error": f"{type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})", "kind": "failed"}
    answer |= {
        "seconds": round(time.monotonic() - started, 3),
        "python": ".".join(map(str, sys.version_info[:3])),
        "versions": {n: str(sys.modules[n].__version__) for n in REPORTED if n in sys.modules},
        "sources": sources(Path(request["module"])),
    }
    write_atomic(request["out"], json.dumps(answer).encode())
    return 0


def load(path: Path) -> ModuleType:
    """The claim module in the file `path`, imported as ``farfield.claims.<stem>``."""
    name = f"farfield.claims.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _run(module: ModuleType, budget: str, seed: int) -> Measured:
    run = getattr(module, "run", None)
    if not callable(run):
        raise InputError("the claim module defines no run(budget, seed)")
    measured = run(budget, seed)
    if not isinstance(measured, Measured):
        raise InputError(f"run returned {str(measured)[:80]!r} ({type(measured).__name__}); allowed: a Measured")
    return measured


def encode(measured: Measured) -> dict[str, Any]:
    """Plain values of a `Measured`; raises InputError for what is not a value a criterion can be decided on."""
    sides = {
        side: {str(k): _value(v, f"{side}[{k!r}]") for k, v in getattr(measured, side).items()}
        for side in ("ours", "baseline", "ablation")
    }
    curves = [
        {"name": c.name, **{k: _numbers(getattr(c, k), f"curve {c.name!r}") for k in ("x", "y")}}
        | {k: _numbers(getattr(c, k), f"curve {c.name!r}") for k in ("low", "high") if getattr(c, k) is not None}
        for c in measured.curves
    ]
    notes = {str(k): v if isinstance(v, str | int | float | bool) else str(v) for k, v in measured.notes.items()}
    return {**sides, "units": [str(u) for u in measured.units], "curves": curves, "axes": list(measured.axes), "notes": notes}


def _value(value: Any, what: str) -> Any:
    if isinstance(value, Count):
        return {"violations": int(value.violations), "trials": int(value.trials)}
    if isinstance(value, Trend):
        return {"x": _numbers(value.x, what), "y": _numbers(value.y, what)}
    if isinstance(value, str | bytes | Mapping):
        raise InputError(f"{what} is {str(value)[:80]!r}; allowed: a number, one number a unit, Count, Trend")
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        value = value.tolist()
    if isinstance(value, Sequence):
        return [_value(v, what) for v in value]
    return _number(value, what)


def _numbers(values: Any, what: str) -> list[float]:
    return [_number(v, what) for v in values]


def _number(value: Any, what: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{what} is {str(value)[:80]!r}; allowed: a number, one number a unit, Count, Trend") from None


def decode_value(value: Any) -> Any:
    """The value that `encode` made plain."""
    if isinstance(value, dict):
        return Count(value["violations"], value["trials"]) if "violations" in value else Trend(value["x"], value["y"])
    return [decode_value(v) for v in value] if isinstance(value, list) else value


def sources(module: Path) -> dict[str, str]:
    """SHA-256 of the claim's file and of every farfield module loaded by now: what the numbers depend on."""
    files = {module.resolve()}
    for loaded in list(sys.modules.values()):
        name = getattr(loaded, "__file__", None)
        if name and Path(name).is_relative_to(_PACKAGE):
            files.add(Path(name).resolve())
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}


def _limit(memory: int) -> None:
    for which, most in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, 2**30), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(which)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError, OSError):  # systems that know the name but set no such limit
            resource.setrlimit(which, (most, most))


def _end_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
