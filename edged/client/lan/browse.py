"""Finds daemons on the local network: asks for them, listens, and tells what changes.

Theory of operation: every question goes out twice. Once from a port of its own, where the answer
comes at once and to nobody else; once from the port of multicast DNS, where announcements, goodbyes
and the answers to others are heard too, and which a firewall lets in more often. Either will do:
another program may hold that port alone. What is heard goes through gates that bound how much of a
flood is read, and not through zeroconf's cache, but to `Sightings`, which decide what is believed.
After the start the question is repeated, ever less often, but three times within the life of a
record, so that two lost packets lose no daemon.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, repeat
from typing import Self

from zeroconf import DNSOutgoing, DNSQuestion
from zeroconf.asyncio import AsyncZeroconf

from edged.client.connect.peers import Peer
from edged.client.lan.found import FoundDaemon, Sightings
from edged.clock import Clock, MonotonicClock
from edged.errors import EdgedError, Reason
from edged.node.lan.dns_sd import SERVICE_TYPE
from edged.node.lan.interfaces import Interface, on_link, usable_interfaces
from edged.node.lan.multicast import (
    CLASS_IN,
    FLAGS_QUERY,
    IPV4_GROUP,
    IPV6_GROUP,
    PORT,
    TYPE_A,
    TYPE_AAAA,
    TYPE_ANY,
    TYPE_PTR,
    Budgets,
    Gate,
    Intake,
    Sender,
    host_of,
    is_response,
    open_multicast,
    open_one_shot,
    parse,
    put_gates,
    update_interfaces,
)
from edged.node.trust.fingerprint import PREFIX

BYTES_PER_S = 2 * 1024 * 1024
SENDER_BYTES_PER_S = 256 * 1024
DISCOVER_S = 0.8
"""Time for answers where some come; most take a tenth of it."""
PATIENCE_S = 3.0
"""Where none comes."""
INSIST_S = (0.4, 0.4, 0.4)
"""Between further questions, where a flood may have swallowed the first ones or their answers."""
MANY_REFUSED = 16
"""Announcements that are wrong: a few are of other versions, so many are a flood."""
SETTLE_S = 0.3
"""After the first that fits a search: others may say that they are the same."""

_FIRST_QUERY_S = (0.02, 0.12)
"""At random: many may be started at once (RFC 6762, 5.2)."""
_QUERY_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
_QUERY_PAUSE_S = 19.0
_GATHER_S = 0.05
_TICK_S = 0.25
_LOOK_AROUND_S = 2.0
_MAX_QUESTIONS = 32
_MAX_ONE_SHOT_SOCKETS = 64
_NOT_LOOKED = "the network interfaces of this host cannot be looked at: {}"


class Kind(StrEnum):
    ADDED = "added"
    UPDATED = "updated"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    kind: Kind
    daemon: FoundDaemon
    """As it is now, or was last."""
    key: object = None
    """The same for all changes of one daemon."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a search of the network came to."""

    daemons: tuple[FoundDaemon, ...]
    """Those paired with first."""
    problem: str | None
    """Why there may be more than were found: a sentence's end, for people."""


