"""A score that a command prints: run without a shell, once for each checkpoint, its last line read as a number or as JSON."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farfield.errors import InputError

PLACE = "{model}"
_SHOWN = 400  # characters of a failed command's error output


@dataclass(frozen=True)
class ScoreCommand:
    """A command with ``{model}`` among its arguments, called with the path of a checkpoint.

    The last line that it prints is a number, a JSON array of one number an example, or a JSON object with ``score`` or ``scores``.
    """

    arguments: tuple[str, ...]
    timeout: float | None = None

    @classmethod
    def parse(cls, text: str, timeout: float | None = None) -> ScoreCommand:
        """From one line, split as a shell would split it; no shell runs. InputError where ``{model}`` is missing."""
        try:
            arguments = tuple(shlex.split(text))
        except ValueError as error:
            raise InputError(f"cannot split {text!r} into arguments: {error}") from error
        if not any(PLACE in a for a in arguments):
            raise InputError(f"the score command {text!r} has no {PLACE}; put it where the checkpoint's path belongs")
        return cls(arguments, timeout)

    def __call__(self, model: Path) -> float | Sequence[float]:
        """The score, or scores, of a checkpoint; InputError where the command fails or prints neither."""
        arguments = [a.replace(PLACE, str(model)) for a in self.arguments]
        try:
            done = subprocess.run(arguments, capture_output=True, text=True, errors="replace", timeout=self.timeout, check=False)
        except OSError as error:
            raise InputError(f"cannot run {arguments[0]}: {error.strerror or error}") from error
        except subprocess.TimeoutExpired as error:
            raise InputError(f"{arguments[0]} took longer than {error.timeout:g} s") from error
        if done.returncode:
            raise InputError(f"{shlex.join(arguments)} ended with {done.returncode}: {done.stderr.strip()[-_SHOWN:]}")
        lines = done.stdout.split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        value = _read(last)
        if value is None:
            raise InputError(
                f"the last line that {arguments[0]} printed is {last[:80]!r}; allowed: a number, a JSON array of numbers, or an "
                'object with "score" or "scores"'
            )
        return value


def _read(line: str) -> float | list[float] | None:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        value = value.get("scores", value.get("score"))
    if isinstance(value, list) and value and all(_is_number(v) for v in value):
        return [float(v) for v in value]
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
