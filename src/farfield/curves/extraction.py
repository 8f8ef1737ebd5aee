"""Features of samples by a network of one's own: batches in, one matrix of features out, in memory or streamed into a file.

What the scores of `farfield.curves.image_scores` and `farfield.curves.limits` take is a matrix, a row a sample. Here it is made:
the samples are read a batch at a time, the module sees them in evaluation mode and without gradients, and the rows go to memory or
straight into a ``.npy`` file, which is then mapped. Afterwards the module is as it was: every part's training flag, and its device.
torch is used where the module or the samples are torch's, and never imported here.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from farfield import checks
from farfield.curves.features import read_array
from farfield.errors import FormatError, InputError, MissingExtraError
from farfield.files import write_atomic
from farfield.progress import progress

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm")
Batch = tuple[int, Any]  # number of its first sample, and what the module is given


def extract_features(
    module: Callable[[Any], Any],
    samples: Any,
    *,
    batch_size: int = 64,
    device: Any = None,
    out: str | os.PathLike[str] | None = None,
    name: str = "samples",
    quiet: bool = False,
) -> NDArray[Any]:
    """The features (n, d) of `samples`, a row each: what :func:`fid_infinity`, :func:`is_infinity` and :func:`limit` take.

    Parameters
    ----------
    module : a torch module, or any function of a batch, that returns (batch, d) numbers, axes of length 1 after that allowed; a
        module gets tensors on its device, real numbers in its own precision; a function gets what the samples are, or tensors
        where `device` is given
    samples : an array or tensor (n, ...); a file (``.npy`` mapped, ``.npz``, ``.safetensors``, Parquet); a folder, searched with
        the folders in it in order of their names, of images (float32 (3, height, width) from 0 to 1) or of ``.npy`` files, a
        sample each; anything with a length and an index, such as a torch data set or a list of texts, a sample an index; or
        another iterable, such as a DataLoader, a batch an item. Of items that are tuples, as (image, label), the first is taken
    batch_size : samples at a time; of an iterable of batches, whatever they hold
    device : where the module computes, such as "cuda"; default where it is, and there it returns
    out : a ``.npy`` file to stream the features into, so that they may exceed memory; written as a whole or not at all
    name : what the samples are called in messages
    quiet : no progress bar

    Float32 unless the module computes in float64. Raises InputError for samples of different shapes, a module that fails or returns
    another shape, and the first sample whose features are not finite; FormatError for files that cannot be read.
    """
    batch_size = checks.count("batch_size", batch_size)
    if not callable(module):
        raise InputError(f"module is {type(module).__name__}; allowed: a torch module, or a function of a batch of samples")
    if out is not None and Path(out).suffix.casefold() != ".npy":
        raise InputError(f"out is {os.fspath(out)}; allowed: a file that ends in .npy")
    total, batches = _batches(name, samples, batch_size)
    with _ready(module, device) as prepare, progress(f"features of {name}", total, quiet=quiet) as advance:
        rows = _rows(module, batches, prepare, name, advance)
        if out is None:
            return np.concatenate([*_nonempty(rows, name)])
        write_atomic(out, lambda file: _stream(file, _nonempty(rows, name)))
    return np.asanyarray(np.load(out, mmap_mode="r", allow_pickle=False))


def _nonempty(rows: Iterator[NDArray[Any]], name: str) -> Iterator[NDArray[Any]]:
    first = next(rows, None)
    if first is None:
        raise InputError(f"{name} holds no samples")
    yield first
    yield from rows


def _stream(file: BinaryIO, rows: Iterator[NDArray[Any]]) -> None:
    """A .npy file of blocks of rows: how many there are is known at its end only, and its header leaves room for that."""
    n, begin = 0, 0
    described: dict[str, Any] = {}
    for block in rows:
        if not n:
            described = {"descr": np.lib.format.dtype_to_descr(block.dtype), "fortran_order": False, "shape": (0, block.shape[1])}
            np.lib.format.write_array_header_1_0(file, described)
            begin = file.tell()
        file.write(np.ascontiguousarray(block, dtype=described["descr"]).tobytes())
        n += len(block)
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {**described, "shape": (n, described["shape"][1])})
    if file.tell() != begin:
        raise RuntimeError("the header of a .npy file grew; this NumPy leaves no room in it")


# -- the module ---------------------------------------------------------------------------------------------------------------


def _torch_kind(value: Any, kind: str) -> bool:
    """Whether `value` is a torch.Tensor or torch.nn.Module: if torch was never imported, nothing is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor if kind == "Tensor" else torch.nn.Module)


