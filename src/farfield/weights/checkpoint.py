"""A checkpoint as one mapping of tensors, however many files it lies in, read by element ranges and never as a whole.

A checkpoint is a ``.safetensors`` file, or a directory with one, or with several and their ``*.safetensors.index.json``. Opening
reads headers only; what is read later comes by position from the file, so memory holds no more than the range asked for.
"""

from __future__ import annotations

import fnmatch
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from farfield import formats
from farfield.errors import FormatError, InputError, unknown_name
from farfield.weights import compiled
from farfield.weights.header import (
    DTYPE_BITS,
    FLOAT_DTYPES,
    MOST_JSON,
    QUANTISED_DTYPES,
    Header,
    TensorInfo,
    read_header,
    strict_json,
)
from farfield.wording import size

INDEX_ENDING = ".safetensors.index.json"
CRC_KEY = "farfield_crc32"  # in a file's metadata: the CRC-32 of its body, eight hexadecimal digits
# files beside the weights that a checkpoint does not load without, and its licence
SIDE_FILES = (
    *("config.json", "generation_config.json", "adapter_config.json", "preprocessor_config.json", "processor_config.json"),
    *(
        "tokenizer*",
        "vocab*",
        "merges.txt",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template*",
        "*.model",
        "*.tiktoken",
    ),
    *("configuration_*.py", "modeling_*.py", "tokenization_*.py", "LICENSE*", "NOTICE*", "USE_POLICY*"),
)
# parts of tensor names by which quantised weights are known, and what stores them so
_QUANTISED_NAMES = {
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".weight_scale_inv": "block-scaled FP8",
    ".weight_packed": "compressed-tensors",
    ".SCB": "bitsandbytes 8-bit",
    ".quant_state.": "bitsandbytes 4-bit",
}


