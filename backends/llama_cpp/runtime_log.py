"""Keeps the library's last warnings and errors, so that the reason of a failure can be told, and
the sizes of what it allocates."""

from collections import deque

from backends.llama_cpp.memory import Buffer, read_buffer
from backends.llama_cpp.native import (
    LOG_LEVEL_CONTINUED,
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    LogHook,
)

MAX_LINES = 256
MAX_LINE_CHARACTERS = 400


class RuntimeLog:
    """Bounded: the oldest lines go first. The library may write from any thread."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._keeps_continuation = False
        self._buffers: deque[Buffer] = deque(maxlen=MAX_LINES)
        self._hook = LogHook(self.receive)

    def receive(self, level: int, text: str) -> None:
        if level == LOG_LEVEL_CONTINUED:
            if self._keeps_continuation and self._lines:
                self._keep(f"{self._lines.pop()} {text.strip()}")
            return
        buffer = read_buffer(text)
        if buffer is not None:
            self._buffers.append(buffer)
        self._keeps_continuation = level in (LOG_LEVEL_WARNING, LOG_LEVEL_ERROR)
        if self._keeps_continuation and text.strip():
            self._keep(text.strip())

    def take(self) -> list[str]:
        """The lines since the last call, oldest first."""
        lines = list(self._lines)
        self._lines.clear()
        return lines

    def take_buffers(self) -> list[Buffer]:
        """What was allocated since the last call."""
        buffers = list(self._buffers)
        self._buffers.clear()
        return buffers

    def free(self) -> None:
        """Listen no longer."""
        self._hook.free()

    def _keep(self, line: str) -> None:
        self._lines.append(line[:MAX_LINE_CHARACTERS])
