"""The rules of the house: what may import what, how long a file may be, what no file may contain, what an import may cost."""

from __future__ import annotations

import ast
import datetime
import importlib
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

import farfield
from farfield import cli
from farfield.cli import doctor

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "farfield"
FAMILIES = {"curves", "length", "numbers", "weights", "precision", "generate", "shift", "evals", "regression", "solvers", "views"}
PRODUCT = {"papers", "claims", "cli", "hooks", "__init__", "__main__"}

# part of the package -> what it may import besides itself and the shared modules, which are all that is named nowhere here
MAY_IMPORT = {
    **{family: set[str]() for family in FAMILIES},
    "papers": {"claims", "__init__"},
    "claims": {"papers", "__init__", *FAMILIES},
    "cli": {"papers", "claims", "__init__", *FAMILIES},
    "__init__": {"papers", "claims", *FAMILIES},
    "__main__": {"cli", "__init__"},
    "hooks": {"curves"},
}
# (importing module, imported part) -> why this one may
EXCEPTIONS: dict[tuple[str, str], str] = {}

LONGEST = 600
MOST_SKIPS = 10


def files(*places: str, suffixes: tuple[str, ...] = (".py",)) -> list[Path]:
    found = (p for place in places for p in sorted((ROOT / place).rglob("*")))
    return [p for p in found if p.suffix in suffixes and p.is_file() and "__pycache__" not in p.parts]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def part_of(module: str) -> str:
    """The part of the package a module belongs to: `curves` for farfield.curves.data, `__init__` for farfield itself."""
    return [*module.split("."), "__init__"][1]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every module imported anywhere in a file, in functions too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the whole name"
            if node.module == "farfield":
                yield from ((node.lineno, f"farfield.{alias.name}") for alias in node.names)
            elif node.module:
                yield node.lineno, node.module


