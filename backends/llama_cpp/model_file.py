"""Decides whether a path is worth handing to the library, which may abort on a hostile file."""

import re
import stat
import struct
from pathlib import Path

from edged.errors import ModelLoadError, Reason

_MAGIC = b"GGUF"
_HEADER = struct.Struct("<4sIQQ")
"""Magic, version, number of tensors, number of metadata entries (GGUF specification)."""
_VERSIONS = range(2, 4)
_LEAST_TENSOR_BYTES = 32
"""Name length, number of dimensions, one dimension, type and offset."""
_LEAST_ENTRY_BYTES = 13
"""Key length, type and a value of one byte."""
_SPLIT_NAME = re.compile(r"(.+)-00001-of-(\d{5})\.gguf$")


def check_model_file(path: str) -> int:
    """Bytes of the model, over all files of a split one.

    Raises:
        ModelLoadError: BAD_MODEL_FILE, with what is wrong. Names the file without its folder.
    """
    return sum(_check_one(part) for part in _parts(Path(path)))


def _parts(path: Path) -> list[Path]:
    """The files of a model: one, or the NNNNN-of-NNNNN files of a split."""
    match = _SPLIT_NAME.match(path.name)
    if match is None:
        return [path]
    stem, count = match.groups()
    return [
        path.with_name(f"{stem}-{number:05}-of-{count}.gguf") for number in range(1, int(count) + 1)
    ]


def _check_one(path: Path) -> int:
    name = path.name
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise _bad(name, "is a directory; expected one GGUF file")
        if not stat.S_ISREG(status.st_mode):
            raise _bad(name, "is no regular file; expected a GGUF file")
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
    except FileNotFoundError:
        raise _bad(name, "does not exist") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _bad(name, f"cannot be read: {reason}") from error
    _check_header(name, header, status.st_size)
    return status.st_size


def _check_header(name: str, header: bytes, size: int) -> None:
    if not header:
        raise _bad(name, "is empty")
    if header[:4] != _MAGIC[: len(header)]:
        raise _bad(name, f"is not a GGUF file: it begins with {header[:4]!r}, not {_MAGIC!r}")
    if len(header) < _HEADER.size:
        raise _bad(name, f"is truncated: it ends after {len(header)} bytes, inside the header")
    _magic, version, num_tensors, num_entries = _HEADER.unpack(header)
    if version not in _VERSIONS:
        raise _bad(
            name,
            f"has GGUF version {version}; expected {_VERSIONS.start} to {_VERSIONS.stop - 1}",
        )
    if num_tensors * _LEAST_TENSOR_BYTES + num_entries * _LEAST_ENTRY_BYTES > size:
        raise _bad(
            name,
            f"is damaged: it announces {num_tensors} tensors and {num_entries} metadata entries, "
            f"which do not fit in its {size} bytes",
        )


def _bad(name: str, what: str) -> ModelLoadError:
    return ModelLoadError(Reason.BAD_MODEL_FILE, f"model file {name!r} {what}")
