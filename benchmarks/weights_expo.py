"""ExPO of a 1 GB bfloat16 pair in four shards: farfield against copying the files, and against mergekit's linear merge.

    python benchmarks/weights_expo.py [--layers 8] [--rounds 3] [--mergekit PATH/mergekit-yaml] [--scratch DIR] [-o results/...json]

Two Llama-shaped checkpoints are generated, then in turns: `cat A > /dev/null; cp B out` (the limit; the page cache is warm and
nothing is synced), farfield as it comes (two threads), not synced and synced, at alpha 0.5 and, as a factor of many digits, 0.3,
and mergekit (`merge_method: linear`, weights 1.5 and -0.5, `normalize: false`). Wall time of ours is after imports, CPU time that
of the whole process, memory the peak of RssAnon, sampled every 5 ms. Before anything is reported, the first elements of sampled
tensors are compared with rationals. On a small pair mergekit's real output is compared with the exact result for alpha 0.3, 0.5
and 2. Needs about 5 GB of disk, given back at the end; each call appends one row.
Wanted: wall <= 1.3 of the copy, CPU >= 5 times and memory >= 8 times less than mergekit, growth < 64 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from farfield import __version__, formats
from farfield.files import write_atomic
from farfield.weights import compiled
from farfield.weights.edits import Linear
from farfield.weights.exact import round_combination
from farfield.weights.io import Checkpoint, CheckpointWriter

WANTED = {"wall_ratio": 1.3, "cpu_ratio": 5.0, "memory_ratio": 8.0, "growth_mib": 64.0}
OURS = """
import json, resource, sys, time
from farfield.weights.algebra import execute
from farfield.weights.extrapolate import plan_extrapolation
base, tuned, out, alpha, sync = sys.argv[1:]
anonymous = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon"))
start = time.perf_counter()
execute(plan_extrapolation(base, tuned, float(alpha)), out, sync=sync == "sync")
print(json.dumps({"wall_s": time.perf_counter() - start, "before_kib": anonymous}))
"""


def llama(layers: int, hidden: int, mlp: int, vocabulary: int) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Tensors of a Llama and its configuration."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {f"{at}self_attn.{p}_proj.weight": (hidden, hidden) for p in "qkvo"}
        shapes |= {f"{at}mlp.{p}_proj.weight": (mlp, hidden) for p in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (hidden, mlp)}
        shapes |= {f"{at}{n}_layernorm.weight": (hidden,) for n in ("input", "post_attention")}
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    return shapes, config


def generate(folder: Path, layers: int, hidden: int, mlp: int, vocabulary: int, shards: int) -> tuple[Path, Path]:
    """A base N(0, 0.02^2) and a tuned model 0.0006 N(0, 1) from it, bfloat16; values repeat after 4 M, at shifting places."""
    shapes, config = llama(layers, hidden, mlp, vocabulary)
    rng = np.random.default_rng(0)
    base = formats.round_to(rng.normal(0, 0.02, 1 << 22), "BF16")
    pools = {"base": base, "tuned": formats.round_to(formats.widen(base, "BF16") + rng.normal(0, 6e-4, 1 << 22), "BF16")}
    total, target = sum(int(np.prod(s)) for s in shapes.values()), 0
    parts: list[list[tuple[str, str, tuple[int, ...]]]] = [[] for _ in range(shards)]
    for name, shape in shapes.items():
        parts[min(shards - 1, target * shards // total)].append((name, "BF16", shape))
        target += int(np.prod(shape))
    names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)] if shards > 1 else ["model.safetensors"]
    layout = list(zip(names, parts, strict=True))
    for label, pool in pools.items():
        side = {"config.json": json.dumps(config).encode()}
        with CheckpointWriter(folder / label, layout, side_files=side, sync=False) as writer:
            for k, (name, shape) in enumerate(shapes.items()):
                size, shift = int(np.prod(shape)), 4099 * k
                for start in range(0, size, 1 << 21):
                    n, at = min(1 << 21, size - start), (shift + start) % (1 << 21)
                    writer.write(name, start, pool[at : at + n])
            writer.finish()
    return folder / "base", folder / "tuned"


def watched(command: Sequence[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a command: its output, CPU seconds, wall seconds, and the peak of its anonymous memory."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))])
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    done.set()
    thread.join()
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}:\n{output[-2000:]}")
    return {"output": output, "cpu_s": usage.ru_utime + usage.ru_stime, "wall_s": time.perf_counter() - start, "peak_kib": peak}


def ours(base: Path, tuned: Path, out: Path, alpha: float, sync: bool = False) -> dict[str, Any]:
    os.sync()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", OURS, str(base), str(tuned), str(out), str(alpha), "sync" if sync else "no"]
    seen = watched(command, environment)
    return seen | json.loads(seen["output"].splitlines()[-1])


def copy(base: Path, tuned: Path, out: Path) -> dict[str, Any]:
    os.sync()
    script = 'cat "$1"/*.safetensors > /dev/null; cp -r "$2" "$3"'
    return watched(["sh", "-c", script, "sh", str(base), str(tuned), str(out)])


def mergekit(program: Path, base: Path, tuned: Path, out: Path, alpha: float) -> dict[str, Any]:
    os.sync()
    recipe = out.with_suffix(".yaml")
    recipe.write_text(
        f"merge_method: linear\nmodels:\n  - model: {tuned}\n    parameters: {{weight: {1 + alpha}}}\n"
        f"  - model: {base}\n    parameters: {{weight: {-alpha}}}\n"
        "parameters:\n  normalize: false\ndtype: bfloat16\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return watched([str(program), str(recipe), str(out), "--no-write-model-card", "--no-copy-tokenizer"], environment)


def check_exact(base: Path, tuned: Path, out: Path, alpha: float, elements: int) -> int:
    """Compare elements of several tensors with rationals; the number compared."""
    compared = 0
    with Checkpoint.open(base) as a, Checkpoint.open(tuned) as b, Checkpoint.open(out) as c:
        for name in list(a.tensors)[:: max(1, len(a.tensors) // 8)]:
            stop = min(a.tensors[name].size, elements)
            values = zip(b.read_float64(name, 0, stop), a.read_float64(name, 0, stop), c.read(name, 0, stop), strict=True)
            for t, s, got in values:
                exact = Fraction(t) + Fraction(alpha) * (Fraction(t) - Fraction(s))
                magnitude = int(got) & 0x7FFF
                near = [m for m in (magnitude - 1, magnitude, magnitude + 1) if m >= 0]
                numbers = [Fraction(v) for v in formats.widen(np.array(near, "<u2"), "BF16").tolist()]
                # the nearest, of two as near the even one
                best = min(zip(numbers, near, strict=True), key=lambda n: (abs(n[0] - abs(exact)), n[1] & 1))[1]
                if best != magnitude or (exact != 0 and (exact < 0) != bool(got >> 15)):
                    raise SystemExit(f"{name}: {t} and {s} gave the bits {got:#x}, which is not {float(exact)} rounded once")
            compared += stop
    return compared


def accuracy(program: Path, folder: Path) -> list[dict[str, float]]:
    """Share of elements that mergekit's real output rounds wrongly, and its error relative to the step, on a small pair."""
    base, tuned = generate(folder, layers=1, hidden=256, mlp=512, vocabulary=1000, shards=1)
    rows = []
    for alpha in (0.3, 0.5, 2.0):
        out = folder / f"theirs-{alpha}"
        mergekit(program, base, tuned, out, alpha)
        wrong = total = 0
        error = step = exact_error = 0.0
        terms = Linear((-alpha,)).terms(None)
        with Checkpoint.open(base) as a, Checkpoint.open(tuned) as b, Checkpoint.open(out) as c:
            for name in a.tensors:
                x, y = b.read_float64(name), a.read_float64(name)
                value = x + alpha * (x - y)
                right = round_combination(value, [x, y], terms, "BF16", "BF16")
                got = c.read(name)
                wrong, total = wrong + int(np.sum(got != right)), total + got.size
                error += float(np.sum((formats.widen(got, "BF16") - value) ** 2))
                exact_error += float(np.sum((formats.widen(right, "BF16") - value) ** 2))
                step += float(np.sum((alpha * (x - y)) ** 2))
        rows.append(
            {
                "alpha": alpha,
                "wrongly_rounded": wrong / total,
                "error": (error / step) ** 0.5,
                "error_rounded_once": (exact_error / step) ** 0.5,
            }
        )
    return rows


