"""`farfield new` writes files that fail until they are filled; docs/add-a-paper.md fills them, run as it stands in a copy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from farfield.claims import sources
from farfield.cli import new
from farfield.errors import FormatError, InputError
from farfield.papers import record
from papers.checkouts import Checkout

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "add-a-paper.md"
_BLOCK = re.compile(r"(?:^<!-- file: (\S+) -->\n\n)?^```(console|toml|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# what differs from run to run: the time pytest and a claim took
_TIME = re.compile(r" in \d+\.\d+s")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the source with an empty catalogue of results, and what pytest needs."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "index.sqlite"))
    (root / "tests").mkdir()
    for name in ("tests/conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    return root


def shell(command: str, root: Path) -> str:
    """Standard output and error of a command in the copy, its path left out."""
    environment = {k: v for k, v in os.environ.items() if k not in ("FARFIELD_DATA", "FORCE_COLOR")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": str(root / "src"),
        "XDG_CACHE_HOME": str(root / "cache"),
        "COLUMNS": "200",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["sh", "-c", command], cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return (done.stdout + done.stderr).replace(f"{root}/", "")


def test_the_guide_works_as_it_is_written(checkout: Path) -> None:
    blocks = list(_BLOCK.finditer(GUIDE.read_text(encoding="utf-8")))
    files = [path for path, _, _ in (b.groups() for b in blocks) if path]
    for path, language, body in (b.groups() for b in blocks):
        if path:
            assert (checkout / path).is_file(), f"farfield new did not write {path}"
            (checkout / path).write_text(body, encoding="utf-8")
            continue
        assert language == "console", body
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", body, re.MULTILINE):
            got = _TIME.sub("", shell(command, checkout))
            lines = [" ".join(line.split()) for line in got.splitlines()]
            for line in shown.splitlines():
                assert " ".join(line.split()) in lines, f"$ {command}\nshows {line!r}, but it prints\n{got}"
    assert len(files) == 4
    claim = shell("farfield claims status", checkout)
    assert re.search(r"P104\s+holds", claim), claim
    assert (checkout / "results" / "P104.svg").is_file()
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff:
        assert shell(f"{ruff} check {' '.join(p for p in files if p.endswith('.py'))}", checkout) == "All checks passed!\n"


def test_what_it_writes_fails_until_it_is_filled(tmp_path: Path) -> None:
    (tmp_path / "src" / "farfield" / "papers").mkdir(parents=True)
    written = new.write(tmp_path, "P104", "views")
    assert [p.relative_to(tmp_path).as_posix() for p in written] == [
        "src/farfield/papers/P104.toml",
        "src/farfield/views/p104.py",
        "src/farfield/claims/p104_claim.py",
        "tests/views/test_p104.py",
        "src/farfield/views/__init__.py",
    ]
    text = written[0].read_text()
    fills = {
        'title = ""': 'title = "A title"',
        "year = 0": "year = 2020",
        "question = []": 'question = ["Why?"]',
        'use_when = ""': 'use_when = "Now."',
        "aka = []": 'aka = ["it"]',
        'summary = ""': 'summary = "One. Two. Three."',
        'statement = ""': 'statement = "It works."',
        'budget = ""': 'budget = "Seconds."',
        'ablation = ""': 'ablation = "Half of it."',
        'name = ""': 'name = "error"',
    }
    for empty, filled in fills.items():  # refused at every step, with the line of what is to be filled next
        line = text[: text.index(empty)].count("\n") + 1
        key = empty.split(" ")[0]
        with pytest.raises(FormatError, match=rf"P104\.toml:\d+: .*{key}") as caught:
            record.read(written[0])
        if key != "name":
            assert f":{line}:" in str(caught.value)
        text = text.replace(empty, filled)
        written[0].write_text(text)
    assert record.read(written[0]).claim.criteria[0].name == "error"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(written[3])], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert "P104: compare farfield.views.p104.p104" in done.stdout
    for path, says in ((written[1], "write the method"), (written[2], "measure the claim")):
        assert f'raise NotImplementedError("P104: {says}' in path.read_text()


def test_nothing_is_written_over_and_names_are_checked(tmp_path: Path) -> None:
    (tmp_path / "src" / "farfield" / "papers").mkdir(parents=True)
    for arguments, says in [
        (("104", "curves"), "P and three digits"),
        (("P104", "curvs"), "nearest: curves"),
        (("P104", "curves", "../x"), "parts joined by hyphens"),
    ]:
        with pytest.raises(InputError, match=says):
            new.write(tmp_path, *arguments)
    kept = tmp_path / "src" / "farfield" / "claims" / "p104_other.py"
    kept.parent.mkdir()
    kept.write_text("kept")
    with pytest.raises(InputError, match="exists already; nothing was written"):
        new.write(tmp_path, "P104", "curves", "mine")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [kept]
    with pytest.raises(InputError, match="not a source checkout"):
        new.command.main(["P104", "--family", "curves", "--root", str(tmp_path / "src")], standalone_mode=False)


def test_a_slug_that_is_taken_is_refused(tmp_path: Path) -> None:
    Checkout(tmp_path).record("P015", slug="lc-pfn")
    with pytest.raises(InputError, match="slug 'lc-pfn' is that of P015"):
        new.write(tmp_path, "P104", "curves", "lc-pfn")
    assert new.write(tmp_path, "P104", "curves", "lc-pfn-2")


def test_the_catalogue_holds_no_half_filled_paper() -> None:
    assert [c.problem for c in sources.find().values() if c.problem and "toml:" in c.problem] == []
