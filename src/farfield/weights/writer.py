"""A checkpoint written as a stream: headers first, bodies range by range in any order, checksums, one rename at the end.

Everything goes into a directory ``.NAME.farfield-part`` beside the output. Its journal says which ranges are written and their
CRC-32; a writer given the same layout and the same `key` reads those ranges back, keeps what still has its CRC and goes on from
there. Nothing of the output's name exists until :meth:`CheckpointWriter.finish` has every byte and renames.
"""

from __future__ import annotations

import bisect
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import threading
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from farfield.errors import InputError, unknown_name
from farfield.weights.checkpoint import CRC_KEY, INDEX_ENDING, Checkpoint, is_plain_shard_name, raw_dtype
from farfield.weights.crc import Crc32, combine
from farfield.weights.header import TensorInfo, build_header
from farfield.wording import size

if sys.platform != "win32":
    import fcntl

Layout = Sequence[tuple[str, Sequence[tuple[str, str, Sequence[int]]]]]
_JOURNAL_EVERY = 16 * 2**20  # bytes of a tensor after which the journal says so
_READ_BACK = 4 * 2**20
_AT_ONCE = 512 * 2**10  # bytes; the kernel takes longer for longer pieces
_SPARE_DISK = 16 * 2**20  # for headers, index and journal
_NO_CRC = "00000000"
_SHARD_NUMBER = re.compile(r"-\d+-of-\d+\.safetensors$")


