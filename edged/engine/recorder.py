"""The flight recorder: a page of memory in which an engine process says what it is computing.

Theory of operation: the page belongs to the daemon, so it outlives the engine, whatever ended that.
The engine thread writes when a step begins and ends; the daemon reads when it likes, without asking
any thread of the engine. The page begins with eight aligned words, each stored at once:

| word | meaning |
|---|---|
| 0 | version: odd while a write is under way, so that a torn read is noticed |
| 1, 2 | steps begun, steps ended; a step executes while they differ |
| 3 | when the last of them began, seconds of the monotonic clock that processes share |
| 4 | bytes of the list of request ids |
| 5 to 7 | not used |

The request ids of the last step that began follow, as msgpack. They are rewritten only when they
changed, which while decoding they seldom do. Processors of weaker memory order than x86 may show
the words late, but never a list that is not the version's: between two stores of the version lie
thousands of instructions of the interpreter, and a reader that doubts looks again.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from edged.clock import Clock
from edged.core.types import RequestId

PAGE_BYTES = 128 * 1024
"""The ids of 256 chunks and 256 evictions, of 200 bytes each, fit."""
_HEADER_BYTES = 64
MAX_IDS_BYTES = PAGE_BYTES - _HEADER_BYTES
_VERSION, _BEGUN, _ENDED, _BEGUN_AT, _IDS_BYTES = range(5)
_READ_ATTEMPTS = 64

_encode_ids = msgspec.msgpack.Encoder().encode
_decode_ids = msgspec.msgpack.Decoder(tuple[str, ...]).decode


@dataclass(frozen=True, slots=True)
class Record:
    """What the engine was doing when it wrote last."""

    num_steps_begun: int
    num_steps_ended: int
    begun_at_s: float
    request_ids: tuple[RequestId, ...]
    """Requests of the step that began last."""

    @property
    def is_executing(self) -> bool:
        """A step has begun and not ended."""
        return self.num_steps_begun != self.num_steps_ended

    @property
    def executing(self) -> frozenset[RequestId]:
        """Requests of the step that has begun and not ended."""
        return frozenset(self.request_ids) if self.is_executing else frozenset()


def create_page() -> int:
    """Open a file of `PAGE_BYTES` zeros that has no name; the caller closes it.

    Raises:
        OSError: the temporary directory has no room. Nothing is left behind.
    """
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(bytes(PAGE_BYTES))  # a hole could not be filled later, on a full disk
        return os.dup(file.fileno())


class FlightRecorder:
    """The engine's side; owned by the engine thread. A few microseconds a step."""

    def __init__(self, fd: int, clock: Clock) -> None:
        """Map the page behind `fd`, which may be closed afterwards."""
        self._clock = clock
        self._map = mmap.mmap(fd, PAGE_BYTES)
        view = memoryview(self._map)
        self._words = view[:_HEADER_BYTES].cast("Q")
        self._seconds = view[:_HEADER_BYTES].cast("d")
        self._request_ids: list[RequestId] = []
        self._write_ids()

    def begin_step(self, request_ids: Sequence[RequestId]) -> None:
        """Say whose tokens the next step computes; called before anything of it is executed."""
        words = self._words
        listed = list(request_ids)
        words[_VERSION] += 1
        if listed != self._request_ids:
            self._request_ids = listed
            self._write_ids()
        self._seconds[_BEGUN_AT] = self._clock.now_s()
        words[_BEGUN] += 1
        words[_VERSION] += 1

    def end_step(self) -> None:
        """Say that the step is over; without a step that has begun, do nothing."""
        words = self._words
        if words[_BEGUN] == words[_ENDED]:
            return
        words[_VERSION] += 1
        words[_ENDED] = words[_BEGUN]
        words[_VERSION] += 1

    def _write_ids(self) -> None:
        body = _encode_ids(self._request_ids)
        assert len(body) <= MAX_IDS_BYTES, f"{len(body)} bytes of ids; at most {MAX_IDS_BYTES}"
        self._map[_HEADER_BYTES : _HEADER_BYTES + len(body)] = body
        self._words[_IDS_BYTES] = len(body)


class RecordReader:
    """The daemon's side."""

    def __init__(self, fd: int) -> None:
        """Map the page behind `fd`, which may be closed afterwards."""
        self._map = mmap.mmap(fd, PAGE_BYTES, access=mmap.ACCESS_READ)

    def read(self) -> Record | None:
        """What the page says; None while a write is under way or when it holds nonsense.

        An engine that died in the middle of a write was not executing a step: it writes before a
        step and after it.
        """
        for _ in range(_READ_ATTEMPTS):
            # A copy of the page may load its words in any order, so it cannot tell its own version.
            version = self._version()
            page = self._map[:]
            if version % 2 == 0 and self._version() == version:
                return _record(page)
        return None

    def close(self) -> None:
        self._map.close()

    def _version(self) -> int:
        return memoryview(self._map[:8]).cast("Q")[0]


def _record(page: bytes) -> Record | None:
    header = memoryview(page)[:_HEADER_BYTES]
    words, seconds = header.cast("Q"), header.cast("d")
    num_bytes = words[_IDS_BYTES]
    request_ids: tuple[str, ...] = ()
    if num_bytes:
        try:
            request_ids = _decode_ids(page[_HEADER_BYTES : _HEADER_BYTES + num_bytes])
        except msgspec.DecodeError:  # a runtime that writes where it should not may hit this too
            return None
    return Record(
        num_steps_begun=words[_BEGUN],
        num_steps_ended=words[_ENDED],
        begun_at_s=seconds[_BEGUN_AT],
        request_ids=tuple(RequestId(request_id) for request_id in request_ids),
    )