@contextmanager
def _ready(module: Any, device: Any) -> Iterator[Callable[[Any], Any]]:
    """The module in evaluation mode, on `device`, without gradients; yields what puts a batch in the form it wants."""
    if not _torch_kind(module, "Module"):
        if device is not None and not isinstance(device, str | int) and "torch" not in sys.modules:
            raise InputError(f"device is {device!r}; allowed: the name of a torch device, such as 'cuda'")
        with _no_grad() if device is not None or "torch" in sys.modules else nullcontext():
            yield (lambda batch: batch) if device is None else (lambda batch: _tensor(batch, device, None))
        return
    parts = [(part, part.training) for part in module.modules()]
    held = [*module.parameters(), *module.buffers()]
    homes = {tensor.device for tensor in held}
    if device is not None and len(homes) > 1:
        raise InputError(f"device is {device} and the module lies on {len(homes)} devices; leave device out")
    home = next(iter(homes), None)
    to = home if device is None else device
    real = next((tensor.dtype for tensor in held if tensor.is_floating_point()), None)
    try:
        if device is not None:
            _moved(module, device)
        module.eval()
        with _no_grad():
            yield lambda batch: _tensor(batch, to, real)
    finally:
        if device is not None and home is not None:
            module.to(home)
        for part, training in parts:
            part.training = training


def _no_grad() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "device") from None
    return torch.no_grad()


def _moved(module: Any, device: Any) -> None:
    try:
        module.to(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"the module cannot be moved to device {device!r}: {str(error).splitlines()[0]}") from error


def _tensor(batch: Any, device: Any, real: Any) -> Any:
    """A tensor of the batch; lists, such as of texts, stay what they are."""
    import torch

    if isinstance(batch, np.ndarray):
        batch = torch.from_numpy(np.array(batch))  # a copy: a mapped file must not be written to
    if not isinstance(batch, torch.Tensor):
        return batch
    try:
        return batch.to(device=device, dtype=real if real is not None and batch.is_floating_point() else None)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"a batch cannot be moved to device {device!r}: {str(error).splitlines()[0]}") from error


def _rows(
    module: Callable[[Any], Any],
    batches: Iterator[Batch],
    prepare: Callable[[Any], Any],
    name: str,
    advance: Callable[[int], None],
) -> Iterator[NDArray[Any]]:
    width = None
    for start, batch in batches:
        count = len(batch)
        what = f"samples {start} to {start + count - 1} of {name}"
        shape = f", shape {tuple(batch.shape)}" if hasattr(batch, "shape") else ""
        given = prepare(batch)
        try:
            returned = module(given)
        except Exception as error:  # the user's code may raise anything
            reason = str(error).splitlines()[0] if str(error) else ""
            hint = "; lower the batch size" if "out of memory" in reason else ""
            raise InputError(f"the module failed on {what}{shape}: {type(error).__name__}: {reason}{hint}") from error
        found = _matrix(returned, count, what)
        if width not in (None, found.shape[1]):
            raise InputError(
                f"the module returned {found.shape[1]} features for {what} and {width} before; allowed: as many for all"
            )
        width = found.shape[1]
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if bad.size:
            raise InputError(
                f"the features of sample {start + int(bad[0])} of {name} are not finite ({bad.size} of this batch of "
                f"{count}); leave such samples out, or see what the module does with them"
            )
        advance(count)
        yield found


def _matrix(returned: Any, count: int, what: str) -> NDArray[Any]:
    """What the module returned as (count, d) numbers."""
    if _torch_kind(returned, "Tensor"):
        returned = returned.detach().cpu()
        if returned.is_floating_point() and returned.element_size() < 4:
            returned = returned.float()  # NumPy has no bfloat16
        returned = returned.numpy()
    if not isinstance(returned, np.ndarray) or returned.dtype.kind not in "biuf":
        kind = returned.dtype if isinstance(returned, np.ndarray) else type(returned).__name__
        raise InputError(
            f"the module returned {kind} for {what}; allowed: one array or tensor (batch, features) of real numbers; wrap it in a "
            "function that picks it"
        )
    shape = returned.shape
    if len(shape) < 2 or shape[0] != count or shape[1] < 1 or any(length != 1 for length in shape[2:]):
        raise InputError(
            f"the module returned shape {shape} for {what}; allowed: ({count}, features), a row a sample; pool or "
            "flatten further axes"
        )
    return returned.reshape(count, -1).astype(np.float64 if returned.dtype.kind != "f" or returned.itemsize > 4 else np.float32)


# -- the samples --------------------------------------------------------------------------------------------------------------


