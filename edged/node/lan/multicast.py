"""Stands between the sockets of multicast DNS and what reads them: how much is read, and from whom.

Theory of operation: whoever is on the network can send any number of packets. zeroconf limits what
it keeps by count, not by bytes, and works on every packet. So each of its sockets gets a `Gate`:
what concerns nobody here is dropped unread, and of the rest only as many bytes a second are read
as two `Budget`s allow, one for each sender and one for all together. A flood from one host so
takes nothing from the others, and one from everywhere takes a bounded share of the processor.
What is kept between two calls of `forget_strangers` is bounded by those bytes.
"""

import asyncio
import contextlib
import logging
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from zeroconf import DNSIncoming, DNSRecord, IPVersion, Zeroconf
from zeroconf.asyncio import AsyncZeroconf

from edged.clock import Clock
from edged.node.lan.interfaces import Interface

TYPE_A, TYPE_PTR, TYPE_TXT, TYPE_AAAA, TYPE_SRV, TYPE_ANY = 1, 12, 16, 28, 33, 255
CLASS_IN = 1
FLAGS_QUERY, FLAGS_RESPONSE = 0x0000, 0x8400
"""A response is authoritative: RFC 6762, 18.4."""

MAX_PACKET_BYTES = 9000
"""RFC 6762, 17."""
MAX_SENDERS = 256
"""Whose budgets are remembered."""
_PACKET_COST_BYTES = 200
"""What a packet costs beside its content."""
_IS_RESPONSE = 0x80

IPV4_GROUP, IPV6_GROUP, PORT = "224.0.0.251", "ff02::fb", 5353

Sender = tuple[str, int] | tuple[str, int, int, int]


class Intake(Protocol):
    """What reads packets."""

    def __call__(self, data: bytes, sender: Sender) -> None: ...


class Budget:
    """Bytes that may be read: so many a second, and `burst_bytes` at once."""

    def __init__(self, bytes_per_s: float, burst_bytes: float, now_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._burst_bytes = burst_bytes
        self._left_bytes = burst_bytes
        self._at_s = now_s

    def has(self, num_bytes: int, now_s: float) -> bool:
        gained = (now_s - self._at_s) * self._bytes_per_s
        self._left_bytes = min(self._burst_bytes, self._left_bytes + gained)
        self._at_s = now_s
        return self._left_bytes >= num_bytes

    def spend(self, num_bytes: int) -> None:
        self._left_bytes -= num_bytes


class Budgets:
    """One for each sender, so that a flood uses up its own; and one for all."""

    def __init__(self, clock: Clock, *, bytes_per_s: float, sender_bytes_per_s: float) -> None:
        self._clock = clock
        self._sender_bytes_per_s = sender_bytes_per_s
        self._all = Budget(bytes_per_s, 2 * bytes_per_s, clock.now_s())
        self._senders: dict[str, Budget] = {}
        self.num_refused = 0

    def take(self, host: str, num_bytes: int) -> bool:
        """Whether a packet of this size may be read."""
        now_s = self._clock.now_s()
        own = self._senders.get(host)
        if own is None:
            while len(self._senders) >= MAX_SENDERS:
                del self._senders[next(iter(self._senders))]
            own = Budget(self._sender_bytes_per_s, 2 * self._sender_bytes_per_s, now_s)
            self._senders[host] = own
        cost = num_bytes + _PACKET_COST_BYTES
        if not own.has(cost, now_s) or not self._all.has(cost, now_s):
            self.num_refused += 1
            return False
        own.spend(cost)
        self._all.spend(cost)
        return True


class Gate(asyncio.DatagramProtocol):
    """The protocol of one socket, before `intake`."""

    def __init__(
        self,
        intake: Intake,
        *,
        wants: Callable[[bytes, str], bool],
        budgets: Budgets,
        failed: Callable[[Exception], None],
    ) -> None:
        self._intake = intake
        self._wants = wants
        self._budgets = budgets
        self._failed = failed

    def datagram_received(self, data: bytes, sender: Sender) -> None:
        host = host_of(sender[0])
        if len(data) > MAX_PACKET_BYTES or not self._wants(data, host):
            return
        if self._budgets.take(host, len(data)):
            self._intake(data, sender)

    def error_received(self, error: Exception) -> None:
        self._failed(error)


def open_multicast(interfaces: Sequence[Interface]) -> AsyncZeroconf:
    """A running loop's own.

    Raises:
        OSError: no socket can be made, or none on the port of multicast DNS.
    """
    # Its warnings are of addresses that are not ready yet, which the next look takes up.
    logging.getLogger("zeroconf").setLevel(logging.ERROR)
    return AsyncZeroconf(interfaces=choice(interfaces), ip_version=_ip_version())


def open_one_shot(interface: Interface) -> tuple[socket.socket, ...]:
    """Sockets on ports of their own, of both families as far as the interface has them: who is
    asked from another port than that of multicast DNS answers there, at once, and to no other
    program of this host (RFC 6762, 6.7).

    Raises:
        OSError: none can be made.
    """
    made = []
    if interface.ipv4 is not None:
        ipv4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.append(ipv4)
        ipv4.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface.ipv4))
        ipv4.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        ipv4.bind((interface.ipv4, 0))
    if interface.has_ipv6:
        ipv6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        made.append(ipv6)
        ipv6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        ipv6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface.index)
        ipv6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        ipv6.bind(("::", 0))
    return tuple(made)


