"""Generated blocks: the parts of a Markdown file that a command writes, so that a document never repeats by hand what is derived.

A block stands between two comment lines, which a reader of the page does not see:

    <!-- begin generated: families -->
    | family | papers |
    ...
    <!-- end generated: families -->

The command calls :func:`update`; a test compares what :func:`update` would write with what stands there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from farfield.errors import FormatError, InputError, unknown_name
from farfield.files import write_atomic

_MARK = re.compile(r"^<!-- (begin|end) generated: ([\w-]+) -->$", re.MULTILINE)


def blocks(text: str) -> dict[str, str]:
    """Name -> content of every generated block.

    Raises FormatError where a block is not closed, is opened within another, or occurs twice.
    """
    return {name: text[start:end] for name, (start, end) in _spans(text).items()}


def replace(text: str, contents: Mapping[str, str]) -> str:
    """The text with the content of these blocks replaced; a content ends in one newline, whether given one or not.

    Raises InputError where there is no block of a name, FormatError as :func:`blocks`.
    """
    spans = _spans(text)
    for name in contents:
        if name not in spans:
            raise unknown_name("generated block", name, spans)
    # from the last to the first, so that the spans before stay valid
    for name, (start, end) in reversed(spans.items()):
        if name in contents:
            text = text[:start] + contents[name].rstrip("\n") + "\n" + text[end:]
    return text


def update(path: Path, contents: Mapping[str, str], *, check: bool = False) -> bool:
    """Write these blocks into a file, or with `check` only look; True where the file changed, or would.

    Raises InputError where the file cannot be read or written or lacks a block, FormatError where its marks do not pair.
    """
    try:
        old = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    new = replace(old, contents)
    if new != old and not check:
        write_atomic(path, new.encode())
    return new != old


def table(headings: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A Markdown table; a bar within a cell is escaped, and line breaks become spaces."""

    def line(cells: tuple[object, ...]) -> str:
        return "| " + " | ".join(" ".join(str(c).split()).replace("|", r"\|") for c in cells) + " |\n"

    return line(headings) + line(("---",) * len(headings)) + "".join(map(line, rows))


def _spans(text: str) -> dict[str, tuple[int, int]]:
    spans: dict[str, tuple[int, int]] = {}
    opened: tuple[str, int] | None = None
    for mark in _MARK.finditer(text):
        kind, name = mark[1], mark[2]
        line = text.count("\n", 0, mark.start()) + 1
        if kind == "begin":
            if opened or name in spans:
                raise FormatError(
                    f"line {line}: block {name!r} begins {'inside ' + repr(opened[0]) if opened else 'a second time'}"
                )
            opened = (name, min(mark.end() + 1, len(text)))
        else:
            if opened is None or opened[0] != name:
                raise FormatError(f"line {line}: block {name!r} ends and {'none' if opened is None else repr(opened[0])} is open")
            spans[name] = (opened[1], mark.start())
            opened = None
    if opened:
        raise FormatError(f"block {opened[0]!r} has no end; add the line <!-- end generated: {opened[0]} -->")
    return spans
