"""The file of saved KV: what is in it, how it is written, and how it is known to be whole.

| part | bytes |
|---|---|
| magic | 8 |
| length of the head, and CRC-32 of head and tokens | 2 × 4, little-endian |
| head: JSON with `key`, `space`, `num_tokens`, `kv_bytes`, `kv_crc` | as said |
| token ids | 4 each, little-endian |
| KV, as the backend saves it | `kv_bytes` |

The key says which engine can use it: model, backend, runtime and KV types. A file is written beside
its place and then renamed, so that one with its name is complete, unless the system went down; the
checksums tell that.
"""

import contextlib
import json
import operator
import os
import struct
import sys
from array import array
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zlib import crc32

_MAGIC = b"EDGEDKV1"
_PREFIX = struct.Struct("<8sII")
_MAX_HEAD_BYTES = 4096
_TOKEN_BYTES = 4
SUFFIX = ".kv"
UNFINISHED_SUFFIX = ".tmp"


class KvFileError(Exception):
    """The file is torn, damaged or another engine's."""


class Head(NamedTuple):
    space: str | None
    tokens: tuple[int, ...]
    kv_bytes: int
    kv_crc: int
    kv_start: int
    """Where the KV begins in the file."""


def write(path: Path, key: str, space: str | None, tokens: tuple[int, ...], kv: memoryview) -> int:
    """Make a file that only this user can read; returns its bytes.

    Raises:
        OSError: it was not written, and nothing of it is left.
    """
    known = {
        "key": key,
        "space": space,
        "num_tokens": len(tokens),
        "kv_bytes": kv.nbytes,
        "kv_crc": crc32(kv),
    }
    head = json.dumps(known).encode()
    words = _words(tokens)
    prefix = _PREFIX.pack(_MAGIC, len(head), crc32(words, crc32(head)))
    unfinished = path.with_suffix(UNFINISHED_SUFFIX)
    try:
        fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb", buffering=0) as file:
            for part in (memoryview(prefix + head + words), kv.cast("B")):
                _write_all(file, part)
        unfinished.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    return len(prefix) + len(head) + len(words) + kv.nbytes


def read_head(path: Path, key: str) -> Head:
    """What a file says it holds; its length is checked, its KV is not.

    Raises:
        KvFileError: it is not to be used.
    """
    try:
        with path.open("rb") as file:
            return _read_head(file, key, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise KvFileError(f"cannot be read: {error.strerror}") from error


def read_kv(path: Path, key: str) -> tuple[int, bytearray]:
    """How many tokens a file is of, and their KV.

    Raises:
        KvFileError: it is not to be used.
    """
    try:
        with path.open("rb", buffering=0) as file:
            head = _read_head(file, key, os.fstat(file.fileno()).st_size)
            file.seek(head.kv_start)
            kv = bytearray(head.kv_bytes)
            rest = memoryview(kv)
            while rest:
                count = file.readinto(rest)
                if not count:
                    raise KvFileError("ends too early")
                rest = rest[count:]
    except OSError as error:
        raise KvFileError(f"cannot be read: {error.strerror}") from error
    if crc32(kv) != head.kv_crc:
        raise KvFileError("is damaged: its KV has another checksum")
    return len(head.tokens), kv


def _read_head(file: BinaryIO, key: str, size: int) -> Head:
    prefix = file.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size:
        raise KvFileError("ends in its first bytes")
    magic, head_bytes, crc = _PREFIX.unpack(prefix)
    if magic != _MAGIC or head_bytes > _MAX_HEAD_BYTES:
        raise KvFileError("is no file of saved KV")
    head = file.read(head_bytes)
    try:
        known = json.loads(head)
        found_key, space = known["key"], known["space"]
        num_tokens, kv_bytes, kv_crc = (
            operator.index(known[name]) for name in ("num_tokens", "kv_bytes", "kv_crc")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise KvFileError("has a damaged head") from error
    if num_tokens < 0 or kv_bytes < 0 or not isinstance(space, str | None):
        raise KvFileError("has a damaged head")
    kv_start = _PREFIX.size + head_bytes + num_tokens * _TOKEN_BYTES
    if found_key != key:
        raise KvFileError("is another engine's")
    if kv_start + kv_bytes != size:
        raise KvFileError(f"has {size} bytes, not {kv_start + kv_bytes}")
    words = file.read(num_tokens * _TOKEN_BYTES)
    if crc32(words, crc32(head)) != crc:
        raise KvFileError("is damaged: its head has another checksum")
    return Head(space, _tokens(words), kv_bytes, kv_crc, kv_start)


def _words(tokens: tuple[int, ...]) -> bytes:
    words = array("I", tokens)
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


def _tokens(words: bytes) -> tuple[int, ...]:
    tokens = array("I", words)
    if sys.byteorder == "big":
        tokens.byteswap()
    return tuple(tokens)


def _write_all(file: BinaryIO, part: memoryview) -> None:
    while part:
        part = part[file.write(part) :]
