"""The harness: good claims are run, kept and resumed; bad ones are shown as what they are while the others go on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from farfield import cli
from farfield.claims import figure, harness, results, sources
from farfield.claims.verdict import Verdict
from farfield.errors import InputError
from farfield.papers import record
from farfield.papers.status import Source

ROOT = Path(__file__).parents[2]
SEEDS = 5


def run(claims, *ids, seeds=SEEDS, seconds=30.0, memory=2.0, jobs=2, **options):
    chosen = [c for c in claims.find().values() if not ids or c.id in ids]
    limits = harness.Limits(seconds, memory)
    runs = harness.run_claims(chosen, budget="tiny", seeds=seeds, jobs=jobs, cache=Path(".claims"), limits=limits, **options)
    return {r.claim.id: results.build(r) for r in runs}


def test_a_good_claim_holds_and_its_file_says_everything(claims):
    claims.add("P900")
    result = run(claims)["P900"]
    assert result["verdict"] == "holds"
    (row,) = result["criteria"]
    assert len(row["ours"]) == len(row["baseline"]) == len(row["ablation"]) == len(row["differences"]) == SEEDS
    assert row["differences"] == [b - o for o, b in zip(row["ours"], row["baseline"], strict=True)]
    assert row["threshold"] == 0.5
    assert 0.5 < row["low"] < row["estimate"] < row["high"]
    assert row["ablation_hurts"]["verdict"] == "holds"
    assert result["protocol"]["criteria"][0]["margin"] == 0.5
    assert result["threads"] == 1
    assert len(result["seconds"]) == SEEDS
    assert {"python", "numpy"} <= set(result["versions"])
    path = results.write(result, Path("results"))
    assert json.loads(path.read_bytes()) == result
    assert results.read_folder(Path("results"))["P900"].verdict is Verdict.HOLDS


BAD = {
    "crashes": ("def run(budget, seed):\n    raise RuntimeError('the sea is [red]dry[/red]')", "RuntimeError: the sea is [red]dry"),
    "exits": ("import os\ndef run(budget, seed):\n    os._exit(3)", "without an answer (exit code 3)"),
    "is killed": ("import os\ndef run(budget, seed):\n    os.kill(os.getpid(), 11)", "without an answer (killed by SIGSEGV)"),
    "does not import": ("import a_module_that_is_not_there\n", "ModuleNotFoundError"),
    "is not Python": ("def run(", "SyntaxError"),
    "has no run": ("x = 1", "no run(budget, seed)"),
    "returns garbage": ("def run(budget, seed):\n    print('}{' * 10**6)\n    return {'error': 1}", "allowed: a Measured"),
    "measures words": (
        "from farfield.claims.criteria import Measured\ndef run(budget, seed):\n    return Measured({'error': 'low'})",
        "allowed: a number",
    ),
    "returns what is not finite": (
        "from farfield.claims.criteria import Measured as M\ndef run(budget, seed):\n    return M({'error': 1e999}, {'error': 1})",
        "not a finite number",
    ),
    "measures less": (
        "from farfield.claims.criteria import Measured\ndef run(budget, seed):\n    return Measured({'error': 1.0})",
        "baseline was not measured",
    ),
    "measures more": (
        "from farfield.claims.criteria import Measured\ndef run(budget, seed):\n    return Measured({'error': 1.0, 'erorr': 2.0})",
        "'erorr', which is no criterion",
    ),
    "eats memory": ("def run(budget, seed):\n    return bytearray(8 * 2**30)", "ran out of memory (limit 2 GiB)"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_claim_is_not_run_with_the_reason(claims, what):
    program, says = BAD[what]
    claims.add("P901", program)
    result = run(claims, seeds=2 if "measure" not in what else 1)["P901"]
    assert result["verdict"] == "not run"
    assert says in result["reason"]
    figure.draw(result, Path("P901.svg"))


def test_what_hangs_is_killed_with_its_children_and_the_others_go_on(claims):
    claims.add(
        "P902",
        """
        import pathlib, subprocess, sys, time
        def run(budget, seed):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            pathlib.Path("child.pid").write_text(str(child.pid))
            time.sleep(600)
        """,
    )
    claims.add("P903")
    got = run(claims, seconds=4.0)
    assert got["P902"]["reason"] == "seed 0: ran past its time limit of 4 s"
    assert got["P903"]["verdict"] == "holds"
    assert gone(int(Path("child.pid").read_text()))


def gone(pid):
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_finished_seeds_are_kept_until_something_they_depend_on_changes(claims):
    claims.add("P904")
    told = []
    run(claims, seeds=2, report=lambda r, s: told.append(s))
    assert [s.cached for s in told if s] == [False, False]

    def again(**options):
        told.clear()
        result = run(claims, report=lambda r, s: told.append(s), **options)["P904"]
        return result, [s.cached for s in told if s]

    result, cached = again(seeds=5)
    assert cached.count(True) == 2
    assert result["verdict"] == "holds"
    assert again(seeds=5)[1] == [True] * 5
    assert again(seeds=1, fresh=True)[1] == [False]
    Path(".claims/P904/tiny/seed-1.json").write_text("{")  # a damaged file is run again
    assert again(seeds=2)[1] == [True, False]
    with claims.program("P904").open("a") as f:
        f.write("# changed\n")
    assert again(seeds=2)[1] == [False, False]


def test_interrupted_it_keeps_finished_seeds_kills_the_rest_and_goes_on_from_there(claims, tmp_path):
    claims.add(
        "P905",
        """
        import os, pathlib, time
        from farfield.claims.criteria import Measured
        def run(budget, seed):
            pathlib.Path(f"started-{seed}").write_text(str(os.getpid()))
            if seed == 1 and not pathlib.Path("go").exists():
                time.sleep(600)
            return Measured({"error": 1 + seed / 10}, {"error": 2 + seed / 11}, {"error": 3.0})
        """,
    )
    script = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from farfield import cli
        from farfield.claims import sources
        find = sources.find
        sources.find = lambda: find(Path({str(claims.papers)!r}), Path({str(claims.programs)!r}))
        sys.exit(cli.main(["claims", "run", "P905", "--budget", "tiny", "--jobs", "1", "--output", "results"]))
        """
    )
    for how in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        wait_for(tmp_path / "started-1")
        process.send_signal(how)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "interrupted" in said
        assert gone(int((tmp_path / "started-1").read_text()))
        assert (tmp_path / ".claims/P905/tiny/seed-0.json").is_file()
        assert not (tmp_path / "results").exists()
        (tmp_path / "started-1").unlink()
    (tmp_path / "started-0").unlink()
    (tmp_path / "go").touch()
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert not (tmp_path / "started-0").exists()  # seed 0 was not run again
    assert json.loads((tmp_path / "results/P905.json").read_bytes())["verdict"] == "holds"