def at(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


# -- imports ------------------------------------------------------------------------------------------------------------


def forbidden_imports(path: Path) -> Iterator[str]:
    module = module_name(path)
    part = part_of(module)
    for line, imported in imports(path):
        if imported.split(".")[0] == "torch" and part not in FAMILIES | PRODUCT | {"nn"}:
            yield f"{at(path, line)}: shared module {part} imports torch; of the shared modules only nn may"
        if imported.split(".")[0] != "farfield":
            continue
        target = part_of(imported)
        is_module = (PACKAGE / target).is_dir() or (PACKAGE / f"{target}.py").is_file()
        shared = not is_module or target not in FAMILIES | PRODUCT
        if not (shared or target == part or target in MAY_IMPORT.get(part, set()) or (module, target) in EXCEPTIONS):
            yield f"{at(path, line)}: {part} imports farfield.{target}; what both need moves to a shared module"


def test_imports_between_the_parts_of_the_package() -> None:
    assert [problem for path in files("src/farfield") for problem in forbidden_imports(path)] == []


def test_the_import_rule_sees_a_family_that_stands_on_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src" / "farfield"
    for name in ("curves", "solvers", "cli"):
        (package / name).mkdir(parents=True)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", package)
    (package / "leastsquares.py").write_text("def f():\n    import torch\nfrom farfield.curves import data\n")
    (package / "curves" / "fit.py").write_text(
        "from farfield import leastsquares, solvers, __version__\nimport farfield.cli.doctor\n"
    )
    (package / "cli" / "run.py").write_text("from farfield.curves.fit import fit\n")
    found = sorted(problem for path in files("src/farfield") for problem in forbidden_imports(path))
    assert [problem.split(";")[0] for problem in found] == [
        "src/farfield/curves/fit.py:1: curves imports farfield.solvers",
        "src/farfield/curves/fit.py:2: curves imports farfield.cli",
        "src/farfield/leastsquares.py:2: shared module leastsquares imports torch",
        "src/farfield/leastsquares.py:3: leastsquares imports farfield.curves",
    ]


def loaded(*arguments: str) -> set[str]:
    """Top-level modules that a run of Python loads."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT)
    names = (line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("arguments", [("-c", "import farfield"), ("-m", "farfield", "--help"), ("-m", "farfield", "--version")])
def test_what_must_start_at_once_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    seen = loaded(*arguments)
    assert "farfield" in seen
    assert seen & {"scipy", "matplotlib", "polars", "torch", "sklearn", "numpy", "pandas", "rich"} == set()


def test_the_catalogue_is_listed_without_importing_a_method() -> None:
    assert loaded("-m", "farfield", "papers", "list") & {"scipy", "matplotlib", "torch", "sklearn"} == set()


def test_farfield_version_takes_at_most_0_3_seconds() -> None:
    took = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "farfield", "--version"], capture_output=True, check=True)
        took.append(time.perf_counter() - start)
    assert statistics.median(took) <= 0.3


# -- files --------------------------------------------------------------------------------------------------------------


def test_no_file_is_too_long() -> None:
    lengths = {
        str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines())
        for p in files("src", "tests", "benchmarks", "examples")
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}


def test_file_names_say_what_a_thing_is() -> None:
    vague = re.compile(r"utils?|helpers?|misc|common|stuff|.*_v\d+|new_.*|old_.*")
    assert [str(p.relative_to(ROOT)) for p in files("src", "tests", "benchmarks", "examples") if vague.fullmatch(p.stem)] == []


def texts() -> list[Path]:
    places = ("src", "tests", "benchmarks", "examples", "docs", "results")
    top = [ROOT / n for n in ("README.md", "CHANGELOG.md", "pyproject.toml", "constraints.txt", "dev", ".ci/run")]
    return [p for p in files(*places, suffixes=(".py", ".md", ".toml", ".json", ".sh", ".txt")) if p != Path(__file__)] + top


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"(?<![\w.~}:])/(home|Users|root|work)/\w", "a path that exists on one machine only"),
        (r"\b(pypi\.org|pythonhosted\.org|download\.pytorch\.org)\b", "the name of a package registry; pip knows its own"),
        (r"\b(TODO|FIXME)\b", "unfinished work"),
    ],
)
def test_no_text_contains(pattern: str, why: str) -> None:
    found = []
    for path in texts():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if re.search(pattern, line):
                found.append(at(path, number))
    assert found == [], why


def dangers(path: Path) -> Iterator[str]:
    for line, module in imports(path):
        if module.split(".")[0] in {"pickle", "cPickle", "dill", "shelve", "marshal", "cloudpickle", "joblib"}:
            yield f"{at(path, line)}: imports {module}"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            broad = isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
            silent = all(
                isinstance(s, ast.Pass) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)) for s in node.body
            )
            if node.type is None or (broad and silent):
                yield f"{at(path, node.lineno)}: catches everything and hides it"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        bad = (
            called in {"eval", "exec", "yaml.load", "os.system", "pd.read_pickle", "pandas.read_pickle"}
            or given.get("shell") == "True"
            or given.get("allow_pickle") == "True"
            or (called == "torch.load" and given.get("weights_only") != "True")
        )
        if bad:
            yield f"{at(path, node.lineno)}: calls {called}({', '.join(f'{k}={v}' for k, v in given.items())})"


def test_nothing_runs_code_from_data_or_hides_an_error() -> None:
    assert [danger for path in files("src", "benchmarks", "examples") for danger in dangers(path)] == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "eval(text)",
        "subprocess.run(command, shell=True)",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "try:\n    f()\nexcept:\n    raise",
        "try:\n    f()\nexcept Exception:\n    pass",
    ],
)
def test_the_danger_rule_sees(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "bad.py").write_text(code)
    assert len(list(dangers(tmp_path / "bad.py"))) == 1


def test_results_are_strict_json() -> None:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    for path in files("results", suffixes=(".json",)):
        assert isinstance(json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse), dict | list), path.name


# -- public names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", farfield._EXPORTS)
def test_every_public_name_exists_and_has_a_docstring(name: str) -> None:
    try:
        value = getattr(farfield, name)
    except ImportError as error:
        # what needs an extra that is not installed may refuse, by that extra's name
        if getattr(error, "extra", None) not in doctor.ADDS:
            raise
        return
    if callable(value):
        doc = value.__doc__ or ""
        # a dataclass without a docstring is given one that repeats its signature
        assert doc.strip(), f"farfield.{name} has no docstring"
        assert not doc.startswith(f"{name}("), f"farfield.{name} has no docstring of its own"


def test_every_command_is_defined_where_the_table_says() -> None:
    for name, (module, _) in cli._COMMANDS.items():
        assert isinstance(importlib.import_module(module).command, click.Command), name


def test_an_unknown_public_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Kurves'; .*Curves"):
        farfield.Kurves  # noqa: B018


# -- skips --------------------------------------------------------------------------------------------------------------


def skips(path: Path) -> Iterator[tuple[int, str]]:
    """Line and source of every skip and expected failure that no need of the test explains."""
    for node in ast.walk(tree(path)):
        named = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if re.fullmatch(r"(pytest\.)?(mark\.)?(skip|skipif|xfail|importorskip)|unittest\.skip\w*", named):
            yield node.lineno, ast.unparse(node)


def test_skips_are_few_and_each_has_a_reason_and_an_end() -> None:
    found = [(path, line, source) for path in files("tests") for line, source in skips(path)]
    assert len(found) <= MOST_SKIPS
    for path, line, source in found:
        until = re.search(r"until (\d{4}-\d{2}-\d{2})", source)
        assert until, (
            f"{at(path, line)}: a skip needs reason='...; until YYYY-MM-DD'; what needs an extra, data or a peer takes a marker"
        )
        assert datetime.date.fromisoformat(until[1]) >= datetime.date.today(), (
            f"{at(path, line)}: this skip has ended; mend the test"
        )
