"""The learning-curve networks against the paper's figures, single forms, `auto` without them, and the published layers.

    python benchmarks/lc_pfn.py prior                      likelihood on the paper's prior, beside its table 3
    FARFIELD_DATA=... python benchmarks/lc_pfn.py real     the wide network on LCDB, TaskSet, Gemstones and the example runs
    python benchmarks/lc_pfn.py speed                      a curve and a batch of the shipped network, in CPU seconds of one thread
    python benchmarks/lc_pfn.py published                  the published network: its own layers in torch against ours, same weights
    python benchmarks/lc_pfn.py onnx                       the wide and the published network in ONNX Runtime against NumPy
    python benchmarks/lc_pfn.py partitions                 100,000 curves of 50 points, 10 asked each, Parquet to Parquet, two cores

`published` needs lcpfn 0.1.3 (pip install --no-deps lcpfn==0.1.3, beside torch); `onnx` needs torch, onnx and onnxruntime.

`real` scores the network as it is, before any other run calibrates it, against each single form and the last value, and `auto`
with the network among its members against `auto` without. Cuts, groups and folds are those of forecast_accuracy.py. Rows go to
results/bench_lc_pfn.json.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from forecast_accuracy import HERE, gemstones_curves, held_out, lcdb_curves, mean, measure, ratio, taskset_curves

import farfield as ff
from farfield.curves.forecaster import EnsembleForecaster
from farfield.curves.pfn import LCPFN, between
from farfield.curves.pfn.published import PublishedNetwork
from farfield.curves.pfn.scoring import score_on_prior
from farfield.intervals import interval_score

# LC-PFN, table 3: log-likelihood at 10, 20, 40 and 80 %
PAPER = {
    "P1, 0.7 M": (1.58, 1.99, 2.28, 2.43), "P2, 2.2 M": (1.65, 2.04, 2.35, 2.49), "P3, 27 M": (1.76, 2.13, 2.40, 2.52),
    "MCMC M3": (1.64, 1.96, 2.29, 2.49),
}  # fmt: skip
FORMS = ("last", "pow3", "exp3", "exp4", "mmf", "ilog2", "loglin")


def prior() -> dict[str, object]:
    out: dict[str, object] = {"paper": PAPER}
    for name in ("domhan", "wide"):
        model = LCPFN.load(name)
        scores = score_on_prior(model, name, n=1000, rng=2024)
        out[name] = {
            "parameters": model.card["parameters"], "curves": model.card["curves"],
            "log_likelihood": [round(s.log_likelihood, 4) for s in scores],
            "standard_error": [round(s.standard_error, 4) for s in scores],
            "coverage80": [round(s.coverage_80, 4) for s in scores],
        }  # fmt: skip
    return out


# -- real curves --------------------------------------------------------------------------------------------------------------


def lcdb() -> list[tuple[ff.Curves, ff.Curves, np.ndarray]]:
    whole = lcdb_curves()
    groups = np.array([int(g) for g in whole.column("group")])
    # one data set in four: enough to tell, and a quarter of the hours
    whole = whole.take(np.isin(groups, np.unique(groups)[::4]))
    return [(whole, whole.upto(0.25 * whole.last_x), whole.last_x)]


def taskset() -> list[tuple[ff.Curves, ff.Curves, np.ndarray]]:
    out = []
    for cut in (5, 10, 20, 40):
        whole = taskset_curves(cut)
        whole = whole.take(np.arange(0, len(whole), 10))
        out.append((whole, whole.upto(float(cut)), whole.last_x))
    return out


def gemstones() -> list[tuple[ff.Curves, ff.Curves, np.ndarray]]:
    whole = gemstones_curves()
    return [(whole, whole.upto(share * whole.last_x), whole.last_x) for share in (0.2, 0.3, 0.5)]


def examples() -> list[tuple[ff.Curves, ff.Curves, np.ndarray]]:
    whole = ff.read_runs(HERE / "examples" / "runs", metric="val_loss")
    whole = whole.take(whole.column("status").to_numpy() == "finished")
    return [(whole, whole.upto(share * whole.last_x), whole.last_x) for share in (0.3, 0.5, 0.7)]


def real() -> dict[str, object]:
    net = LCPFN.load("wide")
    out: dict[str, object] = {}
    for name, make in {"lcdb": lcdb, "taskset": taskset, "gemstones": gemstones, "examples": examples}.items():
        likelihood: dict[str, list[np.ndarray]] = {}
        square: dict[str, list[np.ndarray]] = {}
        scores: dict[str, list[np.ndarray]] = {"auto": [], "auto with network": []}
        covered: list[np.ndarray] = []
        groups: list[np.ndarray] = []
        for whole, seen, at in make():
            truth = whole.last_y
            names = np.array([g if g is not None else r for g, r in zip(whole.column("group"), whole.runs, strict=True)])
            code = np.unique(names, return_inverse=True)[1]
            groups.append(names)
            found = net.forecast(seen, at[:, None])
            for form in FORMS:
                predictive = EnsembleForecaster((form,)).predict(seen, at[:, None])
                likelihood.setdefault(form, []).append(predictive.log_prob(truth[:, None])[:, 0])
                square.setdefault(form, []).append((predictive.median()[:, 0] - truth) ** 2)
            likelihood.setdefault("network", []).append(found.log_prob(truth[:, None])[:, 0])
            square.setdefault("network", []).append((found.median()[:, 0] - truth) ** 2)
            low, high = found.interval(0.8)
            covered.append(((truth >= low[:, 0]) & (truth <= high[:, 0])).astype(float))
            for label, method in (("auto", "forms"), ("auto with network", "auto")):
                q = held_out(seen, whole, at, code % 5, method)
                scores[label].append(interval_score(q[0], q[2], truth, 0.8))
        joined = np.concatenate(groups)
        out[name] = {
            "forecasts": int(joined.size),
            "log_likelihood": {k: mean(np.concatenate(v), joined) for k, v in likelihood.items()},
            "median_log_likelihood": {k: float(np.median(np.concatenate(v))) for k, v in likelihood.items()},
            "network_squared_error_over_last": ratio(
                np.concatenate(square["network"]), np.concatenate(square["last"]), joined
            ),
            "network_coverage80": mean(np.concatenate(covered), joined),
            "interval_score_with_over_without_network": ratio(
                np.concatenate(scores["auto with network"]), np.concatenate(scores["auto"]), joined
            ),
        }  # fmt: skip
        print(name, json.dumps(out[name], indent=1), flush=True)
    return out


# -- speed --------------------------------------------------------------------------------------------------------------------


def seconds(call: object, times: int) -> float:
    """CPU seconds of one call: the median of `times`."""
    taken = []
    for _ in range(times):
        started = time.process_time()
        call()  # type: ignore[operator]
        taken.append(time.process_time() - started)
    return float(np.median(taken))


def speed() -> dict[str, object]:
    """The shipped network in NumPy: one curve of 20 points asked at 80 more, a batch of 64, and their share of the peak."""
    model = LCPFN.load("domhan")
    rng = np.random.default_rng(0)
    x = np.tile(np.arange(1.0, 21.0), (64, 1))
    y = np.sort(rng.random((64, 20)), axis=1)
    at = np.arange(21.0, 101.0)
    arch = model.engine.arch
    tokens = 100
    # asked tokens have no keys and values
    flops = 2 * arch.layers * (20 * 8 + 80 * 6) * arch.width**2
    flops += 2 * (20 * arch.context_inputs + 80 * arch.asked_inputs + tokens * arch.width) * arch.width
    flops += 2 * 80 * arch.hidden * (arch.width + arch.outputs) + 2 * tokens * arch.width * arch.pointers * arch.pointer_width
    a, b = rng.random((6400, 128), dtype=np.float32), rng.random((128, 256), dtype=np.float32)
    rate = 2 * a.size * 256 / seconds(lambda: a @ b, 41)
    one, many = seconds(lambda: model.predict(x[:1], y[:1], at), 41), seconds(lambda: model.predict(x, y, at), 11) / 64
    return {
        "one_curve_ms": one * 1e3, "batch_64_ms_a_curve": many * 1e3, "matrix_product_gflops": rate / 1e9,
        "share_of_matrix_product_rate_at_64": flops / many / rate,
    }  # fmt: skip


def published() -> dict[str, object]:
    """The layers of lcpfn 0.1.3 in torch and ours in NumPy with the same random weights: 20 points seen, 80 asked."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    # what the package imported from torch's transformer module before torch moved it, and an argument torch now passes
    from torch.nn.modules import transformer

    for kind in (nn.MultiheadAttention, nn.Linear, nn.LayerNorm, nn.Dropout):
        setattr(transformer, kind.__name__, kind)
    if "MultiheadAttention" not in transformer.__all__:
        transformer.__all__ += ["MultiheadAttention", "Linear", "LayerNorm", "Dropout"]
    from lcpfn import encoders, layer
    from lcpfn.transformer import TransformerModel

    forward = layer.TransformerEncoderLayer.forward
    layer.TransformerEncoderLayer.forward = lambda self, src, src_mask=None, src_key_padding_mask=None, is_causal=None: forward(
        self, src, src_mask, src_key_padding_mask
    )
    out: dict[str, object] = {}
    rng = np.random.default_rng(0)
    for size, width, layers in (("P1", 128, 3), ("P2", 256, 3)):
        torch.manual_seed(0)
        encoder = nn.Sequential(encoders.Normalize(0.0, 101.0), encoders.Normalize(0.5, np.sqrt(1 / 12)), encoders.Linear(1, width))
        values = encoders.get_normalized_uniform_encoder(encoders.Linear)(1, width)
        theirs = TransformerModel(
            encoder, 1000, width, width // 128, 2 * width, layers, 0.0, y_encoder=values
        ).eval()  # fmt: skip
        with torch.no_grad():
            for p in theirs.parameters():
                p.add_(0.05 * torch.randn_like(p))
        ours = PublishedNetwork.of({k: v.numpy() for k, v in theirs.state_dict().items()}, np.linspace(0, 1, 1001))
        row: dict[str, object] = {"parameters": sum(p.numel() for p in theirs.parameters())}
        for n in (1, 64):
            x, at = np.tile(np.arange(1.0, 21.0), (n, 1)), np.tile(np.arange(21.0, 101.0), (n, 1))
            y = np.sort(rng.random((n, 20)), axis=1)
            given = (
                torch.tensor(np.concatenate([x, at], axis=1).T[:, :, None], dtype=torch.float32),
                torch.tensor(np.concatenate([y, 0 * at], axis=1).T, dtype=torch.float32),
            )

            def call(given: tuple[object, ...] = given, theirs: object = theirs) -> object:
                with torch.no_grad():
                    return theirs(given, single_eval_pos=20)  # type: ignore[operator]

            difference = float(np.abs(call().numpy().transpose(1, 0, 2) - ours.logits(x, y, at)).max())  # type: ignore[attr-defined]
            assert difference < 1e-5 * 10, difference
            pairs = [
                (seconds(call, 5), seconds(lambda x=x, y=y, at=at, ours=ours: ours.logits(x, y, at), 5))
                for _ in range(7 if n > 1 else 21)
            ]
            a, b = np.array(pairs).T
            row[f"{n} curves"] = {
                "lcpfn_ms_a_curve": float(np.median(a)) / n * 1e3, "ours_ms_a_curve": float(np.median(b)) / n * 1e3,
                "ratio": float(np.median(a / b)), "largest_difference_of_logits": difference,
            }  # fmt: skip
        # what is done: the first layer's queries, keys and values and the last one's seen tokens cost nothing; with one head
        # keys are the tokens and values carry the output map
        squares = 400 + 600 * (layers - 2) + 500 if width == 128 else 500 + 800 * (layers - 2) + 680
        flops = 2 * (squares * width**2 + 80 * (2 * width**2 + 2 * width * 1000))
        p, q = rng.random((6400, width), dtype=np.float32), rng.random((width, 2 * width), dtype=np.float32)
        rate = 2 * p.size * q.shape[1] / seconds(lambda p=p, q=q: p @ q, 41)
        row["matrix_product_gflops"] = rate / 1e9
        row["share_of_matrix_product_rate_at_64"] = flops / (row["64 curves"]["ours_ms_a_curve"] / 1e3) / rate  # type: ignore[index]
        out[size] = row
    return out