def test_a_harness_that_is_killed_leaves_no_seed_behind(claims, tmp_path):
    claims.add(
        "P906",
        "import os, pathlib, time\ndef run(budget, seed):\n"
        "    pathlib.Path('pid').write_text(str(os.getpid()))\n    time.sleep(600)\n",
    )
    script = (
        "from pathlib import Path\nfrom farfield.claims import harness, sources\n"
        f"found = sources.find(Path({str(claims.papers)!r}), Path({str(claims.programs)!r}))\n"
        "list(harness.run_claims(list(found.values()), budget='tiny', seeds=1, jobs=1, cache=Path('.claims')))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    wait_for(tmp_path / "pid")
    process.kill()
    process.wait()
    assert gone(int((tmp_path / "pid").read_text()))


def wait_for(path):
    for _ in range(600):
        if path.is_file() and path.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


# -- what cannot even start ----------------------------------------------------------------------------------------------------


def test_records_and_programs_that_are_wrong_are_listed_with_the_reason_and_do_not_hide_the_others(claims):
    claims.add("P907", record="id = [")
    claims.add("P908", record='id = "P908"\nfamily = 3\n')
    claims.add("P909", None)
    claims.add("P910")
    (claims.programs / "p910_again.py").write_text("")
    claims.add("P911", **{'[[claim.criteria]]\nname = "error"\nkind = "superiority"\nbetter = "lower"\nmargin = 0.5\n': ""})
    claims.add("P912", **{"requires = []": 'requires = ["ray"]'})
    claims.add("P913")
    found = claims.find()
    assert "not valid TOML" in found["P907"].problem
    assert "P908.toml" in found["P908"].problem
    assert found["P909"].problem == "no program yet"
    assert "2 programs" in found["P910"].problem
    assert "no criteria" in found["P911"].problem
    assert found["P913"].problem is None
    got = run(claims)
    assert [i for i, r in got.items() if r["verdict"] == "holds"] in (["P913"], ["P912", "P913"])  # with or without ray installed
    assert all(got[i]["reason"] == found[i].problem for i in ("P907", "P908", "P909", "P910", "P911"))


def test_an_entry_that_does_not_exist_is_found_in_the_source(claims, tmp_path):
    claims.add("P914")
    paper = record.read(claims.papers / "P914.toml")
    assert sources._problem(paper, Source(tmp_path)) == "farfield.curves.data.Curves does not exist"
    assert sources._problem(paper, Source(ROOT)) == "tests/test_it.py::test_it does not exist"


def test_data_that_is_not_here_names_its_source_and_leaves_an_older_result_alone(claims, monkeypatch, capsys):
    monkeypatch.delenv("FARFIELD_DATA", raising=False)
    data = '[claim.data]\nsource = "Tide tables"\nwhere = "From the harbour"\n\n[[claim.criteria]]'
    named = data.replace('harbour"', 'harbour"\nfiles = ["curves/tides.csv"]')
    program = """
        from farfield.claims.data import data_file
        def run(budget, seed):
            return data_file("curves/tides.csv").read_text()
    """
    claims.add("P915", program, **{"[[claim.criteria]]": data})
    claims.add("P916", program, **{"[[claim.criteria]]": named})
    Path("results").mkdir()
    Path("results/P915.json").write_text("old")
    for given, says in ((None, "Tide tables: From the harbour ($"), (str(claims.papers), "there is no curves/tides.csv under it")):
        if given:
            monkeypatch.setenv("FARFIELD_DATA", given)
        assert main("run", "P915", "--seeds", "1") == 1
        out = " ".join(capsys.readouterr().out.split())
        assert "not run" in out
        assert says in out
        assert Path("results/P915.json").read_text() == "old"
    assert main("run", "P916", "--seeds", "1") == 1  # found out before anything is started
    said = "From the harbour; expected as curves/tides.csv under $FARFIELD_DATA (not at hand: curves/tides.csv)"
    assert said in " ".join(capsys.readouterr().out.split())


# -- the command line ----------------------------------------------------------------------------------------------------------


def main(*arguments):
    """Exit code of `farfield claims` with these arguments."""
    try:
        return cli.main(["claims", *arguments])
    except SystemExit as end:
        return end.code


def test_run_writes_results_and_figure_and_status_shows_them(claims, capsys):
    claims.add("P916")
    claims.add("P917", "def run(budget, seed):\n    raise ValueError('[bold]no[/bold]')")
    assert main("run", "p916", "--budget", "tiny") == 0
    assert Path(".claims/tiny/P916.json").is_file()
    assert main("run", "--all", "--output", "results") == 1
    out = capsys.readouterr().out
    assert "ValueError: [bold]no[/bold]" in out
    first = Path("results/P916.svg").read_bytes()
    assert main("run", "--family", "curves", "--output", "results") == 1
    assert Path("results/P916.svg").read_bytes() == first
    assert main("status") == 0
    out = capsys.readouterr().out
    assert "P916   holds" in out
    assert "P917   not run" in out
    assert main("status", "--json") == 0
    assert [r["verdict"] for r in json.loads(capsys.readouterr().out)] == ["holds", "not run"]


def test_what_is_asked_for_and_does_not_exist_is_refused(claims):
    claims.add("P918", None)
    for arguments, says in [
        ((), "--family NAME, or --all"),
        (("P999",), "unknown paper"),
        (("--family", "curvs"), "nearest: curves"),
        (("--family", "views"), "no claim of family 'views' has a program yet"),
    ]:
        with pytest.raises(InputError) as caught:
            cli.cli.main(["claims", "run", *arguments], standalone_mode=False)
        assert says in str(caught.value)


def test_check_is_one_where_a_verdict_got_worse_than_the_committed_one(claims, capsys, tmp_path):
    claims.add("P919")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    assert main("run", "P919") == 0
    with pytest.raises(InputError, match="--against DIR"):
        cli.cli.main(["claims", "status", "--check"], standalone_mode=False)
    for arguments in (["init", "-q"], ["add", "results"], ["commit", "-qm", "results"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    assert main("status", "--check") == 0
    path = Path("results/P919.json")
    good = path.read_text()
    with pytest.raises(InputError, match="'--output=x' is no git revision"):
        cli.cli.main(["claims", "status", "--check", "--against=--output=x"], standalone_mode=False)
    with pytest.raises(InputError, match=r"there is no folder nowhere; .* --results DIR"):
        cli.cli.main(["claims", "status", "--check", "--results", "nowhere"], standalone_mode=False)
    for verdict in ("weaker", "inconclusive", "fails", "not run"):
        path.write_text(good.replace('"verdict": "holds"', f'"verdict": "{verdict}"'))
        capsys.readouterr()
        assert main("status", "--check") == 1
        assert f"P919: was holds, is {verdict} now" in capsys.readouterr().err
    path.write_text("not JSON")
    assert main("status", "--check") == 1
    path.unlink()
    assert main("status", "--check") == 1
    assert "has no result now" in capsys.readouterr().err
    before = tmp_path / "before"
    before.mkdir()
    (before / "P919.json").write_text(good.replace('"verdict": "holds"', '"verdict": "fails"'))
    path.write_text(good)
    assert main("status", "--check", "--against", str(before)) == 0  # better is not worse


# -- tables --------------------------------------------------------------------------------------------------------------------


def test_tables_are_written_between_their_lines_and_a_stale_one_is_told(claims, tmp_path, capsys):
    claims.add("P920")
    assert main("run", "P920") == 0
    Path("README.md").write_text("before\n<!-- begin generated: claims -->\nold\n<!-- end generated: claims -->\nafter\n")
    assert [main("table", *a) for a in (["--check"], [], ["--check"])] == [1, 0, 0]
    text = Path("README.md").read_text()
    assert text.startswith("before\n<!-- begin")
    assert text.endswith("-->\nafter\n")
    assert "| holds | 1 | " in text
    assert "[P920](results/P920.svg) A claim called claim-p920 |" in text
    Path("README.md").write_text("no block")
    with pytest.raises(InputError, match="generated block"):
        cli.cli.main(["claims", "table"], standalone_mode=False)
