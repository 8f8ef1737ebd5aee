"""Ways of merging in CPU time an element: farfield with its compiled loops, with NumPy alone, mergekit, and copying the files.

    python benchmarks/weights_methods.py [--layers 8] [--rounds 3] [--dtypes BF16,F16,F32] [--mergekit PATH/mergekit-yaml]
        [--scratch DIR] [-o results/...json]

Llama-shaped checkpoints of 119 M weights are generated in each format: a base and three models near it. Both programs read the same
mergekit recipe. In turns: `cat` of all operands to /dev/null and `cp` of one (the limit; the page cache is warm and nothing is
synced), farfield (two threads), farfield without its compiled loops, mergekit. Counted is the CPU time of the process less what it
takes on a pair of 13,000 weights, that is without imports; mergekit's vary by half a second. The two files of farfield must be
equal to the byte. Needs about 3 GB of disk, given back at the end; each call appends one row.
Wanted: growth of anonymous memory < 64 MiB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from weights_expo import keep, llama, watched

from farfield import __version__, formats
from farfield.weights import compiled
from farfield.weights.io import CheckpointWriter

WANTED = {"growth_mib": 64.0}
OURS = """
import json, resource, sys, time
from farfield.weights import compiled
from farfield.weights.algebra import execute
from farfield.weights.recipes import read_recipe
recipe, out, loops = sys.argv[1:]
if loops == "NumPy":
    compiled.library = lambda: None
elif compiled.library() is None:
    raise SystemExit("the inner loops are not compiled: install farfield again where there is a C compiler")
