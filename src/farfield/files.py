"""Atomic files: whatever happens while one is written, its name leads to the whole old content or the whole new one.

The content goes to a temporary file ``.farfield-<random>.tmp`` in the same directory, is synced, and takes the name by a rename.
The writer holds a lock on its temporary file, and a lock ends with its process: a temporary file that nobody has locked was left
by a killed run, and the next write into that directory removes it.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from farfield.errors import InputError

if sys.platform != "win32":
    import fcntl

_PREFIX, _SUFFIX = ".farfield-", ".tmp"


def write_atomic(path: str | os.PathLike[str], data: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that a reader, or a killed run, never sees a part of it.

    Parameters
    ----------
    path : the file; a symbolic link is followed, an existing file keeps its permissions, a device or pipe is written directly
    data : the content, or a function that writes it to the binary file it is given

    Raises InputError where the file cannot be written (no such directory, a directory of that name, no permission, no space).
    What the function in `data` raises comes through unchanged unless it is an OSError; the old file then stays.
    """
    shown = os.fspath(path)
    try:
        if _is_special(shown):
            with open(shown, "wb") as file:
                _fill(file, data)
            return
        target = Path(os.path.realpath(shown))
        if target.is_dir():
            raise InputError(f"cannot write {shown}: it is a directory; name a file in it")
        if not target.parent.is_dir():
            raise InputError(f"cannot write {shown}: there is no directory {target.parent}; make it first")
        _remove_strays(target.parent)
        _replace(target, data)
    except BrokenPipeError:
        raise  # whoever read the pipe went away; the command line ends quietly on that
    except OSError as error:
        raise InputError(f"cannot write {shown}: {_reason(error)}") from error


def _replace(target: Path, data: bytes | Callable[[BinaryIO], object]) -> None:
    descriptor, temporary = _create_locked(target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
            _fill(file, data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_directory(target.parent)


def _fill(file: BinaryIO, data: bytes | Callable[[BinaryIO], object]) -> None:
    if callable(data):
        data(file)
    else:
        file.write(data)


def _create_locked(directory: Path) -> tuple[int, Path]:
    while True:
        temporary = directory / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        # 0o666 less the umask is what open() would give a new file
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
        if sys.platform == "win32" or _lock(descriptor, wait=True):
            return descriptor, temporary
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open temporary file; False where another holds it, or removed it as a stray between its creation and the lock."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # a file system without locks: the write goes on, and nothing there is ever taken for a stray
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return wait
        raise
    return os.fstat(descriptor).st_nlink > 0


def _remove_strays(directory: Path) -> None:
    names: list[str] = []
    with suppress(PermissionError):  # a directory may be writable and not listable
        names = [n for n in os.listdir(directory) if n.startswith(_PREFIX) and n.endswith(_SUFFIX)]
    for name in names:
        # another writer may finish or clean first, a stray of another user is not ours to remove, and in a directory for all
        # users the name may be a pipe, which must not be waited for, or a link, which must not be followed
        with suppress(OSError):
            descriptor = os.open(directory / name, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _lock(descriptor, wait=False):
                    os.unlink(directory / name)
            finally:
                os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    """Make the rename itself survive a power cut, where the system can open a directory."""
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _is_special(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on that device; free some or write elsewhere"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{os.strerror(error.errno).lower()}; write elsewhere or change the permissions of its directory"
    return str(error.strerror or error)