def _batches(name: str, samples: Any, size: int) -> tuple[int | None, Iterator[Batch]]:
    """How many samples there are, if that is known, and their batches."""
    if isinstance(samples, str | os.PathLike) and Path(samples).is_dir():
        samples = _Folder(Path(samples))
    elif isinstance(samples, str | os.PathLike):
        samples = read_array(os.fspath(samples))
    elif hasattr(samples, "to_numpy"):  # a data frame: a sample a row
        samples = samples.to_numpy()
    if isinstance(samples, np.ndarray) or _torch_kind(samples, "Tensor"):
        if samples.ndim < 1 or (isinstance(samples, np.ndarray) and samples.dtype.kind not in "biufUS"):
            raise InputError(f"{name} is an array of {samples.dtype}, shape {samples.shape}; allowed: samples along its first axis")
        n = len(samples)
        return n, ((start, samples[start : start + size]) for start in range(0, n, size))
    if hasattr(samples, "__len__") and hasattr(samples, "__getitem__") and not isinstance(samples, dict | str | bytes):
        n = len(samples)
        starts = range(0, n, size)
        return n, ((s, _stacked([samples[i] for i in range(s, min(s + size, n))], s, name)) for s in starts)
    if isinstance(samples, Iterable) and not isinstance(samples, dict | str | bytes):
        return None, _counted(samples, name)
    raise InputError(
        f"{name} is {type(samples).__name__}; allowed: an array, a file, a folder, a data set with a length, or an "
        "iterable of batches"
    )


def _counted(batches: Iterable[Any], name: str) -> Iterator[Batch]:
    start = 0
    for item in batches:
        batch = _input(item)
        if not hasattr(batch, "__len__") or (hasattr(batch, "ndim") and batch.ndim == 0) or isinstance(batch, dict | str | bytes):
            raise InputError(
                f"{name} yielded {type(batch).__name__} where a batch of samples was expected; of single samples give a list, or "
                "batch them, as a DataLoader does"
            )
        if len(batch):
            yield start, batch
        start += len(batch)


def _input(item: Any) -> Any:
    """What a batch with labels holds first: of a tuple, or of the list of tensors that a DataLoader makes of tuples."""
    if isinstance(item, tuple | list) and item:
        first = item[0]
        if _torch_kind(first, "Tensor") or isinstance(first, np.ndarray) or (isinstance(item, tuple) and isinstance(first, list)):
            item = first
    return item


def _stacked(items: list[Any], start: int, name: str) -> Any:
    """One array or tensor of samples that are arrays, tensors, numbers or pictures; a list of others, such as texts."""
    items = [item[0] if isinstance(item, tuple) and item else item for item in items]
    items = [_pixels(item, f"sample {start + k} of {name}") if _is_picture(item) else item for k, item in enumerate(items)]
    tensors = _torch_kind(items[0], "Tensor")
    if not tensors and not (isinstance(items[0], np.ndarray | int | float | np.generic | list)):
        return items
    shapes = [tuple(item.shape) if hasattr(item, "shape") else np.shape(item) for item in items]
    other = next((k for k, shape in enumerate(shapes) if shape != shapes[0]), None)
    if other is not None:
        raise InputError(
            f"sample {start + other} of {name} has shape {shapes[other]} and sample {start} {shapes[0]}; allowed: one shape; "
            "resize them first, or give batches of one"
        )
    if tensors:
        import torch

        return torch.stack(items)
    return np.stack(items)


class _Folder:
    """The files of a folder as samples."""

    def __init__(self, path: Path) -> None:
        found = sorted(p for p in path.rglob("*") if p.is_file())
        self.files = [p for p in found if p.suffix.casefold() in (*IMAGES, ".npy")]
        if not self.files:
            raise InputError(f"{path} holds none of the files that can be read: {', '.join((*IMAGES, '.npy'))}")
        left = len(found) - len(self.files)
        if left:
            warnings.warn(f"{left} of {len(found)} files in {path} are no images or .npy files and are left out", stacklevel=4)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> NDArray[Any]:
        path = self.files[i]
        if path.suffix.casefold() == ".npy":
            return np.array(read_array(os.fspath(path)))
        from PIL import Image

        try:
            with Image.open(path) as picture:
                return _pixels(picture, str(path))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if isinstance(error, InputError):
                raise
            raise FormatError(f"{path} cannot be read as an image: {error}") from error


def _is_picture(item: Any) -> bool:
    return type(item).__module__.partition(".")[0] == "PIL"


def _pixels(picture: Any, what: str) -> NDArray[np.float32]:
    """(3, height, width) from 0 to 1."""
    if picture.mode[0] in "IF":
        raise InputError(f"{what} is an image of mode {picture.mode}, whose range is not 0 to 255; save it as a .npy array")
    return np.ascontiguousarray(np.asarray(picture.convert("RGB"), dtype=np.float32).transpose(2, 0, 1) / 255)