class Browser:
    """Looks as long as it is entered. Made and used on one event loop, once."""

    def __init__(self, peers: Iterable[Peer] = (), clock: Clock | None = None) -> None:
        self._clock = clock or MonotonicClock()
        self._interfaces: tuple[Interface, ...] = ()
        self._sightings = Sightings(
            {peer.fingerprint: peer.name for peer in peers},
            lambda address: on_link(address, self._interfaces),
        )
        self._budgets = Budgets(
            self._clock, bytes_per_s=BYTES_PER_S, sender_bytes_per_s=SENDER_BYTES_PER_S
        )
        self._zeroconf: AsyncZeroconf | None = None
        self._one_shots: list[asyncio.DatagramTransport] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._problem: str | None = None
        self._not_looked: str | None = None
        """Why the interfaces are not known at present."""

    @property
    def problem(self) -> str | None:
        """Why daemons may not be heard, as far as this host knows."""
        problem = self._problem or self._not_looked
        if problem is None and self._sightings.reasons:
            reasons = self._sightings.reasons
            why = next(iter(reasons))
            return f"{sum(reasons.values())} announcements were refused, the first: {why}"
        return problem

    @property
    def is_disturbed(self) -> bool:
        """More is said than can be read, or much that nobody should say. What floods this host
        floods the daemons too."""
        num_wrong = sum(self._sightings.reasons.values())
        return self._budgets.num_refused > 0 or num_wrong > MANY_REFUSED

    async def insist(self) -> None:
        """Ask again, and again."""
        for pause_s in INSIST_S:
            self._ask(DNSQuestion(SERVICE_TYPE, TYPE_PTR, CLASS_IN))
            await asyncio.sleep(pause_s)

    def raise_if_blind(self) -> None:
        """Raises EdgedError: UNREACHABLE, the host's interfaces are not known at present."""
        if self._not_looked is not None:
            raise EdgedError(Reason.UNREACHABLE, self._not_looked)

    def found(self) -> tuple[FoundDaemon, ...]:
        """Those known now; those paired with first."""
        return tuple(self._sightings.found().values())

    async def changes(self) -> AsyncIterator[Change]:
        """What is found, changes and goes, for ever. A slow reader misses what came and went, and
        nothing else: there is no queue."""
        told: dict[object, FoundDaemon] = {}
        while True:
            known = self._sightings.found()
            for key in [key for key in told if key not in known]:
                yield Change(Kind.REMOVED, told.pop(key), key)
            for key, daemon in known.items():
                was = told.get(key)
                told[key] = daemon
                if was is None:
                    yield Change(Kind.ADDED, daemon, key)
                elif was != daemon:
                    yield Change(Kind.UPDATED, daemon, key)
            await self._next()

    async def wait_for(
        self, fits: Callable[[FoundDaemon], bool], timeout_s: float
    ) -> tuple[FoundDaemon, ...]:
        """All that fit, SETTLE_S after the first one was found; none after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not any(map(fits, self.found())):
                    await self._next()
                await asyncio.sleep(SETTLE_S)
        return tuple(filter(fits, self.found()))

    async def _next(self) -> None:
        """Until something was heard, and what belongs to it: a daemon answers on each of its
        interfaces and by both families at once."""
        await self._changed.wait()
        await asyncio.sleep(_GATHER_S)
        self._changed.clear()

    async def __aenter__(self) -> Self:
        try:
            self._interfaces = usable_interfaces()
        except OSError as error:
            self._not_looked = _NOT_LOOKED.format(error.strerror)
        if not self._interfaces and self._not_looked is None:
            self._problem = "no network interface of this host is up and can multicast"
        try:
            self._zeroconf = open_multicast(self._interfaces)
            await self._zeroconf.zeroconf.async_wait_for_start()
            self._put_gates(self._zeroconf)
        except OSError as error:
            self._zeroconf = None
            self._problem = f"no socket on the port of multicast DNS: {error.strerror}"
        await self._open_one_shots()
        self._tasks = [
            asyncio.create_task(self._keep_asking(), name="ask"),
            asyncio.create_task(self._look_after(), name="look after"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._close_one_shots()
        if self._zeroconf is not None:
            await self._zeroconf.async_close()

    # ── Hearing ──────────────────────────────────────────────────────────────────────────────────

    def _gate(self, _: Intake | None = None) -> Gate:
        return Gate(
            self._listen,
            wants=lambda data, _host: is_response(data),
            budgets=self._budgets,
            failed=self._failed,
        )

    def _put_gates(self, zeroconf: AsyncZeroconf) -> None:
        put_gates(zeroconf.zeroconf, self._gate)

    def _listen(self, data: bytes, sender: Sender) -> None:
        message = parse(data, sender)
        self._sightings.hear(message, host_of(sender[0]), self._clock.now_s())
        self._changed.set()

    def _failed(self, error: Exception) -> None:
        why = (isinstance(error, OSError) and error.strerror) or error
        self._problem = f"multicast cannot be sent: {why}"

    # ── Asking ───────────────────────────────────────────────────────────────────────────────────

    async def _open_one_shots(self) -> None:
        loop = asyncio.get_running_loop()
        for interface in self._interfaces:
            try:
                sockets = open_one_shot(interface)
            except OSError:
                continue  # Not ready yet; the other way of asking may work.
            for one in sockets:
                if len(self._one_shots) < _MAX_ONE_SHOT_SOCKETS:
                    transport, _ = await loop.create_datagram_endpoint(self._gate, sock=one)
                    self._one_shots.append(transport)
                else:
                    one.close()

    def _close_one_shots(self) -> None:
        for transport in self._one_shots:
            transport.close()
        self._one_shots.clear()

    async def _keep_asking(self) -> None:
        await asyncio.sleep(random.uniform(*_FIRST_QUERY_S))
        for pause_s in chain(_QUERY_PAUSES_S, repeat(_QUERY_PAUSE_S)):
            self._ask(DNSQuestion(SERVICE_TYPE, TYPE_PTR, CLASS_IN))
            await asyncio.sleep(pause_s)

    def _ask(self, *questions: DNSQuestion) -> None:
        for transport in self._one_shots:
            # Each with a number of its own: the same packet twice is answered once.
            query = DNSOutgoing(FLAGS_QUERY, multicast=False, id_=random.randrange(1, 2**16))
            query.questions.extend(questions)
            is_ipv4 = len(transport.get_extra_info("sockname")) == 2
            for packet in query.packets():
                transport.sendto(packet, (IPV4_GROUP if is_ipv4 else IPV6_GROUP, PORT))
        if self._zeroconf is not None:
            query = DNSOutgoing(FLAGS_QUERY)
            query.questions.extend(questions)
            self._zeroconf.zeroconf.async_send(query)

    async def _look_after(self) -> None:
        """Forget, ask for what is missing, and see to the host's interfaces."""
        looked_s = self._clock.now_s()
        while True:
            await asyncio.sleep(_TICK_S)
            now_s = self._clock.now_s()
            self._sightings.expire(now_s)
            self._changed.set()
            questions = []
            for sighting in self._sightings.incomplete(_MAX_QUESTIONS // 2):
                instance = f"{sighting.instance}.{SERVICE_TYPE}"
                questions.append(DNSQuestion(instance, TYPE_ANY, CLASS_IN))
                if sighting.host:
                    questions.append(DNSQuestion(sighting.host, TYPE_A, CLASS_IN))
                    questions.append(DNSQuestion(sighting.host, TYPE_AAAA, CLASS_IN))
            if questions:
                self._ask(*questions)
            if now_s - looked_s >= _LOOK_AROUND_S:
                looked_s = now_s
                try:
                    await self._look_around()
                except OSError as error:
                    self._not_looked = _NOT_LOOKED.format(error.strerror)
                    self._interfaces = ()  # so that all of it is done next time
                else:
                    self._not_looked = None

    async def _look_around(self) -> None:
        interfaces = usable_interfaces()
        if interfaces == self._interfaces:
            return
        was, self._interfaces = self._interfaces, interfaces
        if self._zeroconf is not None:
            await update_interfaces(self._zeroconf, was, interfaces)
            self._put_gates(self._zeroconf)
        self._close_one_shots()
        await self._open_one_shots()
        self._ask(DNSQuestion(SERVICE_TYPE, TYPE_PTR, CLASS_IN))


async def browse(peers: Iterable[Peer] = ()) -> AsyncIterator[Change]:
    """What is found, changes and goes, until the loop is left."""
    async with Browser(peers) as browser:
        async for change in browser.changes():
            yield change


async def discover(peers: Iterable[Peer] = (), timeout_s: float | None = None) -> Discovery:
    """Look for so long; by default DISCOVER_S, longer in a flood, or until one is found, PATIENCE_S
    at most."""
    async with Browser(peers) as browser:
        await asyncio.sleep(DISCOVER_S if timeout_s is None else timeout_s)
        left_s = PATIENCE_S - DISCOVER_S
        if timeout_s is None and browser.is_disturbed:
            await browser.insist()
            left_s -= sum(INSIST_S)
        if timeout_s is None and not browser.found():
            await browser.wait_for(lambda _: True, left_s)
        return Discovery(browser.found(), browser.problem)


async def find(
    wanted: str, timeout_s: float = PATIENCE_S, peers: Sequence[Peer] = ()
) -> tuple[FoundDaemon, ...]:
    """Those of this fingerprint, if it is one, else of this name in any case. Several may claim
    the same: which is meant is for TLS, or for the user, to tell.

    Raises:
        EdgedError: UNREACHABLE, the local network cannot be looked at.
    """

    def fits(daemon: FoundDaemon) -> bool:
        if wanted.startswith(PREFIX):
            return daemon.fingerprint == wanted
        return daemon.name.casefold() == wanted.casefold()

    async with Browser(peers) as browser:
        found = await browser.wait_for(fits, timeout_s)
        if not found:
            browser.raise_if_blind()
        return found


def discover_now(peers: Iterable[Peer] = (), timeout_s: float | None = None) -> Discovery:
    """`discover` for callers without an event loop."""
    return asyncio.run(discover(peers, timeout_s))


def find_now(
    wanted: str, timeout_s: float = PATIENCE_S, peers: Sequence[Peer] = ()
) -> tuple[FoundDaemon, ...]:
    """`find` for callers without an event loop."""
    return asyncio.run(find(wanted, timeout_s, peers))
