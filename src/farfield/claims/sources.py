"""Which claims there are: a paper's record with its criteria, joined to the program that measures them.

The program of P018 is the one file ``p018_*.py`` beside this module. A record that cannot be read does not hide the others: its
claim is listed with the problem.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from farfield.claims.criteria import Criterion
from farfield.claims.data import VARIABLE, absent
from farfield.errors import FarfieldError, InputError, installed, unknown_name
from farfield.papers import record
from farfield.papers.status import Source

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class ClaimSource:
    """What the harness needs to know of one claim.

    Attributes
    ----------
    id, title, family, statement, criteria, no_ablation : as in the record
    requires, needs_data : extras, and whether it reads data that cannot ship
    module : the file with ``run(budget, seed)``, None where there is none
    problem : why it cannot be run at all (broken record, missing entry, no criteria), None where it can
    unavailable : why it cannot be run on this machine (data, extras), None where it can
    """

    id: str
    title: str = ""
    family: str = ""
    statement: str = ""
    criteria: tuple[Criterion, ...] = ()
    no_ablation: str | None = None
    requires: tuple[str, ...] = ()
    needs_data: bool = False
    module: Path | None = None
    problem: str | None = None
    unavailable: str | None = None


def find(papers: Path | None = None, programs: Path | None = None) -> dict[str, ClaimSource]:
    """Every claim by paper id: records in `papers` (default: the catalogue), programs in `programs` (default: this package)."""
    folder = papers or Path(record.__file__).parent
    checkout = folder.parents[2] if papers is None else None
    source = Source(checkout) if checkout and (checkout / "tests").is_dir() else None  # a wheel carries no tests to look for
    out = {}
    for path in sorted(folder.glob("P*.toml")):
        module, problem = _module(path.stem, programs or _HERE)
        try:
            paper = record.read(path)
        except FarfieldError as error:
            out[path.stem] = ClaimSource(path.stem, module=module, problem=str(error))
            continue
        out[paper.id] = ClaimSource(
            paper.id,
            paper.title,
            paper.family,
            paper.claim.statement,
            paper.claim.criteria,
            paper.claim.no_ablation,
            paper.requires,
            paper.claim.data is not None,
            module,
            problem or _problem(paper, source),
            _unavailable(paper),
        )
    return out


def _module(paper_id: str, programs: Path) -> tuple[Path | None, str | None]:
    found = sorted(programs.glob(f"{paper_id.lower()}_*.py"))
    if len(found) > 1:
        return None, f"{len(found)} programs: {', '.join(f.name for f in found)}; a claim has one"
    return (found[0], None) if found else (None, "no program yet")


def _problem(paper: record.Paper, source: Source | None) -> str | None:
    if not paper.claim.criteria:
        return "its record states no criteria"
    if not paper.entry:
        return "its record names no entry"
    if source is not None:
        missing = [n for n in paper.entry if not source.has_name(n)] + [n for n in paper.oracle if not source.has_test(n)]
        if missing:
            return f"{missing[0]} does not exist"
    return None


def _unavailable(paper: record.Paper) -> str | None:
    extras = [e for e in paper.requires if not installed(e)]
    if extras:
        return f"needs the {extras[0]!r} extra: pip install 'farfield[{extras[0]}]'"
    data = paper.claim.data
    if data is not None and not os.environ.get(VARIABLE):
        return f"needs data that cannot ship: {data.told()} (${VARIABLE} is not set)"
    if data is not None and (missing := absent(data.files)):
        return f"needs data that cannot ship: {data.told()} (not at hand: {', '.join(missing)})"
    return None


def choose(claims: dict[str, ClaimSource], ids: Sequence[str], family: str | None, everything: bool) -> list[ClaimSource]:
    """The claims asked for by id, family or all of them (then those with a program); raises InputError where that names none."""
    if not (ids or family or everything):
        raise InputError("no claim named; give ids such as P018, or --family NAME, or --all")
    chosen: dict[str, ClaimSource] = {}
    for name in ids:
        if name.upper() not in claims:
            raise unknown_name("paper", name, claims)
        chosen[name.upper()] = claims[name.upper()]
    if family is not None and family not in (families := sorted(record.FAMILIES)):
        raise unknown_name("family", family, families)
    for claim in claims.values():
        if claim.module is not None and (everything or (family is not None and claim.family == family)):
            chosen[claim.id] = claim
    if not chosen:
        raise InputError(f"no claim of family {family!r} has a program yet" if family else "no claim has a program yet")
    return list(chosen.values())