def onnx() -> dict[str, object]:
    """Start, one curve and a batch of 64, and what is installed: ONNX Runtime and NumPy, one thread, same weights and inputs."""
    import importlib.util
    import subprocess
    import tempfile

    missing = [m for m in ("torch", "onnx", "onnxruntime") if importlib.util.find_spec(m) is None]
    if missing:
        print(f"skipped: {', '.join(missing)} not installed", file=sys.stderr)
        return {"skipped": f"{', '.join(missing)} not installed"}
    import onnxruntime
    import torch
    from onnx_layers import PublishedLayers, random_state
    from safetensors.numpy import load_file

    from farfield.curves.pfn.model import WEIGHTS
    from farfield.curves.pfn.network import Network
    from farfield.curves.pfn.training import inputs

    model = LCPFN.load("wide")
    network = Network(model.engine.arch)
    weights = load_file(WEIGHTS / "wide.safetensors")
    network.load_state_dict({k: torch.tensor(v.astype(np.float32)) for k, v in weights.items()})
    state = random_state()
    ours_published, theirs_published = PublishedNetwork.of(state, np.linspace(0, 1, 1001)), PublishedLayers(state)
    rng = np.random.default_rng(0)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    out: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:

        def session(name: str, module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> onnxruntime.InferenceSession:
            names = [f"in{i}" for i in range(len(given))]
            path = f"{folder}/{name}.onnx"
            free = {k: {0: "n", **({1: f"{k}_1"} if t.ndim > 1 else {})} for k, t in zip(names, given, strict=True)}
            torch.onnx.export(module.eval(), given, path, input_names=names, dynamic_axes=free, dynamo=False, opset_version=17)
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def answer(run: onnxruntime.InferenceSession, given: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
            return run.run(None, {f"in{i}": t.numpy() for i, t in enumerate(given)})

        sessions: dict[str, onnxruntime.InferenceSession] = {}
        for n in (3, 1, 64):
            x, at = np.tile(np.arange(1.0, 21.0), (n, 1)), np.tile(np.arange(21.0, 101.0), (n, 1))
            y, cut, horizon = np.sort(rng.random((n, 20)), axis=1), np.full((n, 80), 20), np.full(n, np.nan)
            whole_x, whole_y = np.concatenate([x, at], axis=1), np.concatenate([y, np.full(at.shape, np.nan)], axis=1)

            def wide_inputs(x=whole_x, y=whole_y, cut=cut, at=at, h=horizon) -> tuple[torch.Tensor, ...]:  # type: ignore[no-untyped-def]
                return inputs(x, y, cut, at, h, model.engine.arch)

            def published_inputs(x=x, y=y, at=at) -> tuple[torch.Tensor, ...]:  # type: ignore[no-untyped-def]
                return tuple(torch.tensor(v, dtype=torch.float32) for v in (x, y, at))

            cases = {
                "wide": (network, wide_inputs, lambda: model.engine(x, y, cut, at, horizon)),  # noqa: B023  # called in this turn
                "published": (theirs_published, published_inputs, lambda: ours_published.logits(x, y, at)),  # noqa: B023
            }
            for name, (module, given, ours) in cases.items():
                if name not in sessions:
                    # exported with three curves: shapes of one would be taken for constants
                    sessions[name] = session(name, module, given())
                if n == 3:
                    continue
                run = sessions[name]
                theirs = answer(run, given())
                theirs[0] = np.exp(theirs[0]) if name == "wide" else theirs[0]
                mine = ours() if name == "wide" else (ours(),)
                difference = max(float(np.abs(a - b).max()) for a, b in zip(mine, theirs, strict=True))
                assert difference < 1e-4, difference
                pairs = [(seconds(lambda: answer(run, given()), 5), seconds(ours, 5)) for _ in range(7 if n > 1 else 21)]  # noqa: B023
                a, b = np.array(pairs).T
                out[f"{name}, {n} curves"] = {
                    "onnxruntime_ms_a_curve": float(np.median(a)) / n * 1e3, "numpy_ms_a_curve": float(np.median(b)) / n * 1e3,
                    "ratio": float(np.median(a / b)), "largest_difference": difference,
                }  # fmt: skip
        load = {
            "numpy alone": "import numpy",
            "onnxruntime": f"import onnxruntime; onnxruntime.InferenceSession({folder + '/wide.onnx'!r})",
            "farfield": "from farfield.curves.pfn import LCPFN; LCPFN.load('wide')",
        }
        load["farfield and onnxruntime"] = f"{load['farfield']}; {load['onnxruntime']}"
        taken: dict[str, list[float]] = {name: [] for name in load}
        for _ in range(5):
            for name, code in load.items():
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run([sys.executable, "-c", code], check=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                taken[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        out["start_cpu_s"] = {name: float(np.median(v)) for name, v in taken.items()}
        out["model_mb"] = {
            "onnx": Path(f"{folder}/wide.onnx").stat().st_size / 1e6,
            "safetensors": (WEIGHTS / "wide.safetensors").stat().st_size / 1e6,
        }
    package = Path(onnxruntime.__file__).parent
    out["installed_mb"] = {
        "onnxruntime": sum(p.stat().st_size for p in package.rglob("*") if p.is_file()) / 1e6,
        "numpy engine": sum(
            len(Path(HERE / f"src/farfield/curves/pfn/{n}.py").read_bytes()) for n in ("engine", "published", "between")
        )
        / 1e6,
    }
    out["versions"] = {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__}
    return out


def partitions() -> dict[str, object]:
    """Wall and CPU seconds of `farfield forecast in/*.parquet --method lcpfn -o out/` on 20 files of 5,000 curves."""
    import subprocess
    import tempfile

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        steps = np.arange(1, 51)
        for k in range(20):
            y = rng.uniform(0.2, 2, (5000, 1)) + rng.uniform(0.5, 3, (5000, 1)) * steps ** -rng.uniform(0.2, 1.2, (5000, 1))
            y += 0.01 * rng.normal(size=y.shape)
            run = np.repeat([f"{k}-{i}" for i in range(5000)], 50)
            frame = pl.DataFrame({"run": run, "step": np.tile(steps, 5000), "val_loss": y.ravel()})
            frame.write_parquet(f"{folder}/in/{k:02}.parquet")
        files = sorted(str(p) for p in (Path(folder) / "in").iterdir())
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        command = [sys.executable, "-m", "farfield", "forecast", *files, "--metric", "val_loss", "--by", "2x", "--method", "lcpfn"]
        subprocess.run([*command, "--jobs", "2", "-o", f"{folder}/out/"], check=True)
        wall = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        rows = sum(pl.read_parquet(p).height for p in (Path(folder) / "out").glob("*.parquet"))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"curves": 100_000, "rows": rows, "wall_s": wall, "cpu_s": cpu}


if __name__ == "__main__":
    if between.library() is None:
        raise SystemExit("the inner loops are not compiled: install farfield again where there is a C compiler")
    parts = {"prior": prior, "real": real, "speed": speed, "published": published, "onnx": onnx, "partitions": partitions}
    measure("lc_pfn", parts, ["prior", "real", "speed", "partitions"])
