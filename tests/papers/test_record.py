"""Records: the schema's rules, and that every mistake is answered with file and line."""

from __future__ import annotations

import random
import re
from dataclasses import fields
from pathlib import Path

import pytest

from farfield.errors import FarfieldError, FormatError, InputError
from farfield.papers import record
from farfield.papers.record import Paper, read, read_all, sentences

MODEL = Path(record.__file__).with_name("P015.toml")


def altered(tmp_path: Path, pattern: str, new: str, name: str = "P015.toml") -> Path:
    """The model record with the first match of `pattern` replaced."""
    text, n = re.subn(pattern, lambda _: new, MODEL.read_text(encoding="utf-8"), count=1, flags=re.M | re.S)
    assert n == 1, pattern
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def line_of(path: Path, start: str, nth: int = 0) -> int:
    return [i for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if line.startswith(start)][nth]


def test_model_record_reads() -> None:
    paper = read(MODEL)
    assert (paper.id, paper.slug, paper.year, paper.arxiv, paper.family) == ("P015", "lc-pfn", 2023, "2310.20447", "curves")
    assert "\n" not in paper.summary
    assert sentences(paper.summary) == 3
    assert [c.kind for c in paper.claim.criteria] == ["noninferiority", "superiority", "superiority"]
    assert paper.peers[0].name == "lcpfn 0.1.3"


def test_schema_and_dataclass_are_one_list() -> None:
    assert {f.name for f in fields(Paper)} == {*record._TOP, "deviations", "peers", "claim", "path"}


# (what is altered, by what, what the message says, the line it names by its start, which of those lines)
MISTAKES = [
    (r"^slug = ", "slugg = ", "unknown key 'slugg'; nearest: slug", "slugg", 0),
    (r"^year = 2023", 'year = "2023"', "year is '2023'; allowed: a whole number", "year", 0),
    (r"^year = 2023", "year = true", "allowed: a whole number", "year", 0),
    (r"^year = 2023", "year = 1823", "allowed: a whole number, 1990 to 2100", "year", 0),
    (r'^family = "curves"', 'family = "curvs"', "one of curves, length", "family", 0),
    (r'^arxiv = "2310.20447"', 'arxiv = "2310.20447v2"', "text such as '2310.20447'", "arxiv", 0),
    (r'^slug = "lc-pfn"', 'slug = "LC PFN"', "text such as 'lc-pfn'", "slug", 0),
    (r"^question = \[.*?^\]", "question = []", "a list of 1 to 4 items", "question", 0),
    (r"^question = \[.*?^\]", 'question = "one"', "a list of 1 to 4 items", "question", 0),
    (r"^aka = \[.*?^\]", 'aka = ["a", 3]', "text that is not empty (not 3)", "aka", 0),
    (r"^aka = \[.*?^\]", 'aka = ["a", "A"]', "without repeats", "aka", 0),
    (r"^summary = \"\"\".*?\"\"\"", 'summary = "One. Two."', "exactly three sentences (this has 2)", "summary", 0),
    (r"^requires = \[.*?\]", 'requires = ["pytorch"]', "one of torch", "requires", 0),
    (r"^entry = \[.*?\n\]", 'entry = ["LCPFN"]', "farfield.curves", "entry", 0),
    (r"^oracle = \[.*?\n\]", 'oracle = ["test_lcpfn"]', "tests/curves", "oracle", 0),
    (r'^reason = ".*?"', "reason = 3", "reason is 3; allowed: text", "reason", 0),
    (r'^name = "ifBO 0.4.1"', 'title = "ifBO"', "unknown key 'title'", 'title = "ifBO', 0),
    (r"^statement = ", "statment = ", "unknown key 'statment'; nearest: statement", "statment", 0),
    (r"^ablation = ", 'no_ablation = "none"\nablation = ', "both of ablation and no_ablation", "[claim]", 0),
    (r"^ablation = .*?$", "", "neither of ablation and no_ablation", "[claim]", 0),
    (r'^kind = "superiority"', 'kind = "superior"', "unknown kind of criterion", "[[claim.criteria]]", 1),
    (r"^margin = 0.2", "margin = -0.2", "margin is -0.2", "[[claim.criteria]]", 1),
    (r"^margin = 0.2", "margins = 0.2", "unknown key of a criterion 'margins'", "[[claim.criteria]]", 1),
    (r'^kind = "superiority"', "kind = 3", "kind is 3; allowed: text", "kind", 1),
    (r'^name = "seconds"', 'name = "log_likelihood"', "duplicate criterion", 'name = "log_likelihood"', 1),
    (r'^name = "seconds"', "name = []", "name is []; allowed: text", "name = []", 0),
    (r"^\[claim\]", '[claim.data]\nsource = "x"\n[claim]', "missing key 'where'", "[claim.data]", 0),
    (
        r"^\[claim\]",
        '[claim.data]\nsource = "x"\nwhere = "y"\nfiles = ["/etc/hosts"]\n[claim]',
        "text such as 'curves/lcdb",
        "files",
        0,
    ),
    (r"^\[claim\]", '[claim.known]\nverdict = "bad"\nreason = "x"\n[claim]', "one of weaker, inconclusive, fails", "verdict", 0),
    (r"^\[claim\]", "[claim]\ndata = 3", "claim.data is 3; allowed: a table [claim.data]", "data = 3", 0),
    (r"^requires = ", "peers = 3\nrequires = ", "peers is 3; allowed: tables [[peers]]", "peers = 3", 0),
]


