"""GGUF containers, read safely whatever their bytes and written atomically. Knows the keys of no format."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, ReaderTensor
from numpy.typing import DTypeLike, NDArray

from edgesteer.errors import EdgeSteerError
from edgesteer.files import atomic_write

MAGIC = b"GGUF"

VALUE_TYPES: dict[type, GGUFValueType] = {
    bool: GGUFValueType.BOOL,
    int: GGUFValueType.INT64,
    np.int32: GGUFValueType.INT32,
    float: GGUFValueType.FLOAT64,
    str: GGUFValueType.STRING,
}

# All that GGUFReader, NumPy and the classes built from a file's values raise on bytes that make no sense.
MALFORMED = (ValueError, LookupError, TypeError, ArithmeticError, MemoryError, RecursionError)


def write_gguf(
    path: str | os.PathLike[str],
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, NDArray[np.float32]],
) -> None:
    """Write a GGUF atomically, in the order of the mappings. The same arguments give the same bytes.

    Raises EdgeSteerError when the file cannot be written.
    """
    with atomic_write(path) as temporary, closing(GGUFWriter(temporary, architecture)) as writer:
        for key, value in metadata.items():
            if isinstance(value, tuple):
                writer.add_key_value(key, value, GGUFValueType.ARRAY, VALUE_TYPES[type(value[0])])
            else:
                writer.add_key_value(key, value, VALUE_TYPES[type(value)])
        for name, tensor in tensors.items():
            writer.add_tensor(name, np.ascontiguousarray(tensor))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


@contextmanager
def open_gguf(path: str | os.PathLike[str], failure: type[EdgeSteerError], remedy: str) -> Iterator[GGUFReader]:
    """Open a GGUF for the time of the body, which must copy out what it keeps: the file is mapped, not read.

    Raises `failure`, with the file's name and the remedy, when the file is missing, cannot be read, is no
    GGUF, is truncated or corrupt, and when the body trips over its values. The body's own EdgeSteerErrors
    gain the file's name.
    """
    try:
        with np.errstate(over="raise"):
            yield _BoundedReader(path)
    except FileNotFoundError as error:
        raise failure("no such file", where=path, remedy="Check the path.") from error
    except OSError as error:
        raise failure("file cannot be read", where=path, found=error.strerror or error) from error
    except EdgeSteerError as error:
        raise type(error)(str(error), where=path) from error
    except MALFORMED as error:
        if not has_gguf_magic(path):
            raise failure("not a GGUF file", where=path, remedy=remedy) from error
        raise failure("file is truncated or corrupt", where=path, found=error, remedy=remedy) from error


def has_gguf_magic(path: str | os.PathLike[str]) -> bool:
    """True when the file starts as every GGUF does. Raises OSError when it cannot be read."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def metadata_value(reader: GGUFReader, key: str) -> Any:
    """Return a key's value (str, bool, int, float or a list of them), or None when there is no such key."""
    field = reader.get_field(key)
    return None if field is None else field.contents()


def shards_of(
    path: str | os.PathLike[str], reader: GGUFReader, failure: type[EdgeSteerError], remedy: str
) -> list[Path]:
    """Return the files of a GGUF, itself alone or the first of those that it was split into.

    Raises `failure` when it is not the first of them, is not named as llama.cpp finds them, or one is missing.
    """
    path, count = Path(path), metadata_value(reader, "split.count") or 1
    if count == 1:
        return [path]
    ending = f"-00001-of-{count:05}.gguf"
    if not path.name.endswith(ending):
        raise failure("not the first file of a split GGUF", expected=f"a name that ends in {ending}", found=path.name)
    stem = path.name.removesuffix(ending)
    shards = [path.with_name(f"{stem}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    for shard in shards:
        if not shard.is_file():
            raise failure("a shard is missing", expected=shard.name, remedy=remedy)
    return shards


def tensors_of(
    path: str | os.PathLike[str], reader: GGUFReader, failure: type[EdgeSteerError], remedy: str
) -> list[tuple[Path, ReaderTensor]]:
    """Return the tensors of a GGUF in all its shards, each with its file. Raises as shards_of and open_gguf do."""
    first, *others = shards_of(path, reader, failure, remedy)
    found = [(first, tensor) for tensor in reader.tensors]
    for shard in others:
        with open_gguf(shard, failure, remedy) as other:
            found += [(shard, tensor) for tensor in other.tensors]
    return found


def copy_tensors(reader: GGUFReader) -> dict[str, NDArray[Any]]:
    """Copy every tensor out of the mapped file, by name, in the machine's byte order."""
    return {item.name: np.array(item.data, item.data.dtype.newbyteorder("=")) for item in reader.tensors}


class _BoundedReader(GGUFReader):
    """GGUFReader gives short arrays past the end of a file, and so loops as often as a corrupt count says."""

    def _get(self, offset: int, dtype: DTypeLike, count: int = 1, override_order: Any = None) -> NDArray[Any]:
        # Slices of a memmap each have a dict, and a file has hundreds.
        self.data = self.data.view(np.ndarray)  # type: ignore[assignment]
        if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data)}, inside a value")
        return super()._get(offset, dtype, count, override_order)