def choice(interfaces: Sequence[Interface]) -> list[str | int]:
    """Those interfaces as zeroconf takes them: one socket for each and each family."""
    return [place for _, place in _places(interfaces)]


def _places(interfaces: Sequence[Interface]) -> list[tuple[int, str | int]]:
    """Each with the index of its interface."""
    places: list[tuple[int, str | int]] = []
    places += ((one.index, one.ipv4) for one in interfaces if one.ipv4 is not None)
    if _ip_version() is not IPVersion.V4Only:
        places += ((one.index, one.index) for one in interfaces if one.has_ipv6)
    return places


async def update_interfaces(
    zeroconf: AsyncZeroconf, was: Sequence[Interface], now: Sequence[Interface]
) -> None:
    """Open the sockets that are missing; those that still lead somewhere are not touched. zeroconf
    knows those of IPv4 by address, and would keep one whose interface was made anew with the
    address it had, or left it to another."""
    old, new = _places(was), _places(now)
    for index, place in old:
        if (index, place) not in new and isinstance(place, str):
            _leave(zeroconf.zeroconf, index, place)
    await zeroconf.async_update_interfaces([place for index, place in new if (index, place) in old])
    await zeroconf.async_update_interfaces(choice(now))


def _leave(zeroconf: Zeroconf, index: int, address: str) -> None:
    """The group of IPv4. zeroconf leaves it by address, and so not where another interface has that
    now; and a socket is let into 20 groups, into each once."""
    member = struct.pack("4s4si", socket.inet_aton(IPV4_GROUP), socket.inet_aton(address), index)
    for reader in zeroconf.engine.readers:
        with contextlib.suppress(OSError):  # It is not in the group.
            reader.sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, member)


def put_gates(zeroconf: Zeroconf, make: Callable[[Intake], Gate]) -> None:
    """Before every socket that has none yet; `make` gets what read it until now."""
    for reader in zeroconf.engine.readers:
        protocol = reader.transport.get_protocol()
        if not isinstance(protocol, Gate):
            listener = cast(asyncio.DatagramProtocol, protocol)
            reader.transport.set_protocol(make(cast(Intake, listener.datagram_received)))


def forget_strangers(zeroconf: Zeroconf, is_own: Callable[[DNSRecord], bool]) -> None:
    """What was heard of others, and which questions were asked. An advertiser needs neither."""
    zeroconf.question_history.clear()
    cache = zeroconf.cache
    for name in cache.names():
        strange = [record for record in cache.entries_with_name(name) if not is_own(record)]
        cache.async_remove_records(strange)


def is_response(data: bytes) -> bool:
    return len(data) > 2 and bool(data[2] & _IS_RESPONSE)


def parse(data: bytes, sender: Sender) -> DNSIncoming:
    """With the interface it came from, as far as the socket tells."""
    scope = sender[3] if len(sender) == 4 else None
    return DNSIncoming(data, (sender[0], sender[1]), scope or None)


def host_of(sender: str) -> str:
    """An IPv4 address as it is, also where an IPv6 socket took the packet."""
    return sender.removeprefix("::ffff:").partition("%")[0]


def _ip_version() -> IPVersion:
    """macOS has no socket that takes multicast of both families."""
    if sys.platform == "darwin" or not socket.has_ipv6:
        return IPVersion.V4Only
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return IPVersion.V4Only
    return IPVersion.All
