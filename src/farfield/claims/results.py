"""The results file of a claim: from finished seeds to a verdict, ``results/P018.json``, and comparing one set with another."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from farfield import __version__
from farfield.claims.criteria import Criterion
from farfield.claims.harness import THREADS, Run
from farfield.claims.sources import ClaimSource
from farfield.claims.verdict import Decision, Verdict, combine, decide, decide_ablation
from farfield.claims.worker import decode_value
from farfield.errors import InputError
from farfield.files import write_atomic

_ALONE = ("bound", "trend")  # kinds that are not held against another side


def build(run: Run) -> dict[str, Any]:
    """The result of a claim as plain values, as it is written: verdict, protocol, and everything the verdict was made from."""
    claim = run.claim
    reason = not_run(run)
    rows: list[dict[str, Any]] = []
    verdict = Verdict.NOT_RUN
    if reason is None:
        try:
            verdict, reason, rows = _decided(claim, [s.measured for s in run.seeds if s.measured is not None])
        except InputError as error:
            reason = str(error)
    first = next((s.measured for s in run.seeds if s.measured), {})
    return {
        "id": claim.id,
        "title": claim.title,
        "statement": claim.statement,
        "verdict": verdict.value,
        "reason": reason,
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "budget": run.budget,
        "seeds": [s.seed for s in run.seeds if s.measured is not None],
        "command": f"farfield claims run {claim.id} --budget {run.budget} --seeds {run.wanted}",
        "seconds": [s.seconds for s in run.seeds],
        "threads": THREADS,
        "versions": next((s.versions for s in run.seeds if s.versions), {}),
        "protocol": {"criteria": [c.to_dict() for c in claim.criteria], "no_ablation": claim.no_ablation},
        "criteria": rows,
        "units": first.get("units", []),
        "notes": first.get("notes", {}),
        "axes": first.get("axes", ["", ""]),
        "curves": first.get("curves", []),
    }


def not_run(run: Run) -> str | None:
    """Why this claim has no verdict, or None where its seeds are all there."""
    claim = run.claim
    blocked = claim.problem or claim.unavailable
    if blocked or claim.module is None:
        return blocked or "no program yet"
    failed = [s for s in run.seeds if s.error]
    if failed:
        return f"seed {failed[0].seed}: {failed[0].error}"
    if len(run.seeds) < run.wanted:
        return f"interrupted after {len(run.seeds)} of {run.wanted} seeds"
    return None


def unavailable(run: Run) -> bool:
    """Whether the claim was not run because of this machine (data, extras) or has no program: then an older result stays."""
    return run.claim.module is None or run.claim.unavailable is not None or any(s.unavailable for s in run.seeds)


def _decided(claim: ClaimSource, seeds: list[dict[str, Any]]) -> tuple[Verdict, str, list[dict[str, Any]]]:
    known = {c.name for c in claim.criteria}
    stray = [name for m in seeds for side in ("ours", "baseline", "ablation") for name in m[side] if name not in known]
    if stray:
        raise InputError(f"measured {stray[0]!r}, which is no criterion of its record; there: {', '.join(sorted(known))}")
    decisions, ablations, rows = [], [], []
    for criterion in claim.criteria:
        sides = {side: _values(criterion, side, seeds) for side in ("ours", "baseline", "ablation")}
        if not sides["ours"]:
            raise InputError(f"criterion {criterion.name!r} was not measured")
        if criterion.kind not in _ALONE and not sides[criterion.against]:
            raise InputError(f"criterion {criterion.name!r}: {criterion.against} was not measured")
        decoded = {side: [decode_value(v) for v in values] for side, values in sides.items()}
        decision = decide(criterion, decoded["ours"], decoded[criterion.against])
        decisions.append(decision)
        row: dict[str, Any] = {
            "name": criterion.name,
            "kind": criterion.kind,
            "text": criterion.text,
            **decision.to_dict(),
            **sides,
        }
        # a criterion held against the ablation already says by how much that must hurt
        if sides["ablation"]:
            hurts: Decision = decision
            if criterion.against != "ablation" or criterion.kind != "superiority":
                hurts = decide_ablation(criterion, decoded["ours"], decoded["ablation"], decoded[criterion.against])
            ablations.append(hurts)
            row["ablation_hurts"] = hurts.to_dict()
        rows.append(row)
    verdict, reason = combine(decisions, ablations, claim.no_ablation)
    return verdict, reason, rows


def _values(criterion: Criterion, side: str, seeds: list[dict[str, Any]]) -> list[Any]:
    values = [m[side][criterion.name] for m in seeds if criterion.name in m[side]]
    if values and len(values) != len(seeds):
        raise InputError(f"criterion {criterion.name!r}: {side} was measured in {len(values)} of {len(seeds)} seeds")
    return values


def write(result: Mapping[str, Any], folder: Path) -> Path:
    """Write ``<id>.json`` into `folder` (made if missing), whole or not at all; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['id']}.json"
    write_atomic(path, (json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())
    return path


@dataclass(frozen=True)
class Row:
    """One claim as the tables show it; `verdict` is *not run* where the file cannot be read."""

    id: str
    title: str
    verdict: Verdict
    reason: str
    date: str
    version: str
    budget: str
    statement: str = ""


def parse(name: str, content: bytes) -> Row:
    """The row of one results file; a file that is not one becomes *not run* with the reason, so that the others are shown."""
    try:
        data = json.loads(content)
        texts = {k: data[k] for k in ("title", "reason", "date", "version", "budget", "statement")}
        if not all(isinstance(v, str) for v in texts.values()):
            raise TypeError
        return Row(id=name, verdict=Verdict(data["verdict"]), **texts)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return Row(name, "", Verdict.NOT_RUN, f"results file unreadable ({type(error).__name__})", "", "", "")


def read_folder(folder: Path) -> dict[str, Row]:
    """Rows of every ``P*.json`` in `folder`, by id; empty where there is no such folder."""
    return {p.stem: parse(p.stem, p.read_bytes()) for p in sorted(folder.glob("P[0-9][0-9][0-9].json"))}


def read_committed(folder: Path, revision: str = "HEAD") -> dict[str, Row]:
    """Rows of the results in `folder` as committed at `revision`; raises InputError outside a git repository."""
    if revision.startswith("-"):
        raise InputError(f"{revision!r} is no git revision; allowed: a branch, a tag or a commit such as HEAD, or a folder")

    def git(*arguments: str) -> bytes:
        try:
            cwd = folder if folder.is_dir() else Path.cwd()
            done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, check=False)
        except FileNotFoundError:
            raise InputError("git is not installed; compare with a directory instead: --against DIR") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().split("\n")[0]
            raise InputError(f"git cannot show results at {revision!r} ({said}); compare with a directory instead: --against DIR")
        return done.stdout

    names = git("ls-tree", "--name-only", revision, "./").decode().split("\n") if folder.is_dir() else []
    ids = [n[:-5] for n in names if len(n) == 9 and n.startswith("P") and n.endswith(".json")]
    return {i: parse(i, git("show", f"{revision}:./{i}.json")) for i in ids}


def worse(now: Mapping[str, Row], before: Mapping[str, Row]) -> list[str]:
    """One sentence for every claim whose verdict is worse than before, in the order of `Verdict`; a lost result is worse."""
    out = []
    for name, old in before.items():
        new = now.get(name)
        if new is None:
            out.append(f"{name}: was {old.verdict.value}, has no result now")
        elif new.verdict.rank > old.verdict.rank:
            out.append(f"{name}: was {old.verdict.value}, is {new.verdict.value} now ({new.reason})")
    return out
