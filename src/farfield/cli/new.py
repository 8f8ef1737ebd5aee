"""`python -m farfield new P104 --family curves`: the files of a new paper, each failing by name until it is filled.

The values of the record are left empty, which its schema refuses with file and line; method, claim and test raise errors that
say what belongs there. Nothing that exists is written over.
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from farfield.errors import InputError, unknown_name
from farfield.files import write_atomic
from farfield.papers import index, record

_RECORD = """\
# Every text below is empty, which the schema refuses; `farfield papers show {id}` names the next to fill.
# `src/farfield/papers/record.py` says what each key holds; P015.toml is the model to follow.
id = "{id}"
slug = "{slug}"
title = ""
year = 0
family = "{family}"
question = []  # 1 to 4, as a user would ask
use_when = ""  # when to reach for it, and when not to
aka = []  # the words under which people of other fields look for it
summary = ""  # three sentences in our own words: what it does, how, what came out
entry = ["farfield.{family}.{module}.{function}"]
oracle = ["tests/{family}/test_{module}.py::test_against_an_independent_evaluation"]
requires = []

[claim]
statement = ""  # one sentence that can be measured
budget = ""  # what the tiny run does in seconds, and the full one in minutes
ablation = ""  # the method without its key idea; or no_ablation = "why none makes sense"

# Fixed before the first full run. Kinds: superiority, noninferiority, bound, exact, trend; docs/claims.md says how each is decided.
[[claim.criteria]]
name = ""
kind = "superiority"
better = "lower"
margin = 0.0
description = ""
"""

_MODULE = '''\
"""FILL: the paper in ten lines: equations, symbols, defaults with their source (table or section), every deviation."""

from __future__ import annotations


def {function}() -> None:
    """FILL: what it does in one line, shapes and units of every argument, what is raised, source (equation)."""
    raise NotImplementedError("{id}: write the method in src/farfield/{family}/{module}.py")
'''

_CLAIM = '''\
"""{id}: FILL: the claim in one sentence, and how it is measured: data, baseline, ablation, what a seed varies."""

from __future__ import annotations

from farfield.claims.criteria import Measured


def run(budget: str, seed: int) -> Measured:
    """FILL: one value a criterion of the record, for ours, baseline and ablation."""
    raise NotImplementedError("{id}: measure the claim in src/farfield/claims/{program}.py")
'''

_TEST = '''\
"""FILL: what {function} is held against."""

import pytest


def test_against_an_independent_evaluation():
    pytest.fail("{id}: compare farfield.{family}.{module}.{function} with mpmath, brute force, a closed form or a slow loop")
'''


@click.command("new")
@click.argument("paper", metavar="P104")
@click.option("--family", required=True, help="Where the method lives, such as curves.")
@click.option("--slug", help="Short name, such as lc-pfn; it names the files [default: the id in lower case].")
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    help="The checkout to write in [default: the one farfield runs from].",
)
def command(paper: str, family: str, slug: str | None, root: Path | None) -> None:
    """Write record, module, claim and test of a new paper; each fails by name until it is filled."""
    root = root or index.checkout()
    if root is None or not (root / "src" / "farfield" / "papers").is_dir():
        raise InputError(f"{root or 'this farfield'} is not a source checkout; give --root")
    for path in write(root, paper.upper(), family, slug):
        click.echo(path.relative_to(root))


def write(root: Path, paper: str, family: str, slug: str | None = None) -> list[Path]:
    """Write the files of `paper` under `root`; the paths written, the record first.

    Raises InputError for an id or slug of another form, an unknown family, a paper or file that is there already.
    """
    slug = slug or paper.lower()
    if not re.fullmatch(r"P\d{3}", paper):
        raise InputError(f"paper id is {paper!r}; allowed: P and three digits, such as P104")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug):
        raise InputError(f"slug is {slug!r}; allowed: lower-case letters and digits in parts joined by hyphens, such as lc-pfn")
    if family not in record.FAMILIES:
        raise unknown_name("family", family, record.FAMILIES)
    for other in record.read_all(root / "src" / "farfield" / "papers", {}).values():
        if other.slug == slug:
            raise InputError(f"slug {slug!r} is that of {other.id}; every paper needs its own")
    module = slug.replace("-", "_")
    program = f"{paper.lower()}_{module}" if slug != paper.lower() else f"{paper.lower()}_claim"
    names = {"id": paper, "slug": slug, "family": family, "module": module, "function": module, "program": program}
    package = root / "src" / "farfield"
    files = {
        package / "papers" / f"{paper}.toml": _RECORD,
        package / family / f"{module}.py": _MODULE,
        package / "claims" / f"{program}.py": _CLAIM,
        root / "tests" / family / f"test_{module}.py": _TEST,
    }
    there = [*(f for f in files if f.exists()), *(package / "claims").glob(f"{paper.lower()}_*.py")]
    if there:
        raise InputError(f"{there[0]} exists already; nothing was written")
    init = package / family / "__init__.py"
    if not init.exists():
        about = record.FAMILIES[family][1]
        files = {**files, init: f'"""{family.capitalize()}: {about}."""\n'}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (text if path == init else text.format(**names)).encode())
    return list(files)
