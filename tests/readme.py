"""Runs the commands that README.md and docs/*.md show, and derives the tables they hold: `./dev readme` writes, the tests compare.

A block fenced as ``console`` is run: each line that begins with ``$ `` is a command of the shell, the lines up to the next are
its output (standard output and error together). The blocks of a document run in order, in one copy of examples/ and results/,
at a width of 100 columns, without colour. What a document shows is compared with what comes out now by :func:`same`. Commands
that install something are fenced as ``sh`` and are not run. Blocks fenced as ``python`` are one program a document, run after
them, and must end without an error or a warning. A document whose blocks another test runs says so in a comment: ``<!-- run by
tests/papers/test_new.py -->``.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from farfield import documents
from farfield.files import write_atomic

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ELSEWHERE = re.compile(r"^<!-- run by (tests/[\w/]+\.py) -->$", re.MULTILINE)

# times and dates differ from run to run
_VARIES = re.compile(r"\b\d+(\.\d+)? (s|ms)\b|\b20\d\d-\d\d-\d\d\b")
# processors round differently, and an optimiser passes that on: decimals agree to this, all other text exactly
_DECIMAL, CLOSE = re.compile(r"\d[\d,]*\.\d+"), 0.01


def all_documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run_elsewhere(text: str) -> list[str]:
    """The tests that a document says run its blocks."""
    return _ELSEWHERE.findall(text)


def run(text: str, directory: Path) -> str:
    """The document with the output of every command replaced by what comes out now, in `directory`."""
    if run_elsewhere(text):
        return text
    return _BLOCK.sub(lambda block: f"```console\n{_run_block(block[1], directory)}```", text)


def _run_block(block: str, directory: Path) -> str:
    shown = []
    lines = iter(block.splitlines())
    for line in lines:
        if not line.startswith("$ "):
            continue  # old output
        command = [line]
        while command[-1].endswith("\\"):
            command.append(next(lines))
        shown += command
        shown += _output("\n".join(command)[2:], directory)
    return "".join(f"{line}\n" for line in shown)


def run_python(text: str, directory: Path) -> subprocess.CompletedProcess[str] | None:
    """The run of the document's Python blocks as one program, in `directory`; None where it has none or another test runs them."""
    program = "".join(_PYTHON.findall(text))
    if not program or run_elsewhere(text):
        return None
    return _run([sys.executable, "-W", "error", "-c", program], directory)


def _output(command: str, directory: Path) -> list[str]:
    lines = [line.rstrip() for line in _run(["sh", "-c", command], directory).stdout.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _run(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("FARFIELD_DATA", "FORCE_COLOR", "PYTHONPATH")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    environment |= {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, cwd=directory, env=environment, text=True, timeout=120, **streams)


def same(shown: str, now: str) -> bool:
    """Whether two texts agree, but for times, dates, spacing within lines and decimals that differ by less than `CLOSE`."""
    texts = [[_VARIES.sub("(varies)", line) for line in text.splitlines()] for text in (shown, now)]
    without = [[" ".join(_DECIMAL.sub("#", line).split()) for line in lines] for lines in texts]
    decimals = [[float(d.replace(",", "")) for line in lines for d in _DECIMAL.findall(line)] for lines in texts]
    return without[0] == without[1] and all(map(lambda a, b: math.isclose(a, b, rel_tol=CLOSE), *decimals))


def family_table() -> str:
    """The families with their job and papers, from the catalogue."""
    from farfield.papers import index
    from farfield.papers.record import FAMILIES

    papers = index.load().papers
    rows: list[tuple[object, ...]] = []
    for family, (job, about) in FAMILIES.items():
        mine = [paper for paper in papers if paper.family == family]
        built = sum(paper.status not in ("planned", "broken") for paper in mine)
        if mine:
            rows.append((f"`{family}`", job, about, len(mine), built))
    return documents.table(("family", "job", "about", "papers", "built"), rows)


# block of a document -> what writes it
GENERATED = {"families": family_table}


def derive(text: str) -> str:
    """The document with every table in `GENERATED` that it holds derived anew."""
    held = documents.blocks(text)
    return documents.replace(text, {name: write() for name, write in GENERATED.items() if name in held})


def current(path: Path) -> str:
    """What a document would hold if it were written now."""
    with workplace() as directory:
        return run(derive(path.read_text(encoding="utf-8")), directory)


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory that holds what a reader of a document has in theirs."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("examples", "results"):
            shutil.copytree(ROOT / name, Path(scratch) / name)
        yield Path(scratch)


def main() -> None:
    for path in all_documents():
        old, new = path.read_text(encoding="utf-8"), current(path)
        changed = not same(old, new)
        if changed:
            write_atomic(path, new.encode())
        print(f"{path.relative_to(ROOT)}: {'written' if changed else 'as it was'}")


if __name__ == "__main__":
    main()