@pytest.mark.parametrize(("pattern", "new", "message", "start", "nth"), MISTAKES)
def test_mistakes_name_file_and_line(tmp_path: Path, pattern: str, new: str, message: str, start: str, nth: int) -> None:
    path = altered(tmp_path, pattern, new)
    if new.startswith("peers = 3"):
        path.write_text(re.sub(r"^\[\[peers\]\].*?(?=^\[claim\])", "", path.read_text(), flags=re.M | re.S))
    with pytest.raises(FormatError, match=re.escape(message)) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:{line_of(path, start, nth)}: ")


@pytest.mark.parametrize("key", [k for k in record._TOP if k != "arxiv"])
def test_missing_key(tmp_path: Path, key: str) -> None:
    path = altered(tmp_path, rf"^{key} = .*?(?=^\w+ = |^\[)", "")
    with pytest.raises(FormatError, match=f"P015.toml:1: missing key '{key}'"):
        read(path)


def test_optional_arxiv(tmp_path: Path) -> None:
    assert read(altered(tmp_path, r"^arxiv = .*?$", "")).arxiv is None


def test_missing_claim(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"missing table \[claim\]"):
        read(altered(tmp_path, r"^\[claim\].*", ""))


def test_file_name_must_be_the_id(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"P016.toml:1: id is 'P015' but the file is P016.toml"):
        read(altered(tmp_path, r"^id", "id", name="P016.toml"))


def test_duplicates_name_both_files(tmp_path: Path) -> None:
    altered(tmp_path, r"^id", "id")
    path = altered(tmp_path, r'^id = "P015"', 'id = "P016"', name="P016.toml")
    with pytest.raises(FormatError, match=r"duplicate slug 'lc-pfn', already used by .*P015.toml"):
        read_all(tmp_path)
    path.write_text(path.read_text().replace('"lc-pfn"', '"other"'))
    with pytest.raises(FormatError, match=r"duplicate arXiv id '2310.20447'"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"id = ",
        b"id = 'P015'\nid = 'P015'",
        b"[claim",
        b"\xff\xfe",
        b"a = " + b"[" * 100_000,
        b"x = 1e999999\ny = nan",
        b"\x00",
        b"",
    ],
)
def test_broken_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "P015.toml"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=re.escape(str(path))):
        read(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the record"):
        read(tmp_path / "P015.toml")


def test_mutated_records_raise_nothing_but_our_errors(tmp_path: Path) -> None:
    rng = random.Random(0)
    original = MODEL.read_bytes()
    path = tmp_path / "P015.toml"
    refused = 0
    for _ in range(1000):
        data = bytearray(original)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at : at + rng.randint(1, 40)]
                case 2:
                    data[at:at] = rng.choice([b'"', b"[", b"]", b"{}", b"=", b"\n[x]\n", b"\x00", b"9" * 30, b"true"])
                case _:
                    del data[at:]
            data = data or bytearray(b"\n")
        path.write_bytes(data)
        try:
            read(path)
        except FarfieldError:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("One. Two! Three?", 3),
        ("It is 3.5 times better (by Fig. 2b). It ends in “quotes.” 7 out of 10.", 4),
        ("About x.y and z.w names. A second one", 1),
        ('He said "no." Then (so.) Done.', 3),
    ],
)
def test_sentences(text: str, n: int) -> None:
    assert sentences(text) == n