anonymous = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon"))
start = time.perf_counter()
execute(read_recipe(recipe).plan(), out, sync=False)
print(json.dumps({"merge_s": time.perf_counter() - start, "before_kib": anonymous}))
"""
# merge_method, models besides the base, whether there is a base, parameters of a model, of the whole, dtype written
METHODS: dict[str, tuple[str, int, bool, Mapping[str, Any], Mapping[str, Any]]] = {
    "ExPO, 0.5": ("linear", 2, False, {"weight": [1.5, -0.5]}, {"normalize": "false"}),
    "ExPO, 0.3": ("linear", 2, False, {"weight": [1.3, -0.3]}, {"normalize": "false"}),
    "linear, three models": ("linear", 3, False, {"weight": [0.5, 0.3, 0.2]}, {"normalize": "false"}),
    "task arithmetic, three models": ("task_arithmetic", 3, True, {"weight": [0.4, 0.3, 0.5]}, {}),
    "slerp": ("slerp", 1, True, {}, {"t": 0.4}),
    "model stock, three models": ("model_stock", 3, True, {}, {}),
    "TIES, two models": ("ties", 2, True, {"weight": [0.5, 0.5], "density": [0.5, 0.5]}, {}),
    "DARE, two models": ("dare_linear", 2, True, {"weight": [0.5, 0.5], "density": [0.5, 0.5]}, {}),
    "breadcrumbs, two models": ("breadcrumbs", 2, True, {"weight": [0.5, 0.5], "density": [0.5, 0.5]}, {}),
    "to bfloat16": ("linear", 1, False, {"weight": [1.0]}, {"normalize": "false"}),
}
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def generate(folder: Path, dtype: str, layers: int, hidden: int, mlp: int, vocabulary: int) -> int:
    """A base N(0, 0.02^2) and three models 0.0006 N(0, 1) from it, values repeating after 2 M; how many weights one has."""
    shapes, config = llama(layers, hidden, mlp, vocabulary)
    config["torch_dtype"] = DTYPES[dtype]
    rng = np.random.default_rng(0)
    base = rng.normal(0, 0.02, 1 << 21)
    for k in range(4):
        pool = formats.round_to(base + (k > 0) * rng.normal(0, 6e-4, base.size), dtype)
        layout = [("model.safetensors", [(name, dtype, shape) for name, shape in shapes.items()])]
        side = {"config.json": json.dumps(config).encode()}
        with CheckpointWriter(folder / f"{dtype}-{k}", layout, side_files=side, sync=False) as writer:
            for i, (name, shape) in enumerate(shapes.items()):
                writer.write(name, 0, np.resize(np.roll(pool, 4099 * i), int(np.prod(shape))))
            writer.finish()
    return sum(int(np.prod(shape)) for shape in shapes.values())


def recipe(folder: Path, method: str, source: str, target: str) -> tuple[Path, list[Path]]:
    """A mergekit recipe in a file, and the checkpoints that it reads."""
    name, count, has_base, of_models, of_all = METHODS[method]
    models = [folder / f"{source}-{k}" for k in range(has_base, has_base + count)]
    lines = [f"merge_method: {name}", "models:"]
    if name == "slerp":
        lines.append(f"  - model: {folder / f'{source}-0'}")
    for k, model in enumerate(models):
        lines.append(f"  - model: {model}")
        if of_models:
            lines += ["    parameters:", *(f"      {key}: {values[k]}" for key, values in of_models.items())]
    if has_base:
        lines.append(f"base_model: {folder / f'{source}-0'}")
    if of_all:
        lines += ["parameters:", *(f"  {key}: {value}" for key, value in of_all.items())]
    path = folder / "recipe.yaml"
    path.write_text("\n".join([*lines, f"dtype: {DTYPES[target]}", ""]))
    return path, [*([folder / f"{source}-0"] if has_base else []), *models]


def run(side: str, program: Path | None, path: Path, operands: list[Path], out: Path) -> dict[str, Any]:
    os.sync()
    if side == "copy":
        script = 'out="$1"; shift; last="$1"; cat "$@" > /dev/null; cp "$last" "$out"'
        return watched(["sh", "-c", script, "sh", str(out), *(str(o / "model.safetensors") for o in operands)])
    if side == "mergekit":
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        return watched([str(program), str(path), str(out), "--no-write-model-card", "--no-copy-tokenizer"], environment)
    seen = watched([sys.executable, "-c", OURS, str(path), str(out), side], {**os.environ, "OMP_NUM_THREADS": "1"})
    return seen | json.loads(seen["output"].splitlines()[-1])


def measure(dtypes: Sequence[str], layers: int, rounds: int, program: Path | None, scratch: Path) -> dict[str, Any]:
    sides = ["copy", "compiled", "NumPy", *(["mergekit"] if program else [])]
    small, large = scratch / "small", scratch / "large"
    rows, growth, n = [], 0.0, 0
    for dtype in dtypes:
        for folder in (small, large):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        generate(small, dtype, 1, 32, 64, 32)
        n = generate(large, dtype, layers, 1024, 2816, 8000)
        idle: dict[str, float] = {}
        for side in sides:
            path, operands = recipe(small, "ExPO, 0.5", dtype, dtype)
            idle[side] = statistics.median(run(side, program, path, operands, small / f"{side}-{i}")["cpu_s"] for i in range(3))
        for method in METHODS:
            target = "BF16" if method == "to bfloat16" else dtype
            if method == "to bfloat16" and dtype == "BF16":
                continue
            seen: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
            digests = set()
            path, operands = recipe(large, method, dtype, target)
            for i in range(rounds):
                for side in sides if i == 0 else sides[:2]:
                    out = large / side
                    seen[side].append(run(side, program, path, operands, out))
                    if side in ("compiled", "NumPy"):
                        digests.add(hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest())
                    shutil.rmtree(out) if out.is_dir() else out.unlink()
            if len(digests) != 1:
                raise SystemExit(f"{method} of {dtype}: the compiled loops and NumPy differ")
            growth = max(growth, *((r["peak_kib"] - r["before_kib"]) / 1024 for r in seen["compiled"]))
            row: dict[str, Any] = {"method": method, "dtype": dtype}
            for side in sides:
                row[f"{side}_ns"] = (statistics.median(r["cpu_s"] for r in seen[side]) - idle[side]) / n * 1e9
            row["merge_s"] = statistics.median(r["merge_s"] for r in seen["compiled"])
            row["copy_s"] = statistics.median(r["wall_s"] for r in seen["copy"])
            if program:
                row["mergekit_s"] = seen["mergekit"][0]["wall_s"]
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    versions = {"python": platform.python_version(), "farfield": __version__, "numpy": version("numpy")}
    found: dict[str, Any] = {"name": "weights_methods", "weights": n, "rounds": rounds, "rows": rows, "growth_mib": growth}
    if program is not None:
        query = "from importlib.metadata import version as v; print(v('mergekit'), v('torch'))"
        python = program.with_name("python")
        printed = subprocess.run([str(python), "-c", query], capture_output=True, text=True, check=True).stdout.split()
        versions |= {"mergekit": printed[0], "torch": printed[1]}
    return found | {"compiled": compiled.library() is not None, "wanted": WANTED, "versions": versions}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=8, help="8 make 119 M weights")
    parser.add_argument("--rounds", type=int, default=3, help="of copying and farfield; NumPy and mergekit run once")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="formats to measure")
    parser.add_argument("--mergekit", type=Path, help="the mergekit-yaml program of an environment that has it")
    parser.add_argument("--scratch", type=Path, help="a directory on a disk with 3 GB free")
    parser.add_argument("-o", "--output", default="results/bench_weights_methods.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        row = measure(arguments.dtypes.split(","), arguments.layers, arguments.rounds, arguments.mergekit, Path(scratch))
    row["met"] = {"growth_mib": row["growth_mib"] < WANTED["growth_mib"]}
    return keep(row, Path(arguments.output))


if __name__ == "__main__":
    sys.exit(main())
