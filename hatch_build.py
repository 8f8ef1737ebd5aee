"""Packaging hook: the inner loops are compiled where there is a C compiler, and the catalogue's index is written into a wheel.

The loops (``farfield/loops/*.c``) use nothing of Python's: the wheel is for this platform and any Python, and without a
compiler for any platform, with NumPy in their place. ``CC`` names another compiler.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

# the order of operations is the order written: a contracted product and sum would round another way
FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")


class Build(BuildHookInterface):  # type: ignore[type-arg]
    """An editable install gets the loops beside their source, and reads the catalogue's records themselves."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        self.folder = Path(tempfile.mkdtemp(prefix="farfield-build-"))
        loops = root / "src" / "farfield" / "loops"
        library = (loops if version == "editable" else self.folder) / "_loops.so"
        compiled = self.compile(sorted(loops.glob("*.[ch]")), library)
        if version == "editable":
            return
        if compiled:
            build_data["force_include"][str(library)] = "farfield/loops/_loops.so"
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{next(sys_tags()).platform}"
        self.index(root, build_data)

    def compile(self, sources: Sequence[Path], library: Path) -> bool:
        """Whether the loops could be compiled; the library then stands there, and else none does."""
        if sys.platform == "win32":
            return False
        new, stamp = self.folder / "new.so", self.folder / "stamp.c"
        made_of = zlib.crc32(b"".join(source.read_bytes() for source in sources))
        stamp.write_text(f"#include <stdint.h>\nconst uint32_t farfield_sources = {made_of}u;\n")
        try:
            compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
            units = [str(source) for source in sources if source.suffix == ".c"]
            command = [*compiler, *FLAGS, *units, str(stamp), "-o", str(new)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            reason = done.stderr.strip() or f"{compiler[0]} ended with {done.returncode}"
        except (OSError, ValueError, subprocess.SubprocessError) as error:  # ValueError: a CC whose quotes do not close
            reason = str(error)
        try:
            if new.exists():  # in one step: a process may be loading, or using, the library that was there
                beside = library.with_name(f"{library.name}.{os.getpid()}")
                shutil.copyfile(new, beside)
                os.replace(beside, library)
            else:
                library.unlink(missing_ok=True)
        except OSError as error:  # an editable installation of a checkout that cannot be written to
            reason = str(error)
        if not library.exists():
            self.app.display_warning(f"the inner loops are left to NumPy: they were not compiled ({reason})")
        return library.exists()

    def index(self, root: Path, build_data: dict[str, Any]) -> None:
        """Put ``farfield/papers/index.sqlite`` (records, statuses, verdicts, search tables) into the wheel."""
        sys.path.insert(0, str(root / "src"))
        try:
            from farfield.papers import index
        finally:
            sys.path.pop(0)
        file = self.folder / index.NAME
        file.write_bytes(index.build(root))
        build_data["force_include"][str(file)] = f"farfield/papers/{index.NAME}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(self.folder)
