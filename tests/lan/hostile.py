"""Packets that nobody should send: `python -m tests.lan.hostile garbage|fakes COUNT RATE_PER_S`.

Of a fixed seed. `garbage` is broken, oversized and lying: about whoever answers when it starts.
`fakes` are daemons that are none, all of their own name, from many senders. Prints how many packets
went out.
"""

import asyncio
import contextlib
import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle

from edged.client.lan.browse import Browser
from edged.node.lan.dns_sd import SERVICE_TYPE, Auth, ServiceText
from edged.node.lan.interfaces import usable_interfaces
from edged.node.lan.multicast import (
    IPV4_GROUP,
    PORT,
    TYPE_A,
    TYPE_AAAA,
    TYPE_ANY,
    TYPE_PTR,
    TYPE_SRV,
    TYPE_TXT,
)

MAX_UDP_BYTES = 65_000
MAX_TTL_S = 2**32 - 1
ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe"
RESPONSE, QUERY, TRUNCATED = 0x8400, 0x0000, 0x0200
_SEED = 6
_Make = Callable[[random.Random, str], bytes]


def name(text: str) -> bytes:
    """A name on the wire; the part before the type is one label."""
    instance = text.removesuffix(f".{SERVICE_TYPE}")
    labels = [instance, *SERVICE_TYPE.split(".")] if instance != text else text.split(".")
    raw = b"".join(bytes((len(label.encode()),)) + label.encode() for label in labels if label)
    return raw + b"\0"


def record(owner: bytes, kind: int, data: bytes, ttl: int = 60, class_: int = 0x8001) -> bytes:
    return owner + struct.pack("!HHIH", kind, class_, ttl, len(data) & 0xFFFF) + data


def packet(records: list[bytes], flags: int = RESPONSE, num_questions: int = 0) -> bytes:
    counts = (num_questions, 0, 0, len(records)) if num_questions else (0, len(records), 0, 0)
    return struct.pack("!HHHHHH", 0, flags, *counts) + b"".join(records)


def announcement(
    instance: str, host: str, port: int, address: str, *, ttl: int = 60, text: bytes | None = None
) -> bytes:
    full = name(f"{instance}.{SERVICE_TYPE}")
    told = ServiceText("9.9.9", Auth.TOKEN, "SHA256:" + "A" * 43).encode() if text is None else text
    return packet(
        [
            record(name(SERVICE_TYPE), TYPE_PTR, full, ttl, 1),
            record(full, TYPE_SRV, struct.pack("!HHH", 0, 0, port) + name(host), ttl),
            record(full, TYPE_TXT, told, ttl),
            record(name(host), TYPE_A, socket.inet_aton(address), ttl),
        ]
    )


# ── Garbage ──────────────────────────────────────────────────────────────────────────────────────


def truncated(draw: random.Random, real: str) -> bytes:
    whole = announcement(f"cut {draw.random()}", "cut.local.", 7411, "10.77.0.3")
    return whole[: draw.randrange(len(whole))]


def flipped(draw: random.Random, real: str) -> bytes:
    whole = bytearray(announcement(f"flip {draw.random()}", "flip.local.", 7411, "10.77.0.3"))
    for _ in range(draw.randrange(1, 20)):
        whole[draw.randrange(len(whole))] = draw.randrange(256)
    return bytes(whole)


def noise(draw: random.Random, real: str) -> bytes:
    return draw.randbytes(draw.randrange(1, 1400)) + b"_edged"


def loops(draw: random.Random, real: str) -> bytes:
    """Pointers to themselves, to each other, and in long chains; after a label that is read."""
    chain = b"".join(
        struct.pack("!H", 0xC000 | (20 + 2 * n)) for n in range(1, draw.randrange(200))
    )
    at = draw.choice((12, 20, 22))
    owner = b"\x06_edged" + struct.pack("!H", 0xC000 | at)
    return packet([record(owner, TYPE_PTR, chain + owner)])


def huge_counts(draw: random.Random, real: str) -> bytes:
    body = record(
        name(SERVICE_TYPE), TYPE_PTR, name(f"many {draw.random()}.{SERVICE_TYPE}"), class_=1
    )
    return struct.pack("!HHHHHH", 0, draw.choice((RESPONSE, QUERY)), *[0xFFFF] * 4) + body


def many_records(draw: random.Random, real: str) -> bytes:
    """As many as fit, each of another name."""
    pointer = struct.pack("!H", 0xC00C)
    first = record(name(SERVICE_TYPE), TYPE_PTR, b"\x01a" + pointer, class_=1)
    more = [
        record(pointer, TYPE_PTR, b"\x06" + b"%06x" % draw.randrange(2**24) + pointer, MAX_TTL_S, 1)
        for _ in range(300)
    ]
    return packet([first, *more])


def long_names(draw: random.Random, real: str) -> bytes:
    label = bytes((63,)) + draw.randbytes(63)
    return packet(
        [record(label * draw.randrange(3, 100) + name(SERVICE_TYPE), TYPE_PTR, label * 3)]
    )