def measure(layers: int, rounds: int, program: Path | None, scratch: Path) -> dict[str, Any]:
    base, tuned = generate(scratch / "pair", layers, 2048, 5632, 32000, 4)
    gigabytes = sum(f.stat().st_size for f in base.iterdir()) / 1e9
    seen: dict[str, list[dict[str, Any]]] = {"copy": [], "ours": [], "ours_long": [], "ours_synced": [], "mergekit": []}
    compared = 0
    for i in range(rounds):
        turns = [("copy", lambda o: copy(base, tuned, o)), ("ours", lambda o: ours(base, tuned, o, 0.5))]
        turns += [("ours_long", lambda o: ours(base, tuned, o, 0.3))]
        turns += [("ours_synced", lambda o: ours(base, tuned, o, 0.5, sync=True))] if i == 0 else []
        turns += [("mergekit", lambda o: mergekit(program, base, tuned, o, 0.5))] if program is not None and i < 2 else []
        for name, run in turns:
            out = scratch / name
            seen[name].append(run(out))
            if name in ("ours", "ours_long") and i == 0:
                compared += check_exact(base, tuned, out, 0.5 if name == "ours" else 0.3, 4000)
            shutil.rmtree(out)

    def median(name: str, key: str) -> float:
        return statistics.median(r[key] for r in seen[name])

    row: dict[str, Any] = {
        "name": "weights_expo",
        "gb_a_side": gigabytes,
        "rounds": rounds,
        "elements_checked": compared,
        "copy_wall_s": median("copy", "wall_s"),
        "ours_wall_s": median("ours", "wall_s"),
        "ours_synced_wall_s": median("ours_synced", "wall_s"),
        "ours_cpu_s": median("ours", "cpu_s"),
        "ours_long_wall_s": median("ours_long", "wall_s"),
        "ours_long_cpu_s": median("ours_long", "cpu_s"),
        "ours_peak_mib": max(r["peak_kib"] for r in seen["ours"]) / 1024,
        "growth_mib": max(r["peak_kib"] - r["before_kib"] for r in seen["ours"] + seen["ours_long"]) / 1024,
        "wall_ratio_of_fastest": min(r["wall_s"] for r in seen["ours"]) / min(r["wall_s"] for r in seen["copy"]),
        "wall_ratio": statistics.median(o["wall_s"] / c["wall_s"] for o, c in zip(seen["ours"], seen["copy"], strict=True)),
        "compiled": compiled.library() is not None,
        "wanted": WANTED,
        "versions": {"python": platform.python_version(), "farfield": __version__, "numpy": version("numpy")},
    }
    if program is not None:
        row |= {
            "mergekit_wall_s": median("mergekit", "wall_s"),
            "mergekit_cpu_s": median("mergekit", "cpu_s"),
            "mergekit_peak_mib": median("mergekit", "peak_kib") / 1024,
        }
        row["cpu_ratio"] = row["mergekit_cpu_s"] / row["ours_cpu_s"]
        row["cpu_ratio_long"] = row["mergekit_cpu_s"] / row["ours_long_cpu_s"]
        row["memory_ratio"] = row["mergekit_peak_mib"] / row["ours_peak_mib"]
        shutil.rmtree(scratch / "pair")
        row["mergekit_accuracy"] = accuracy(program, scratch / "small")
        python = program.with_name("python")
        query = "from importlib.metadata import version as v; print(v('mergekit'), v('torch'))"
        found = subprocess.run([str(python), "-c", query], capture_output=True, text=True, check=True).stdout.split()
        row["versions"] |= {"mergekit": found[0], "torch": found[1]}
    return row


def met(row: dict[str, Any]) -> dict[str, bool]:
    """Which of the bars the row reaches; those of mergekit only where it was run."""
    least = {"cpu_ratio", "memory_ratio"}
    return {k: row[k] >= w if k in least else row[k] <= w for k, w in WANTED.items() if k in row}


def keep(row: dict[str, Any], output: Path) -> int:
    """Print the row and add it to those in the file; the exit code, 1 where a bar is missed."""
    rows = json.loads(output.read_text()) if output.exists() else []
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, (json.dumps([*rows, row], indent=2) + "\n").encode())
    print(json.dumps(row, indent=2))
    return 0 if all(row["met"].values()) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=8, help="8 make 1.08 GB a side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mergekit", type=Path, help="the mergekit-yaml program of an environment that has it")
    parser.add_argument("--scratch", type=Path, help="a directory on a disk with 5 GB free")
    parser.add_argument("-o", "--output", default="results/bench_weights_expo.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        (Path(scratch) / "pair").mkdir()
        (Path(scratch) / "small").mkdir()
        row = measure(arguments.layers, arguments.rounds, arguments.mergekit, Path(scratch))
    row["met"] = met(row)
    return keep(row, Path(arguments.output))


if __name__ == "__main__":
    sys.exit(main())
