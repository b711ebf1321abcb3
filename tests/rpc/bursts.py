"""What hostile clients send at once: one function for each kind of attack, the same for one seed.

Each makes the bytes of one connection and says how many frames they are. What takes time, as
connections that stay, is in `tests.rpc.assault`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from edged.v1 import inference_pb2 as pb
from tests.rpc import wire
from tests.rpc.wire import GENERATE, Caller, Kind

MANY = 100
"""Frames of a burst that is a flood."""
FEW = 10
"""Calls of a burst that the server has to answer one by one."""
BIG_BYTES = 2**20
OTHER_METHODS = (
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
METHODS = (
    "/edged.v1.InferenceService/Nothing",
    "/edged.v1.NoService/Generate",
    "/",
    "",
    "generate",
    "/" + "x" * 4000,
)


@dataclass(frozen=True, slots=True)
class Burst:
    content: bytes
    num_frames: int


def bad_preface(draw: Random, caller: Caller) -> Burst:
    """No HTTP/2 at all, or nearly."""
    preface = bytearray(wire.PREFACE)
    preface[draw.randrange(len(preface))] ^= 1 + draw.randrange(255)
    cut = wire.PREFACE[: draw.randrange(len(wire.PREFACE))]
    choices = (
        bytes(preface) + wire.settings(),
        cut,
        draw.randbytes(draw.randint(1, 3000)),
        b"GET / HTTP/1.1\r\nHost: edged\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + draw.randbytes(500),
    )
    return Burst(draw.choice(choices), 1)


def cut_frames(draw: Random, caller: Caller) -> Burst:
    """A good call that ends in the middle."""
    whole = wire.opening() + caller.whole_call(GENERATE, 1, valid_request(draw))
    return Burst(whole[: draw.randrange(len(whole))], 4)


def giant_lengths(draw: Random, caller: Caller) -> Burst:
    """One frame that promises up to 16 MiB and brings a few bytes."""
    length = draw.choice((wire.DEFAULT_FRAME_BYTES + 1, 2**20, wire.MOST_LENGTH))
    stream_id = draw.choice((0, 1, 2))
    lying = wire.frame(draw.randrange(10), draw.randbytes(50), stream_id=stream_id, length=length)
    return Burst(wire.opening() + caller.call(GENERATE, 1) + lying, 4)


def unknown_kinds(draw: Random, caller: Caller) -> Burst:
    """Frames of kinds that nobody has defined, which are to be ignored."""
    frames = (
        wire.frame(
            draw.randint(10, 255),
            draw.randbytes(draw.randint(0, 200)),
            flags=draw.randrange(256),
            stream_id=draw.choice((0, 1, 2**31 - 1)),
        )
        for _ in range(MANY)
    )
    return Burst(wire.opening() + b"".join(frames), MANY + 2)


def random_frames(draw: Random, caller: Caller) -> Burst:
    """Known kinds with anything in them, until one of them ends the connection."""
    num_frames = draw.randint(1, 20)
    frames = (
        wire.frame(
            draw.randrange(10),
            draw.randbytes(draw.choice((0, 4, 5, 8, 6, 12, 100))),
            flags=draw.randrange(256),
            stream_id=draw.choice((0, 1, 3, 4, draw.randrange(2**32))),
        )
        for _ in range(num_frames)
    )
    return Burst(wire.opening() + caller.call(GENERATE, 1) + b"".join(frames), num_frames + 3)


def settings_flood(draw: Random, caller: Caller) -> Burst:
    """Each is to be acknowledged."""
    frames = (
        wire.settings(*((draw.randint(1, 8), draw.choice((0, 1, 16384, 2**31 - 1))),) * 2)
        if draw.random() < 0.02
        else wire.settings((3, draw.randrange(1000)))
        for _ in range(MANY)
    )
    return Burst(wire.opening() + b"".join(frames), MANY + 2)


def ping_flood(draw: Random, caller: Caller) -> Burst:
    """Each is to be answered."""
    frames = (wire.frame(Kind.PING, draw.randbytes(8)) for _ in range(MANY))
    return Burst(wire.opening() + b"".join(frames), MANY + 2)


def window_overflow(draw: Random, caller: Caller) -> Burst:
    """Windows that grow over their limit, or by nothing."""
    stream_id = draw.choice((0, 1))
    increment = draw.choice((0, 2**31 - 1, 2**31))
    frames = wire.window_update(stream_id, increment) * FEW
    return Burst(wire.opening() + caller.call(GENERATE, 1) + frames, FEW + 3)


def continuation_flood(draw: Random, caller: Caller) -> Burst:
    """A header block that never ends."""
    start = wire.frame(Kind.HEADERS, caller.block(GENERATE), stream_id=1)
    part = draw.choice((b"", wire.field("x", "y" * 1000)))
    frames = wire.frame(Kind.CONTINUATION, part, stream_id=1) * MANY
    return Burst(wire.opening() + start + frames, MANY + 3)


def header_bomb(draw: Random, caller: Caller) -> Burst:
    """One field kept in the decoder's table, and a thousand references to it, a byte each."""
    kept = wire.field("bomb", "x" * draw.choice((100, 3900)), is_indexed=True)
    block = caller.block(GENERATE) + kept + bytes((0x80 | 62,)) * 10_000
    return Burst(
        wire.opening() + wire.frame(Kind.HEADERS, block, flags=wire.END_HEADERS, stream_id=1), 3
    )


