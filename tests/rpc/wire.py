"""HTTP/2 and gRPC by hand: frames as bytes, well-formed or not, for clients that mean no good.

A library of HTTP/2 keeps its caller from sending what it should not; here nothing does. Header
blocks are literals without Huffman coding, which every decoder must take.
"""

from dataclasses import dataclass
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GENERATE = "/edged.v1.InferenceService/Generate"
MOST_STREAM_ID = 2**31 - 1
MOST_LENGTH = 2**24 - 1
DEFAULT_FRAME_BYTES = 16384
"""The longest payload that a peer takes which has not said otherwise."""


class Kind(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


END_STREAM = ACK = 1
END_HEADERS = 4

INITIAL_WINDOW_SIZE = 4
"""The setting of that name."""


def frame(
    kind: int,
    payload: bytes = b"",
    *,
    flags: int = 0,
    stream_id: int = 0,
    length: int | None = None,
) -> bytes:
    """One frame; a `length` that is not that of the payload is a lie."""
    told = len(payload) if length is None else length
    return told.to_bytes(3) + bytes((kind, flags)) + stream_id.to_bytes(4) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    payload = b"".join(number.to_bytes(2) + value.to_bytes(4) for number, value in pairs)
    return frame(Kind.SETTINGS, payload)


def opening(*pairs: tuple[int, int]) -> bytes:
    """What a well-behaved client begins a connection with."""
    return PREFACE + settings(*pairs) + frame(Kind.SETTINGS, flags=ACK)


def reset(stream_id: int, code: int = 8) -> bytes:
    return frame(Kind.RST_STREAM, code.to_bytes(4), stream_id=stream_id)


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(Kind.WINDOW_UPDATE, increment.to_bytes(4), stream_id=stream_id)


def field(name: str, value: str, *, is_indexed: bool = False) -> bytes:
    """A header field as a literal; an indexed one takes a place in the decoder's table."""
    return bytes((0x40 if is_indexed else 0,)) + _text(name) + _text(value)


@dataclass(frozen=True, slots=True)
class Caller:
    """Makes the calls of one client."""

    more: tuple[tuple[str, str], ...] = ()
    """Header fields beside those that every call has, as a token."""

    def block(self, path: str, *more: tuple[str, str]) -> bytes:
        """The header block of a gRPC call."""
        fields = (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "edged"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *self.more,
            *more,
        )
        return b"".join(field(name, value) for name, value in fields)

    def call(self, path: str, stream_id: int) -> bytes:
        """The HEADERS frame of a call whose message is still to come."""
        block = self.block(path)
        return frame(Kind.HEADERS, block, flags=END_HEADERS, stream_id=stream_id)

    def whole_call(self, path: str, stream_id: int, payload: bytes) -> bytes:
        """A call as a well-behaved client makes it."""
        return self.call(path, stream_id) + data(message(payload), stream_id)


def message(payload: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message with its five bytes in front; flag and `length` may lie."""
    told = len(payload) if length is None else length
    return bytes((flag,)) + told.to_bytes(4) + payload


def data(content: bytes, stream_id: int, *, is_last: bool = True) -> bytes:
    """The content in as many DATA frames as it takes."""
    size = DEFAULT_FRAME_BYTES
    parts = [content[at : at + size] for at in range(0, max(1, len(content)), size)]
    flags = [0] * (len(parts) - 1) + [END_STREAM if is_last else 0]
    return b"".join(
        frame(Kind.DATA, part, flags=flag, stream_id=stream_id)
        for part, flag in zip(parts, flags, strict=True)
    )


def _text(text: str) -> bytes:
    """Characters up to 255 are bytes: a text need not be UTF-8."""
    encoded = text.encode("latin-1")
    return _integer(len(encoded)) + encoded


def _integer(value: int) -> bytes:
    """HPACK's integer with a prefix of seven bits."""
    if value < 127:
        return bytes((value,))
    rest = value - 127
    encoded = bytearray((127,))
    while rest >= 128:
        encoded.append(rest % 128 + 128)
        rest //= 128
    encoded.append(rest)
    return bytes(encoded)