def wrong_lengths(draw: random.Random, real: str) -> bytes:
    full = name(f"wrong {draw.random()}.{SERVICE_TYPE}")
    kind = draw.choice((TYPE_A, TYPE_AAAA, TYPE_SRV, TYPE_TXT, TYPE_PTR, 47, 13, 5, 999))
    made = record(full, kind, draw.randbytes(draw.randrange(64)), class_=draw.randrange(2**16))
    return packet([made[:-1] if draw.random() < 0.5 else made])


def giant_text(draw: random.Random, real: str) -> bytes:
    size = draw.choice((400, 8000, 60_000))
    text = (b"\xff" + b"x" * 255) * (size // 256)
    return announcement(f"giant {draw.random()}", "giant.local.", 7411, "10.77.0.3", text=text)


def bad_text(draw: random.Random, real: str) -> bytes:
    pairs = draw.choice(
        (b"\x09txtvers=2", b"\x0averylongkeys=1", b"\x05tls=1", b"\xffa", b"\x02\xff\xfe")
    )
    return announcement(f"text {draw.random()}", "text.local.", 7411, "10.77.0.3", text=pairs)


def strange_ttl(draw: random.Random, real: str) -> bytes:
    ttl = draw.choice((0, 1, 2**31, MAX_TTL_S))
    return announcement(f"ttl {draw.random()}", "ttl.local.", 7411, "10.77.0.3", ttl=ttl)


def escapes(draw: random.Random, real: str) -> bytes:
    return announcement(f"{ESCAPES}{draw.randrange(50)}", "escape.local.", 7411, "10.77.0.3")


def useless_addresses(draw: random.Random, real: str) -> bytes:
    address = draw.choice(("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.77.0.2"))
    return announcement(f"address {draw.randrange(50)}", "address.local.", 7411, address)


def of_the_real_one(draw: random.Random, real: str) -> bytes:
    """Its name with another address, port or end."""
    ttl = draw.choice((0, 60, MAX_TTL_S))
    host = draw.choice(("aaa.local.", "zzz.local."))
    return announcement(real, host, draw.choice((7411, 1, 0)), "10.77.0.66", ttl=ttl)


def questions(draw: random.Random, real: str) -> bytes:
    """With more to come that never comes, and with many answers that are known."""
    owner = name(
        draw.choice((SERVICE_TYPE, f"{real}.{SERVICE_TYPE}", "_services._dns-sd._udp.local."))
    )
    question = owner + struct.pack("!HH", draw.choice((TYPE_PTR, TYPE_ANY)), draw.randrange(2**16))
    known = [
        record(owner, TYPE_PTR, draw.randbytes(12), class_=1) for _ in range(draw.randrange(60))
    ]
    flags = draw.choice((QUERY, TRUNCATED))
    head = struct.pack("!HHHHHH", draw.randrange(2**16), flags, 1, len(known), 0, 0)
    return head + question + b"".join(known)


GARBAGE: tuple[_Make, ...] = (
    *(truncated, flipped, noise, loops, huge_counts, many_records, long_names, wrong_lengths),
    *(giant_text, bad_text, strange_ttl, escapes, useless_addresses, of_the_real_one, questions),
)


def garbage(count: int, real: str) -> Iterator[bytes]:
    draw = random.Random(_SEED)
    for make, _ in zip(cycle(GARBAGE), range(count), strict=False):
        yield make(draw, real)[:MAX_UDP_BYTES]


def fakes(count: int, senders: list[str]) -> Iterator[bytes]:
    for number in range(count):
        address = senders[number % len(senders)]
        yield announcement(f"Fake {number:04}", f"fake-{number}.local.", 7411, address)


# ── Sending ──────────────────────────────────────────────────────────────────────────────────────


def send(packets: Iterator[bytes], senders: list[str], rate_per_s: float) -> int:
    sockets = [_socket(address) for address in senders]
    began_s = time.monotonic()
    sent = 0
    for data in packets:
        with contextlib.suppress(OSError):  # A full queue loses it, as the network may.
            sockets[sent % len(sockets)].sendto(data, (IPV4_GROUP, PORT))
        sent += 1
        ahead_s = sent / rate_per_s - (time.monotonic() - began_s)
        if ahead_s > 0.01:
            time.sleep(ahead_s)
    return sent


def _socket(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    made.bind((address, PORT))
    return made


async def name_of_the_real_one() -> str:
    async with Browser() as browser:
        return (await browser.wait_for(lambda _: True, 10.0))[0].name


def main(kind: str, count: int, rate_per_s: float) -> None:
    senders = [
        str(one.ip)
        for interface in usable_interfaces()
        for one in interface.addresses
        if one.version == 4
    ]
    if kind == "garbage":
        packets = garbage(count, asyncio.run(name_of_the_real_one()))
    else:
        packets = fakes(count, senders)
    print(send(packets, senders, rate_per_s))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