class Checkpoint:
    """An open checkpoint.

    Attributes
    ----------
    path : what was opened, absolute
    tensors : name -> :class:`TensorInfo`, file by file in the order of the bytes
    shards : file name -> its header
    metadata : what the files' headers say beside the tensors; where two say different things, the first file's
    side_files : name -> path of configuration, tokenizer and licence files; empty where a single file was opened
    tied : name -> the stored tensor that stands for it (an output layer that shares the embedding, say)
    unindexed : tensors that lie in the files and that the index does not name; they are in `tensors` too
    quantised : why the numbers are no plain weights, or None
    index_name : file name of the index, or None
    """

    def __init__(self, path: Path, files: Mapping[str, Path], index: Mapping[str, str] | None, index_name: str | None) -> None:
        self.path = path
        self.index_name = index_name
        self._files = dict(files)
        self._descriptors: dict[str, int] = {}
        self._lock = threading.Lock()
        self.shards: Mapping[str, Header] = MappingProxyType({name: read_header(file) for name, file in files.items()})
        self.tensors, self.unindexed = _gathered(self.shards, index, path)
        metadata: dict[str, str] = {}
        for header in self.shards.values():
            metadata = {**header.metadata, **metadata}
        metadata.pop(CRC_KEY, None)
        self.metadata: Mapping[str, str] = MappingProxyType(metadata)
        self.side_files: Mapping[str, Path] = MappingProxyType(_side_files(path) if path.is_dir() else {})
        config = _config(self.side_files.get("config.json"))
        self.tied: Mapping[str, str] = MappingProxyType(_tied(self.tensors, metadata, config))
        self.quantised = _quantised(self.tensors, config)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, allow_quantised: bool = False) -> Self:
        """Open a file, a directory or an index by its path; only headers are read.

        Raises
        ------
        InputError : nothing there, no safetensors files, several sets of them, or weights that are quantised (fp8, GPTQ, ...):
            their numbers are codes that mean nothing without scales; `allow_quantised` opens them for reading raw bits
        FormatError : a file or the index is damaged or hostile
        """
        try:
            root, files, index, index_name = _located(Path(os.path.abspath(path)))
            checkpoint = cls(root, files, index, index_name)
        except OSError as error:
            raise InputError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
        if checkpoint.quantised and not allow_quantised:
            raise InputError(
                f"{path} holds quantised weights ({checkpoint.quantised}); weights are computed with as they are stored, so only "
                f"{', '.join(FLOAT_DTYPES)} are allowed: take the unquantised checkpoint, or dequantise it first"
            )
        return checkpoint

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self.tensors)} tensors, {size(self.nbytes)}, {len(self.shards)} files)"

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for t in self.tensors.values())

    @property
    def layout(self) -> list[tuple[str, list[tuple[str, str, tuple[int, ...]]]]]:
        """File by file the tensors in it, as :class:`CheckpointWriter` takes them."""
        out: dict[str, list[tuple[str, str, tuple[int, ...]]]] = {shard: [] for shard in self.shards}
        for t in self.tensors.values():
            out[t.shard].append((t.name, t.dtype, t.shape))
        return list(out.items())

    @property
    def files(self) -> list[Path]:
        """The files that it is read from."""
        return [self._files[s] for s in self.shards]

    def file(self, shard: str) -> Path:
        """Where the file of this name lies."""
        return self._files[shard]

    def info(self, name: str) -> TensorInfo:
        """The tensor of this name; InputError with the nearest names where there is none."""
        if name not in self.tensors:
            raise unknown_name("tensor", name, self.tensors)
        return self.tensors[name]

    def read(self, name: str, start: int = 0, stop: int | None = None, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The raw bits of elements ``start .. stop`` of a tensor, in the order they are stored.

        Unsigned integers of the element's width (``uint16`` for BF16, ``uint8`` for BOOL); for C64 two ``uint32`` an element.
        Given `out`, a contiguous array of that type and at least that length, its beginning is filled and returned.

        Raises InputError for an unknown tensor, a range outside it or elements narrower than a byte, FormatError where the file
        has shrunk since it was opened.
        """
        info = self.info(name)
        stop = info.size if stop is None else stop
        if not 0 <= start <= stop <= info.size:
            raise InputError(f"elements {start} to {stop} of {name!r} were asked for; it has 0 to {info.size}")
        dtype, per_element = raw_dtype(info.dtype)
        count = (stop - start) * per_element
        if out is None:
            raw = np.empty(count, dtype)
        elif out.dtype != dtype or out.ndim != 1 or out.size < count or not out.flags.c_contiguous:
            raise InputError(f"out is {out.dtype} of shape {out.shape}; allowed: contiguous {dtype} of at least {count} elements")
        else:
            raw = out[:count]
        self._read_into(info, start * per_element * dtype.itemsize, raw)
        return raw

    def read_float64(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """The exact values of elements ``start .. stop`` of a float tensor (BF16, F16, F32, F64).

        Raises InputError for a tensor of another dtype, else as :meth:`read`.
        """
        info = self.info(name)
        if info.dtype not in FLOAT_DTYPES:
            raise InputError(
                f"tensor {name!r} is {info.dtype}; only {', '.join(FLOAT_DTYPES)} are computed with, copy it by its raw bits"
            )
        raw = self.read(name, start, stop)
        values = compiled.widen(raw, info.dtype) if info.dtype != "F64" and compiled.library() else None
        return formats.widen(raw, info.dtype) if values is None else values

    def read_bytes(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Bytes ``start .. stop`` of a tensor of any dtype, those narrower than a byte too; raises as :meth:`read`."""
        info = self.info(name)
        stop = info.nbytes if stop is None else stop
        if not 0 <= start <= stop <= info.nbytes:
            raise InputError(f"bytes {start} to {stop} of {name!r} were asked for; it has 0 to {info.nbytes}")
        raw = np.empty(stop - start, np.uint8)
        self._read_into(info, start, raw)
        return raw

    def _read_into(self, info: TensorInfo, byte: int, raw: NDArray[Any]) -> None:
        view = raw.view(np.uint8).data
        descriptor = self._descriptor(info.shard)
        done = 0
        while done < len(view):
            try:
                got = os.preadv(descriptor, [view[done:]], info.offset + byte + done)
            except OSError as error:
                raise InputError(f"cannot read {self._files[info.shard]}: {error.strerror or error}") from error
            if got == 0:
                raise FormatError(f"{self._files[info.shard]} ends within tensor {info.name!r}; it has shrunk since it was opened")
            done += got

    def _descriptor(self, shard: str) -> int:
        with self._lock:
            if shard not in self._descriptors:
                try:
                    self._descriptors[shard] = os.open(self._files[shard], os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
                except OSError as error:
                    raise InputError(f"cannot read {self._files[shard]}: {error.strerror or error}") from error
            return self._descriptors[shard]

    def close(self) -> None:
        """Close the files; reading opens them again."""
        with self._lock:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):
            self.close()


def raw_dtype(dtype: str) -> tuple[np.dtype[Any], int]:
    """The unsigned integers that hold raw bits of a dtype, and how many of them one element takes.

    Raises InputError for elements narrower than a byte.
    """
    bits = DTYPE_BITS[dtype]
    if bits < 8:
        raise InputError(f"elements of {dtype} are narrower than a byte and cannot be read one by one")
    return (np.dtype("<u4"), 2) if dtype == "C64" else (np.dtype(f"<u{bits // 8}"), 1)


def _located(path: Path) -> tuple[Path, dict[str, Path], dict[str, str] | None, str | None]:
    """The checkpoint's directory or file, its shards, and its index if it has one."""
    if path.is_file():
        if path.name.endswith(".json"):
            index = _read_index(path)
            return path.parent, {s: path.parent / s for s in dict.fromkeys(index.values())}, index, path.name
        return path, {path.name: path}, None, None
    if not path.is_dir():
        raise InputError(f"there is no checkpoint {path}; allowed: a .safetensors file or a directory that holds some")
    names = sorted(p.name for p in path.iterdir() if p.is_file())
    indexes = [n for n in names if n.endswith(INDEX_ENDING)]
    preferred = f"model{INDEX_ENDING}"
    if len(indexes) > 1 and preferred not in indexes:
        raise InputError(f"{path} holds several indexes ({', '.join(indexes)}); name one of them")
    if indexes:
        return _located(path / (preferred if preferred in indexes else indexes[0]))
    weights = [n for n in names if n.endswith(".safetensors")]
    if "model.safetensors" in weights or len(weights) == 1:
        name = "model.safetensors" if "model.safetensors" in weights else weights[0]
        return path, {name: path / name}, None, None
    if weights:
        raise InputError(
            f"{path} holds {len(weights)} .safetensors files and no {preferred} that ties them together; name one file"
        )
    pickles = [n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    found = f" (only {', '.join(pickles[:3])}, which could run code when read; convert it to safetensors)" if pickles else ""
    raise InputError(f"{path} holds no .safetensors files{found}")


def _read_index(path: Path) -> dict[str, str]:
    document = _json_file(path)
    index = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(index, dict) or not index:
        raise FormatError(f"{path} has no weight_map from tensor names to files")
    for name, shard in index.items():
        if not is_plain_shard_name(shard):
            raise FormatError(f"{path} puts tensor {name!a} into {shard!a}; allowed: names of .safetensors files beside it")
        if not (path.parent / shard).is_file():
            raise FormatError(f"{path} names the file {shard!a}, which is not there; the download is not complete")
    return index


def _json_file(path: Path) -> Any:
    size = path.stat().st_size
    if size > MOST_JSON:
        raise FormatError(f"{path} is {size} bytes long; allowed: up to {MOST_JSON}")
    return strict_json(path.read_bytes(), str(path))


def is_plain_shard_name(shard: object) -> bool:
    """Whether this is the name of a safetensors file in the same directory: no way out of it, no device."""
    return (
        isinstance(shard, str)
        and shard.endswith(".safetensors")
        and shard.isprintable()
        and not shard.startswith((".", "-"))
        and not any(c in shard for c in '/\\:*?"<>|')
    )


def _gathered(
    shards: Mapping[str, Header], index: Mapping[str, str] | None, path: Path
) -> tuple[Mapping[str, TensorInfo], tuple[str, ...]]:
    tensors: dict[str, TensorInfo] = {}
    unindexed: list[str] = []
    for shard, header in shards.items():
        for tensor in header.tensors:
            name = tensor.name
            if index is not None and name in index:
                if index[name] != shard:
                    raise FormatError(f"{path}: the index puts tensor {name!a} into {index[name]}, and {shard} holds one too")
            elif name in tensors:
                raise FormatError(f"{path}: tensor {name!a} lies in {tensors[name].shard} and in {shard}")
            else:
                unindexed.append(name)
            tensors[name] = tensor
    for name in index or ():
        if name not in tensors:
            raise FormatError(f"{path}: the index puts tensor {name!a} into {(index or {})[name]}, which does not hold it")
    return MappingProxyType(tensors), tuple(unindexed) if index is not None else ()


def _side_files(directory: Path) -> dict[str, Path]:
    files = {p.name: p for p in sorted(directory.iterdir()) if p.is_file()}
    return {n: p for n, p in files.items() if any(fnmatch.fnmatchcase(n, pattern) for pattern in SIDE_FILES)}


def _config(path: Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    document = _json_file(path)
    if not isinstance(document, dict):
        raise FormatError(f"{path} holds no JSON object")
    return document


def _tied(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, str]:
    """Names that share a stored tensor: as the metadata of safetensors' own writer says, and as the configuration implies."""
    tied = {alias: name for alias, name in metadata.items() if name in tensors and alias not in tensors}
    embeddings = [n for n in tensors if n.endswith("embed_tokens.weight")]
    if config.get("tie_word_embeddings") is True and "lm_head.weight" not in tensors and len(embeddings) == 1:
        tied.setdefault("lm_head.weight", embeddings[0])
    return tied


def _quantised(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> str | None:
    if config.get("quantization_config"):
        settings = config["quantization_config"]
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        return f"config.json says so: {method if isinstance(method, str) else 'quantization_config'}"
    for name, tensor in tensors.items():
        if tensor.dtype in QUANTISED_DTYPES:
            return f"tensor {name!r} is {tensor.dtype}"
        for part, maker in _QUANTISED_NAMES.items():
            if part in name:
                return f"tensor {name!r}, as {maker} names them"
    return None
