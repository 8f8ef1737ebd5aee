"""`farfield doctor`: what is installed and compiled, what each missing extra would add, how many threads, which device, which data.

Versions are read from the packages' metadata; nothing but torch, where it is installed, is imported to look at it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farfield import __version__, loops, processors
from farfield.cli.output import JSON, hand_over, json_text, write

if TYPE_CHECKING:
    from rich.console import Console

# extra -> what one can do with it; its packages are read from the metadata of the installed farfield
ADDS = {
    "torch": "training and patching of networks: farfield pfn train, sweeps on modules, the claims that train",
    "transformers": "the claims on real language models, the Trainer's callback",
    "sklearn": "the gap of scikit-learn estimators",
    "ray": "farfield forecast --engine ray: more curves than one machine holds",
    "hpo": "a pruner for Optuna that forecasts, farfield.hooks.optuna",
    "web": "nothing yet; reserved for the atlas in a browser",
    "dev": "the tests, linters and builds of farfield itself",
}


def _requirements() -> dict[str, list[str]]:
    """Extra ("" for the core) -> the packages it needs, as the installed farfield declares them."""
    try:
        declared = importlib.metadata.requires("farfield") or []
    except importlib.metadata.PackageNotFoundError:
        declared = []  # run from a source tree that was never installed
    needs: dict[str, list[str]] = {}
    for requirement in declared:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"""extra\s*==\s*['"]([\w.-]+)['"]""", requirement)
        if name and name[0] != "farfield":
            needs.setdefault(extra[1] if extra else "", []).append(name[0])
    return needs


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> dict[str, Any]:
    if importlib.util.find_spec("torch") is None:
        return {"kind": "cpu", "names": [], "note": "torch is not installed; only it would use an accelerator"}
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"kind": "cpu", "names": [], "note": f"torch is installed but does not load: {error}"}
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return {"kind": "cuda", "names": names, "note": f"torch {torch.__version__}"}
    kind = "mps" if torch.backends.mps.is_available() else "cpu"
    return {"kind": kind, "names": [], "note": f"torch {torch.__version__}" + (", no accelerator found" if kind == "cpu" else "")}


def _threads() -> dict[str, Any]:
    variables = {name: os.environ.get(name) for name in processors.THREAD_VARIABLES}
    return {"cpus": os.cpu_count(), "usable": processors.usable(), "variables": variables}


def _data() -> dict[str, Any]:
    place = os.environ.get("FARFIELD_DATA")
    if not place:
        return {"path": None, "found": [], "note": "FARFIELD_DATA is not set; claims and tests on data that cannot ship do not run"}
    try:
        found = sorted(p.name for p in Path(place).iterdir() if not p.name.startswith("."))
    except OSError as error:
        return {"path": place, "found": [], "note": f"FARFIELD_DATA cannot be read: {error.strerror}"}
    return {"path": place, "found": found, "note": None if found else "the directory at FARFIELD_DATA is empty"}


def _loops() -> dict[str, Any]:
    why = loops.missing()
    instead = "NumPy does their work, more slowly. Install a C compiler, then farfield again from its source"
    return {"compiled": not why, "note": f"{why}; {instead}" if why else "compiled"}


def report() -> dict[str, Any]:
    """All that `farfield doctor` knows, as JSON-ready values; ``ok`` is False where a core package is missing."""
    needs = _requirements()
    core = {package: _version(package) for package in needs.get("", [])}
    extras = []
    for extra, adds in ADDS.items():
        packages = {package: _version(package) for package in needs.get(extra, [])}
        installed = bool(packages) and all(packages.values())
        extras.append({"extra": extra, "installed": installed, "adds": adds, "packages": packages})
    return {
        "farfield": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "core": core,
        "extras": extras,
        "loops": _loops(),
        "threads": _threads(),
        "device": _device(),
        "data": _data(),
        "ok": bool(core) and all(core.values()),
    }


@click.command(name="doctor")
@JSON
def command(as_json: bool) -> int:
    """Versions, optional extras and what each missing one would add, threads, device and data.

    Exit code 0: everything the core needs is installed. 1: a core package is missing.
    """
    found = report()
    if as_json:
        write(json_text(found), None)
    else:
        hand_over(lambda console: _show(found, console))
    return 0 if found["ok"] else 1


def _show(found: dict[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    core = ", ".join(f"{name} {version or 'MISSING'}" for name, version in found["core"].items())
    threads, device, data = found["threads"], found["device"], found["data"]
    variables = ", ".join(f"{k}={v}" for k, v in threads["variables"].items() if v) or "no thread variable set"
    rows = {
        "farfield": f"{found['farfield']}, Python {found['python']}, {found['platform']}",
        "core": core or "not installed; run: pip install farfield",
        "inner loops": found["loops"]["note"],
        "threads": f"{threads['usable']} of {threads['cpus']} CPUs usable; {variables}",
        "device": "; ".join([device["kind"], *device["names"], device["note"]]),
        "data": data["note"] or f"{data['path']}: {', '.join(data['found'])}",
    }
    for label, value in rows.items():
        facts.add_row(label, Text(value))
    console.print(facts)

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("extra", "installed", "what it adds"):
        table.add_column(heading, no_wrap=heading != "what it adds")
    for extra in found["extras"]:
        versions = ", ".join(f"{n} {v}" for n, v in extra["packages"].items() if v)
        adds = extra["adds"] if extra["installed"] else f"{extra['adds']}; pip install 'farfield[{extra['extra']}]'"
        shown = Text(versions if extra["extra"] != "dev" else "yes", "green") if extra["installed"] else Text("no", "yellow")
        table.add_row(extra["extra"], shown, Text(adds))
    console.print()
    console.print(table)
