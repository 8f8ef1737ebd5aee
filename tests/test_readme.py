"""The documents show what the commands print and what the catalogue holds, and their links lead somewhere."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest

import readme
from farfield import documents
from farfield.errors import FormatError, InputError

ROOT = Path(__file__).parents[1]
DOCUMENTS = readme.all_documents()
MOST_LINES = 140


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_document_shows_what_comes_out_now(path: Path) -> None:
    shown = path.read_text(encoding="utf-8")
    now = readme.current(path)
    difference = difflib.unified_diff(shown.splitlines(), now.splitlines(), "shown", "now", lineterm="")
    assert readme.same(shown, now), "stale; ./dev readme writes it anew\n" + "\n".join(difference)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_python_of_a_document_runs(path: Path) -> None:
    with readme.workplace() as directory:
        done = readme.run_python(path.read_text(encoding="utf-8"), directory)
    assert done is None or done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_blocks_said_to_be_run_elsewhere_are(path: Path) -> None:
    for test in readme.run_elsewhere(path.read_text(encoding="utf-8")):
        assert path.name in (ROOT / test).read_text(encoding="utf-8")


def test_the_readme_fits_a_reader() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert set(documents.blocks(text)) >= {"families"}


# -- the machinery ------------------------------------------------------------------------------------------------------

STALE = """Before.

```console
$ echo one; echo two >&2
old output
$ printf '%s\\n' \\
    "three  " "" | cat

$ true
```

```sh
$ exit 1
```
"""


def test_commands_are_run_and_their_output_is_put_in_place(tmp_path: Path) -> None:
    fresh = readme.run(STALE, tmp_path)
    assert fresh == STALE.replace("old output\n", "one\ntwo\n").replace('"" | cat\n\n', '"" | cat\nthree\n')
    assert readme.run(fresh, tmp_path) == fresh


def test_blocks_of_one_document_share_a_directory(tmp_path: Path) -> None:
    text = "```console\n$ echo kept > file\n```\n\n```console\n$ cat file\nkept\n```\n"
    assert readme.run(text, tmp_path) == text


def test_python_blocks_are_one_program_and_a_warning_fails_it(tmp_path: Path) -> None:
    text = "```python\nx = 1\n```\n\n```python\nprint(x + 1)\n{more}```\n"
    done = readme.run_python(text.format(more=""), tmp_path)
    assert done is not None
    assert (done.returncode, done.stdout) == (0, "2\n")
    warned = readme.run_python(text.format(more="import warnings\nwarnings.warn('old')\n"), tmp_path)
    assert warned is not None
    assert warned.returncode == 1
    assert readme.run_python("no code", tmp_path) is None


def test_a_document_that_is_run_elsewhere_is_left_alone(tmp_path: Path) -> None:
    text = "<!-- run by tests/test_readme.py -->\n```console\n$ echo new\nold\n```\n"
    assert readme.run(text, tmp_path) == text


@pytest.mark.parametrize(
    ("shown", "now", "agree"),
    [
        ("done in 1.25 s on 2026-01-02", "done in 17 s on 2027-11-30", True),
        ("loss   0.3086  up", "loss 0.3087 up", True),
        ("loss 0.3086", "loss 0.3186", False),
        ("loss 0.3086", "loss -0.3086", False),
        ("1,250.5 tokens", "1,251.0 tokens", True),
        ("12 steps", "13 steps", False),
        ("a 0.1", "b 0.1", False),
        ("one 0.1 0.2", "one 0.1", False),
        ("one", "one\ntwo", False),
    ],
)
def test_times_and_last_digits_may_differ_and_nothing_else_may(shown: str, now: str, agree: bool) -> None:
    assert readme.same(shown, now) is agree


BLOCKS = """# Title
<!-- begin generated: one -->
old
<!-- end generated: one -->
between
<!-- begin generated: two -->
<!-- end generated: two -->
"""


def test_generated_blocks_are_found_and_replaced() -> None:
    assert documents.blocks(BLOCKS) == {"one": "old\n", "two": ""}
    new = documents.replace(BLOCKS, {"two": "b", "one": "a\n\n"})
    assert new == BLOCKS.replace("old\n", "a\n").replace("<!-- begin generated: two -->\n", "<!-- begin generated: two -->\nb\n")
    assert documents.replace(new, {"one": "a", "two": "b"}) == new
    assert documents.replace(BLOCKS, {}) == BLOCKS


def test_update_writes_only_what_changed(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(BLOCKS)
    assert documents.update(path, {"one": "new"}, check=True)
    assert path.read_text() == BLOCKS
    assert documents.update(path, {"one": "new"})
    assert not documents.update(path, {"one": "new"})
    assert documents.blocks(path.read_text())["one"] == "new\n"
    with pytest.raises(InputError, match=r"cannot read .*absent\.md: No such file"):
        documents.update(tmp_path / "absent.md", {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<!-- begin generated: a -->\n", "block 'a' has no end; add the line <!-- end generated: a -->"),
        ("<!-- begin generated: a -->\n<!-- begin generated: b -->\n", "line 2: block 'b' begins inside 'a'"),
        ("<!-- end generated: a -->\n", "line 1: block 'a' ends and none is open"),
        ("<!-- begin generated: a -->\n<!-- end generated: b -->\n", "line 2: block 'b' ends and 'a' is open"),
        (
            "<!-- begin generated: a -->\n<!-- end generated: a -->\n<!-- begin generated: a -->\n<!-- end generated: a -->\n",
            "line 3: block 'a' begins a second time",
        ),
    ],
)
def test_marks_that_do_not_pair_are_refused(text: str, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        documents.blocks(text)


def test_a_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="unknown generated block 'three'; allowed: one, two"):
        documents.replace(BLOCKS, {"three": ""})


def test_a_table_escapes_its_bars() -> None:
    assert documents.table(("a", "b"), [(1, "x|y\nz")]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y z |\n"