def hpack_garbage(draw: Random, caller: Caller) -> Burst:
    """A header block of any bytes: what it does to the decoder's state, the next one meets."""
    blocks = (
        wire.frame(
            Kind.HEADERS,
            caller.block(GENERATE)[: draw.randrange(120)] + draw.randbytes(draw.randint(1, 300)),
            flags=wire.END_HEADERS,
            stream_id=stream_id,
        )
        for stream_id in (1, 3, 5)
    )
    return Burst(wire.opening() + b"".join(blocks), 5)


def huge_metadata(draw: Random, caller: Caller) -> Burst:
    """A field of up to a mebibyte, in as many frames as it takes."""
    value = "v" * draw.choice((10_000, 100_000, BIG_BYTES))
    block = caller.block(GENERATE, ("x-huge", value))
    size = wire.DEFAULT_FRAME_BYTES
    parts = [block[at : at + size] for at in range(0, len(block), size)]
    kinds = (Kind.HEADERS, *(Kind.CONTINUATION,) * (len(parts) - 1))
    ends = (*(0,) * (len(parts) - 1), wire.END_HEADERS)
    frames = (
        wire.frame(kind, part, flags=flags, stream_id=1)
        for kind, part, flags in zip(kinds, parts, ends, strict=True)
    )
    return Burst(wire.opening() + b"".join(frames), len(parts) + 2)