class CheckpointWriter:
    """Writes a checkpoint of a known layout.

    Parameters
    ----------
    out_path : a directory to make, or, for a layout of one file, a name that ends in ``.safetensors``; must not exist (an empty
        directory may)
    layout : (file name, [(tensor, dtype, shape), ...]) for every file; with several files an index is written
    metadata : text that every file's header carries; transformers wants ``{"format": "pt"}``
    side_files : name -> a file to copy beside the weights, or its content
    inputs : what is read meanwhile; an output on top of one is refused
    key : says what is being written (a recipe and its inputs). With a key, what an interrupted writer of the same key and layout
        left is taken up, and what an error interrupts is kept; without one, it is removed
    sync : make the files survive a power cut before they take their name

    Use it as a context manager and call :meth:`finish` within. Different elements may be written from different threads.

    Raises
    ------
    InputError : the output exists, is an input or being written by another process, the disk lacks the space, or the layout
        cannot be stored
    """

    def __init__(
        self,
        out_path: str | os.PathLike[str],
        layout: Layout,
        metadata: Mapping[str, str] | None = None,
        *,
        side_files: Mapping[str, Path | bytes] | None = None,
        inputs: Sequence[Checkpoint | str | os.PathLike[str]] = (),
        key: str | None = None,
        sync: bool = True,
    ) -> None:
        self.out = Path(os.path.abspath(out_path))
        self._side_files = dict(side_files or {})
        self._key, self._sync = key, sync
        self._single = self.out.name.endswith(".safetensors") and len(layout) == 1
        self.tensors: dict[str, TensorInfo] = {}
        self._headers: dict[str, bytes] = {}
        self._plan(layout, dict(metadata or {"format": "pt"}))
        self._refuse_output(inputs)
        self._pieces: dict[str, list[_Piece]] = {name: [] for name in self.tensors}
        self._lock = threading.Lock()
        self._descriptors: dict[str, int] = {}
        self.part = self.out.parent / f".{self.out.name}.farfield-part"
        self._journal = -1
        self._owned = self._done = False
        try:
            self._begin()
        except OSError as error:
            self._abandon()
            raise self._failed(error) from error
        except BaseException:
            self._abandon()
            raise

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for t in self.tensors.values())

    def missing(self, name: str) -> list[tuple[int, int]]:
        """Ranges of elements (start, stop) of a tensor that are not written yet, in order."""
        info, width = self._info(name)
        edges = [0, *(edge for piece in self._pieces[name] for edge in (piece.start, piece.stop)), info.nbytes]
        return [(a // width, b // width) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]

    def write(self, name: str, start: int, raw: NDArray[Any]) -> None:
        """Write raw bits to the elements of a tensor from `start` on.

        `raw` has the element's width, as :meth:`Checkpoint.read` and ``formats.round_to`` give it. No element may be written twice.

        Raises InputError for an unknown tensor, another width, a range outside the tensor or already written, or a full disk.
        """
        info, width = self._info(name)
        dtype, per_element = raw_dtype(info.dtype)
        if raw.itemsize != dtype.itemsize:
            raise InputError(f"tensor {name!r} is {info.dtype}, {dtype.itemsize} bytes a number; got {raw.dtype}")
        data = np.ascontiguousarray(raw).reshape(-1).view(np.uint8).data
        begin, end = start * width, start * width + len(data)
        if start < 0 or end > info.nbytes or raw.size % per_element:
            raise InputError(f"elements {start} to {start + raw.size // per_element} of {name!r} do not exist; it has {info.size}")
        if not len(data):
            return
        pieces = self._pieces[name]
        with self._lock:
            at = bisect.bisect(pieces, begin, key=lambda p: p.start)
            if (at > 0 and pieces[at - 1].stop > begin) or (at < len(pieces) and pieces[at].start < end):
                raise InputError(f"some of elements {start} to {start + raw.size // per_element} of {name!r} are written already")
            goes_on = at > 0 and pieces[at - 1].stop == begin and not pieces[at - 1].journalled
            piece = pieces[at - 1] if goes_on else _Piece(begin, begin)
        self._put(info.shard, info.offset + begin, data)
        piece.crc.update(data)  # whoever writes on from a piece's end is its only writer
        with self._lock:
            piece.stop = end
            if not goes_on:
                bisect.insort(pieces, piece, key=lambda p: p.start)
            if sum(p.stop - p.start for p in pieces) == info.nbytes:
                self._note(name, [p for p in pieces if not p.journalled])
            elif piece.stop - piece.start >= _JOURNAL_EVERY:
                self._note(name, [piece])

    def finish(self) -> Path:
        """Close the checkpoint and give it its name, which is returned.

        Raises InputError where elements are missing, a side file cannot be read, the disk is full, or the name was taken meanwhile.
        """
        for name in self.tensors:
            holes = self.missing(name)
            if holes:
                raise InputError(
                    f"elements {holes[0][0]} to {holes[0][1]} of {name!r} were never written; write every element first"
                )
        try:
            for shard, header in self._headers.items():
                crc = f"{self._crc(shard):08x}".encode()
                self._put(shard, 0, memoryview(header.replace(_crc_entry(_NO_CRC.encode()), _crc_entry(crc), 1)))
            names = set(self._headers)
            if not self._single:
                names |= self._write_beside()
            if self._sync:
                for name in names:
                    _sync(self.part / name)
            self._rename(names)
            self._done = True
            self._close()
        except OSError as error:
            raise self._failed(error) from error
        return self.out

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._done:
            self._abandon()

    # -- before the first byte -------------------------------------------------------------------------------------------

    def _plan(self, layout: Layout, metadata: dict[str, str]) -> None:
        if not layout:
            raise InputError("a checkpoint has at least one file")
        if self._single and self._side_files:
            raise InputError(f"{self.out} is one file and carries no {', '.join(self._side_files)}; name a directory instead")
        if len(layout) > 1 and self.out.name.endswith(".safetensors"):
            raise InputError(
                f"{len(layout)} files need a directory, and {self.out.name} is the name of a file; leave out its ending"
            )
        for shard, tensors in layout:
            if not is_plain_shard_name(shard) or shard in self._headers:
                raise InputError(f"{shard!r} cannot name a file; allowed: different plain names that end in .safetensors")
            header, infos = build_header(shard, tensors, {**metadata, CRC_KEY: _NO_CRC})
            self._headers[shard] = header
            for info in infos:
                if info.name in self.tensors:
                    raise InputError(f"tensor {info.name!r} stands in {self.tensors[info.name].shard} and in {shard}")
                self.tensors[info.name] = info
        for name in self._side_files:
            if name in self._headers or name.endswith(INDEX_ENDING) or Path(name).name != name or name.startswith("."):
                raise InputError(f"{name!r} cannot name a file beside the weights")

    def _refuse_output(self, inputs: Sequence[Checkpoint | str | os.PathLike[str]]) -> None:
        target = os.path.realpath(self.out)
        for source in inputs:
            files = [source.path, *(source.file(s) for s in source.shards)] if isinstance(source, Checkpoint) else [Path(source)]
            if any(os.path.realpath(f) == target or os.path.dirname(os.path.realpath(f)) == target for f in files):
                raise InputError(f"the output {self.out} lies on top of an input; write elsewhere")
        if self.out.is_dir() and not self.out.is_symlink() and not self._single:
            if any(self.out.iterdir()):
                raise InputError(f"{self.out} exists and is not empty; remove it or write elsewhere")
        elif os.path.lexists(self.out):
            raise InputError(f"{self.out} exists; remove it or write elsewhere")
        if not self.out.parent.is_dir():
            raise InputError(f"there is no directory {self.out.parent} to write {self.out.name} in; make it first")

    def _begin(self) -> None:
        journal = self.part / "journal"
        self.part.mkdir(exist_ok=True)
        if self.part.is_symlink():
            raise InputError(f"{self.part} is a link; remove it")
        self._journal = os.open(journal, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        self._lock_journal()
        self._owned = True
        plan = self._plan_line()
        old = journal.read_bytes().splitlines(keepends=True)
        if self._key is not None and old and old[0] == plan:
            for shard in self._headers:
                self._open(shard)
            self._take_up(old[1:])
            self._refuse_full_disk()
            return
        for name in os.listdir(self.part):  # left by another recipe
            if name != "journal":
                os.unlink(self.part / name)
        os.ftruncate(self._journal, 0)
        self._refuse_full_disk()
        for shard, header in self._headers.items():
            self._open(shard)
            self._put(shard, 0, memoryview(header))
        os.pwrite(self._journal, plan, 0)  # last: what has no plan is not taken up

    def _lock_journal(self) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is writing {self.out}; wait for it or write elsewhere") from None

    def _plan_line(self) -> bytes:
        content = hashlib.sha256(b"".join(self._headers.values())).hexdigest()
        return json.dumps({"key": self._key, "headers": content, "files": list(self._headers)}).encode() + b"\n"

    def _refuse_full_disk(self) -> None:
        written = sum(p.stop - p.start for pieces in self._pieces.values() for p in pieces)
        beside = sum(len(s) if isinstance(s, bytes) else s.stat().st_size for s in self._side_files.values())
        needed = self.nbytes - written + beside + sum(map(len, self._headers.values())) + _SPARE_DISK
        free = shutil.disk_usage(self.part).free
        if free < needed:
            raise InputError(f"{self.out} needs {size(needed)} and its disk has {size(free)} free; free some or write elsewhere")

    def _take_up(self, lines: Sequence[bytes]) -> None:
        """Keep the journalled ranges that still have their CRC; a line torn by the kill ends the journal."""
        for line in lines:
            try:
                name, start, stop, crc = json.loads(line)
            except ValueError:
                break
            info = self.tensors[name]
            if self._crc_on_disk(info, start, stop) == crc:
                bisect.insort(self._pieces[name], _Piece(start, stop, crc, journalled=True), key=lambda p: p.start)
        kept = [(name, piece) for name, pieces in self._pieces.items() for piece in pieces]
        text = b"".join(_journal_line(name, piece) for name, piece in kept)
        os.ftruncate(self._journal, len(self._plan_line()))
        os.pwrite(self._journal, text, len(self._plan_line()))

    def _crc_on_disk(self, info: TensorInfo, start: int, stop: int) -> int:
        crc = 0
        for at in range(start, stop, _READ_BACK):
            length = min(_READ_BACK, stop - at)
            crc = zlib.crc32(os.pread(self._descriptors[info.shard], length, info.offset + at), crc)
        return crc

    # -- writing ---------------------------------------------------------------------------------------------------------

    def _info(self, name: str) -> tuple[TensorInfo, int]:
        """A tensor and the bytes of one element."""
        if name not in self.tensors:
            raise unknown_name("tensor", name, self.tensors)
        dtype, per_element = raw_dtype(self.tensors[name].dtype)
        return self.tensors[name], dtype.itemsize * per_element

    def _open(self, shard: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        self._descriptors[shard] = os.open(self.part / shard, flags, 0o666)
        os.ftruncate(self._descriptors[shard], self._file_size(shard))

    def _put(self, shard: str, position: int, data: memoryview) -> None:
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self._descriptors[shard], data[done : done + _AT_ONCE], position + done)
            except OSError as error:
                raise self._failed(error) from error

    def _note(self, name: str, pieces: Sequence[_Piece]) -> None:
        """Journal pieces of a tensor, under the lock; they grow no further."""
        text = b"".join(_journal_line(name, piece) for piece in pieces)
        try:
            os.lseek(self._journal, 0, os.SEEK_END)
            os.write(self._journal, text)
        except OSError as error:
            raise self._failed(error) from error
        for piece in pieces:
            piece.journalled = True

    def _file_size(self, shard: str) -> int:
        return len(self._headers[shard]) + sum(t.nbytes for t in self.tensors.values() if t.shard == shard)

    def _crc(self, shard: str) -> int:
        crc = 0
        for info in self.tensors.values():
            if info.shard == shard:
                for piece in self._pieces[info.name]:
                    crc = combine(crc, piece.crc.value, piece.stop - piece.start)
        return crc

    # -- the end ---------------------------------------------------------------------------------------------------------

    def _write_beside(self) -> set[str]:
        names = set(self._side_files)
        for name, source in self._side_files.items():
            if isinstance(source, bytes):
                (self.part / name).write_bytes(source)
            else:
                shutil.copyfile(source, self.part / name)
        if len(self._headers) > 1:
            first = next(iter(self._headers))
            index = f"{_SHARD_NUMBER.sub('', first) if _SHARD_NUMBER.search(first) else 'model'}{INDEX_ENDING}"
            weight_map = {name: info.shard for name, info in sorted(self.tensors.items())}
            document = {"metadata": {"total_size": self.nbytes}, "weight_map": weight_map}
            (self.part / index).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            names.add(index)
        return names

    def _rename(self, names: set[str]) -> None:
        if self._single:
            if os.path.lexists(self.out):
                raise InputError(f"{self.out} has appeared meanwhile; remove it and run the same again")
            os.rename(self.part / next(iter(names)), self.out)
            shutil.rmtree(self.part, ignore_errors=True)
        else:
            for name in os.listdir(self.part):
                if name not in names:
                    os.unlink(self.part / name)
            os.rename(self.part, self.out)  # replaces an empty directory, and no other
        if self._sync:
            _sync(self.out.parent)

    def _abandon(self) -> None:
        """Stop without an output; what no later run could take up goes."""
        if self._owned and not any(self._pieces.values() if self._key is not None else ()):
            shutil.rmtree(self.part, ignore_errors=True)
        self._close()

    def _close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1

    def _failed(self, error: OSError) -> InputError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "no space left on its disk" if full else error.strerror or str(error)
        kept = "" if self._key is None else f"; what is written is kept in {self.part}, run the same again to go on"
        return InputError(f"cannot write {self.out}: {reason}{kept}")


class _Piece:
    """Bytes ``start .. stop`` of a tensor that are written, and their CRC-32; what is journalled does not grow."""

    __slots__ = ("crc", "journalled", "start", "stop")

    def __init__(self, start: int, stop: int, crc: int = 0, journalled: bool = False) -> None:
        self.start, self.stop, self.crc, self.journalled = start, stop, Crc32(crc), journalled


def _journal_line(name: str, piece: _Piece) -> bytes:
    return json.dumps([name, piece.start, piece.stop, piece.crc.value]).encode() + b"\n"


def _crc_entry(crc: bytes) -> bytes:
    return b'"%s":"%s"' % (CRC_KEY.encode(), crc)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot
            raise
    finally:
        os.close(descriptor)
