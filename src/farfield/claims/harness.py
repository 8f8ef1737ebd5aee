"""Runs claims: every seed in its own process, a few at a time, with limits; finished seeds are kept and not run twice.

Seeds are kept under the cache folder as ``P018/full/seed-0.json`` beside their log. One is used again only if farfield's version,
Python, the versions of the numerical packages and the SHA-256 of every source file it loaded are those it was run with.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farfield import __version__, processors
from farfield.claims import worker
from farfield.claims.sources import ClaimSource
from farfield.files import write_atomic

SECONDS = {"tiny": 120.0, "full": 900.0}  # a seed
MEMORY_GIB = 4.0
THREADS = 1  # of every numerical library in a seed's process: the same numbers whatever else the machine does


@dataclass(frozen=True)
class Limits:
    """What one seed may use: wall-clock seconds (None: as the budget has it in `SECONDS`) and memory in GiB."""

    seconds: float | None = None
    memory: float = MEMORY_GIB


@dataclass(frozen=True)
class Seed:
    """One seed of a claim, done: `measured` (plain values) or `error`; `unavailable` where the machine lacks what it needs."""

    seed: int
    seconds: float
    measured: dict[str, Any] | None = None
    error: str | None = None
    unavailable: bool = False
    cached: bool = False
    versions: dict[str, str] = field(default_factory=dict)


@dataclass
class Run:
    """One claim with the seeds done so far, in order of their number."""

    claim: ClaimSource
    budget: str
    wanted: int
    seeds: list[Seed] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every seed is done, or one of them already tells that the claim cannot be run."""
        return len(self.seeds) == self.wanted or any(s.error for s in self.seeds)


@dataclass
class _Process:
    run: Run
    seed: int
    popen: subprocess.Popen[bytes]
    folder: Path
    started: float
    deadline: float
    limits: Limits


def run_claims(
    claims: Sequence[ClaimSource],
    *,
    budget: str,
    seeds: int,
    jobs: int,
    cache: Path,
    limits: Limits | None = None,
    fresh: bool = False,
    report: Callable[[Run, Seed | None], None] = lambda run, seed: None,
) -> Generator[Run, None, None]:
    """Run `claims`, yielding each as its last seed is done.

    `report` is called with every seed that is done, and with None when one starts. A seed that fails ends its claim: the others
    are stopped. On KeyboardInterrupt, or when the iterator is closed, all processes are killed; what was finished is kept.
    """
    limits = limits or Limits()
    waiting: list[tuple[Run, int]] = []
    running: list[_Process] = []
    done: set[str] = set()
    try:
        for claim in claims:
            run = Run(claim, budget, seeds)
            if claim.module is None or claim.problem or claim.unavailable:
                yield run
                continue
            for seed in range(seeds):
                kept = None if fresh else _cached(run, seed, cache)
                if kept is None:
                    waiting.append((run, seed))
                else:
                    run.seeds.append(kept)
                    report(run, kept)
            if run.complete:
                yield run
        while waiting or running:
            while waiting and len(running) < jobs:
                run, seed = waiting.pop(0)
                report(run, None)
                running.append(_start(run, seed, cache, limits))
            time.sleep(0.02)
            for process in list(running):
                outcome = _poll(process)
                if outcome is None:
                    continue
                running.remove(process)
                run = process.run
                if run.claim.id in done:
                    continue
                run.seeds = sorted([*run.seeds, outcome], key=lambda s: s.seed)
                report(run, outcome)
                if run.complete:
                    done.add(run.claim.id)
                    waiting = [w for w in waiting if w[0] is not run]
                    for other in [p for p in running if p.run is run]:
                        _kill(other)
                    yield run
    finally:
        for process in running:
            _kill(process)


def _folder(claim: ClaimSource, budget: str, cache: Path) -> Path:
    return cache / claim.id / budget


def _cached(run: Run, seed: int, cache: Path) -> Seed | None:
    """The seed as it was run before, if nothing it depends on has changed since."""
    path = _folder(run.claim, run.budget, cache) / f"seed-{seed}.json"
    try:
        kept = json.loads(path.read_bytes())
        module = str(run.claim.module.resolve()) if run.claim.module else ""
        same = (
            "measured" in kept
            and module in kept["sources"]
            and kept["version"] == __version__
            and kept["python"] == platform.python_version()
            and all(_digest(Path(f)) == sha for f, sha in kept["sources"].items())
            and all(_version_of(name) == version for name, version in kept["versions"].items())
        )
        return _done(seed, kept, cached=True) if same else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no such file, or not one of ours: run it
        return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _version_of(module: str) -> str | None:
    if module not in worker.REPORTED:  # what a file names is not imported
        return None
    from importlib import metadata

    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version({"sklearn": "scikit-learn"}.get(module, module))
    return str(getattr(importlib.import_module(module), "__version__", None))


def _start(run: Run, seed: int, cache: Path, limits: Limits) -> _Process:
    folder = _folder(run.claim, run.budget, cache)
    folder.mkdir(parents=True, exist_ok=True)
    answer, log, request = (folder / f"seed-{seed}.{end}" for end in ("json", "log", "request"))
    answer.unlink(missing_ok=True)
    seconds = limits.seconds if limits.seconds is not None else SECONDS[run.budget]
    write_atomic(
        request,
        json.dumps(
            {
                "module": str(run.claim.module.resolve() if run.claim.module else ""),
                "budget": run.budget,
                "seed": seed,
                "memory": int(limits.memory * 2**30),
                "out": str(answer.resolve()),
            }
        ).encode(),
    )
    environment = {
        **os.environ,
        **dict.fromkeys(processors.THREAD_VARIABLES, str(THREADS)),
        "PYTHONHASHSEED": "0",
        "MPLBACKEND": "Agg",
    }
    with log.open("wb") as sink:
        popen = subprocess.Popen(
            [sys.executable, "-m", worker.__name__, str(request.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # its own process group, so that what it starts is killed with it
        )
    now = time.monotonic()
    return _Process(run, seed, popen, folder, now, now + seconds, limits)


def _poll(process: _Process) -> Seed | None:
    """The seed once its process ended or ran past its time, else None."""
    code = process.popen.poll()
    seconds = time.monotonic() - process.started
    if code is None:
        if time.monotonic() < process.deadline:
            return None
        _kill(process)
        limit = process.deadline - process.started
        return Seed(process.seed, seconds, error=f"ran past its time limit of {limit:g} s")
    _kill(process)  # children it left behind
    path = process.folder / f"seed-{process.seed}.json"
    try:
        answer = json.loads(path.read_bytes())
    except FileNotFoundError:
        how = f"killed by {_signal(-code)}" if code < 0 else f"exit code {code}"
        return Seed(process.seed, seconds, error=f"its process ended without an answer ({how}){_last_line(process)}")
    except ValueError:
        return Seed(process.seed, seconds, error="its answer is not JSON")
    answer["version"] = __version__
    write_atomic(path, json.dumps(answer).encode())
    return _done(process.seed, answer)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _done(seed: int, answer: dict[str, Any], cached: bool = False) -> Seed:
    return Seed(
        seed,
        answer["seconds"],
        answer.get("measured"),
        answer.get("error"),
        answer.get("kind") == "unavailable",
        cached,
        {"python": answer["python"], **answer["versions"]},
    )


def _last_line(process: _Process) -> str:
    lines = (process.folder / f"seed-{process.seed}.log").read_bytes()[-2000:].decode(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return f": {said[-1][:160]}" if said else ""


def _kill(process: _Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.popen.pid, signal.SIGKILL)
    process.popen.wait()
