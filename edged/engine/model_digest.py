"""Which model it is: a hash of its files, remembered as long as they do not change."""

import hashlib
import json
import os
import re
from pathlib import Path

_SPLIT_NAME = re.compile(r"(.+)-00001-of-(\d{5})(\.\w+)$")
_MAX_REMEMBERED = 1000


def model_digest(model: Path, memory: Path) -> str:
    """SHA-256 over the files of a model: one, those of a split one, or all of a folder. `memory`
    is a file of what was hashed before: reading a model takes seconds.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    remembered = _remembered(memory)
    known = len(remembered)
    for path in _files(model):
        status = path.stat()
        place = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
        if place not in remembered:
            with path.open("rb") as file:
                remembered[place] = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(remembered[place].encode())
    if len(remembered) > known:
        _remember(memory, remembered)
    return digest.hexdigest()


def _files(model: Path) -> list[Path]:
    if model.is_dir():
        return sorted(path for path in model.iterdir() if path.is_file())
    match = _SPLIT_NAME.match(model.name)
    if match is None:
        return [model]
    stem, count, suffix = match.groups()
    return [
        model.with_name(f"{stem}-{number:05}-of-{count}{suffix}")
        for number in range(1, int(count) + 1)
    ]


def _remembered(memory: Path) -> dict[str, str]:
    """Nothing, if the file is not there or damaged: it is only to save time."""
    try:
        known = json.loads(memory.read_text())
        return {str(place): str(digest) for place, digest in known.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _remember(memory: Path, remembered: dict[str, str]) -> None:
    newest = dict(list(remembered.items())[-_MAX_REMEMBERED:])
    unfinished = memory.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(newest))
    unfinished.replace(memory)
