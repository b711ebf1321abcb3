"""Knows a file that nobody has changed since edged wrote it, whatever version of edged that was.

Theory of operation: the first line of such a file ends with a hash of all that follows.
"""

import hashlib
from pathlib import Path

_LINE = "# Until somebody changes it, this file is kept up to date and removed with edged: "
"""Read by people; another version may say it in other words."""
_NUM_DIGITS = 16
"""Enough, as nobody gains by forging it."""


def sealed(text: str) -> str:
    """`text`, below a line that tells whether it is still the same."""
    return f"{_LINE}{_hash(text.encode())}\n{text}"


def is_whole(path: Path) -> bool:
    """Whether a file, no link to one, is as it was sealed, and can be read."""
    try:
        if path.is_symlink():
            return False
        line, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return False
    return line.endswith(f" {_hash(content)}".encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_NUM_DIGITS]