def rapid_reset(draw: Random, caller: Caller) -> Burst:
    """Calls that are opened and reset at once, some with a whole message, some without."""
    request = valid_request(draw)
    frames = []
    for number in range(MANY // 2):
        stream_id = 2 * number + 1
        opened = caller.call(GENERATE, stream_id)
        if draw.random() < 0.5:
            opened = caller.whole_call(GENERATE, stream_id, request)
        frames.append(opened + wire.reset(stream_id))
    return Burst(wire.opening() + b"".join(frames), MANY + MANY // 4 + 2)


def bad_messages(draw: Random, caller: Caller) -> Burst:
    """Good calls whose messages are cut, too long, compressed by nobody, or no protobuf."""
    payload = valid_request(draw)
    made = (
        lambda: wire.message(payload)[: draw.randrange(len(payload) + 5)],
        lambda: wire.message(payload, length=draw.choice((2**25, 2**31, 2**32 - 1))),
        lambda: wire.message(payload, length=len(payload) - 1),
        lambda: wire.message(payload, flag=draw.randint(1, 255)),
        lambda: wire.message(draw.randbytes(draw.randint(0, 300))),
        lambda: wire.message(payload) * 2,
        lambda: b"",
    )
    calls = (
        caller.call(GENERATE, stream_id) + wire.data(draw.choice(made)(), stream_id)
        for stream_id in range(1, 2 * FEW, 2)
    )
    return Burst(wire.opening() + b"".join(calls), 2 * FEW + 2)


def mutated_requests(draw: Random, caller: Caller) -> Burst:
    """Good calls with requests in which some bytes have been changed."""
    calls = (
        caller.whole_call(GENERATE, stream_id, mutated(valid_request(draw), draw))
        for stream_id in range(1, 2 * FEW, 2)
    )
    return Burst(wire.opening() + b"".join(calls), 2 * FEW + 2)


def unknown_methods(draw: Random, caller: Caller) -> Burst:
    calls = (
        caller.whole_call(draw.choice(METHODS), stream_id, b"")
        for stream_id in range(1, 2 * FEW, 2)
    )
    return Burst(wire.opening() + b"".join(calls), 2 * FEW + 2)


def other_methods(draw: Random, caller: Caller) -> Burst:
    """Health and reflection, with bytes that are no request."""
    calls = (
        caller.whole_call(draw.choice(OTHER_METHODS), stream_id, draw.randbytes(20))
        for stream_id in range(1, 2 * FEW, 2)
    )
    return Burst(wire.opening() + b"".join(calls), 2 * FEW + 2)


def no_utf8(draw: Random, caller: Caller) -> Burst:
    """Names and values that are no text."""
    bad = "".join(chr(draw.randint(128, 255)) for _ in range(draw.randint(1, 30)))
    fields = draw.choice(
        (
            ("x-note", bad),
            ("x-note-bin", bad),
            ("user-agent", bad),
            ("authorization", f"Bearer {bad}"),
            ("grpc-timeout", bad),
            ("grpc-encoding", bad),
            (bad, "value"),
            ("x-note", "a\r\nb\x00c"),
            ("X-Note", "capitals"),
        )
    )
    path = draw.choice((GENERATE, f"/{bad}", f"{GENERATE}{bad}"))
    calls = (
        wire.frame(
            Kind.HEADERS,
            caller.block(path, fields),
            flags=wire.END_HEADERS | wire.END_STREAM,
            stream_id=stream_id,
        )
        for stream_id in range(1, 2 * FEW, 2)
    )
    return Burst(wire.opening() + b"".join(calls), FEW + 2)


def long_calls(draw: Random, caller: Caller) -> Burst:
    """Good calls for long answers, which whoever sends them does not wait for."""
    request = pb.GenerateRequest(prompt=pb.Prompt(text=str(draw.random())), client="hostile")
    payload = request.SerializeToString()
    calls = (caller.whole_call(GENERATE, stream_id, payload) for stream_id in range(1, 2 * FEW, 2))
    return Burst(wire.opening() + b"".join(calls), 2 * FEW + 2)


def wrong_streams(draw: Random, caller: Caller) -> Burst:
    """Frames on streams that are closed, not open, the server's, or depend on themselves."""
    opened = caller.whole_call(GENERATE, 5, b"") + wire.reset(5)
    wrong = draw.choice(
        (
            caller.call(GENERATE, 2),
            caller.call(GENERATE, 3),
            caller.call(GENERATE, 0),
            wire.data(b"x" * 100, 5),
            wire.data(b"x" * 100, 99),
            wire.frame(Kind.PRIORITY, (7).to_bytes(4) + b"\xff", stream_id=7),
            wire.frame(Kind.PUSH_PROMISE, (8).to_bytes(4), stream_id=5),
            wire.frame(Kind.GOAWAY, bytes(8)) + caller.call(GENERATE, 9),
            caller.call(GENERATE, wire.MOST_STREAM_ID) + caller.call(GENERATE, 11),
            wire.frame(Kind.CONTINUATION, b"", stream_id=5),
        )
    )
    return Burst(wire.opening() + opened + wrong * 3, 8)


def empty_frames(draw: Random, caller: Caller) -> Burst:
    """DATA without data, priorities of nothing: work for whoever reads them."""
    empty = draw.choice(
        (
            wire.frame(Kind.DATA, stream_id=1),
            wire.frame(Kind.PRIORITY, bytes(4) + b"\x10", stream_id=3),
            wire.frame(Kind.WINDOW_UPDATE, (1).to_bytes(4), stream_id=1),
        )
    )
    return Burst(wire.opening() + caller.call(GENERATE, 1) + empty * MANY, MANY + 3)


def valid_request(draw: Random) -> bytes:
    """A GenerateRequest that uses most fields; its answer is short."""
    request = pb.GenerateRequest(
        prompt=pb.Prompt(text="tell me about rivers " * draw.randint(1, 5)),
        sampling=pb.Sampling(
            max_tokens=draw.randint(1, 3),
            temperature=draw.random(),
            top_p=0.9,
            stop=["END", "STOP"],
            stop_token_ids=[1, 2, 3],
            logit_bias={5: 1.0, 6: -1.0},
        ),
        tier=pb.TIER_BATCH,
        client=f"hostile-{draw.randrange(100)}",
        targets=pb.Targets(ttft_s=1.0, deadline_s=5.0),
    )
    return request.SerializeToString()


def mutated(payload: bytes, draw: Random) -> bytes:
    """The message with a few bytes changed, taken out, put in or said twice."""
    changed = bytearray(payload)
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(len(changed) + 1)
        match draw.randrange(5):
            case 0:
                changed[at : at + 1] = draw.randbytes(1)
            case 1:
                del changed[at : at + draw.randint(1, 8)]
            case 2:
                changed[at:at] = draw.randbytes(draw.randint(1, 8))
            case 3:
                changed[at:at] = changed[at : at + 20]
            case _:
                changed[at:at] = b"\xff" * draw.randint(1, 10)
    return bytes(changed)


Make = Callable[[Random, Caller], Burst]
BURSTS: dict[str, Make] = {
    make.__name__: make
    for make in (
        bad_preface,
        cut_frames,
        giant_lengths,
        unknown_kinds,
        random_frames,
        settings_flood,
        ping_flood,
        window_overflow,
        continuation_flood,
        header_bomb,
        hpack_garbage,
        huge_metadata,
        rapid_reset,
        bad_messages,
        mutated_requests,
        unknown_methods,
        other_methods,
        no_utf8,
        long_calls,
        wrong_streams,
        empty_frames,
    )
}
