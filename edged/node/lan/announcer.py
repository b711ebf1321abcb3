"""One life of a zeroconf instance that announces the daemon: the name it takes, what it tells, what
it does when the host's addresses change or somebody says otherwise.

Theory of operation: it asks for a name before it uses it (`naming`), announces, and answers through
zeroconf. Every two seconds it looks at the host's addresses. What changed is announced anew: the
sockets of interfaces that stayed are not touched, new ones and those that were made anew get
theirs, and an address that is gone is taken back by name, since others would believe in it for
another minute.

What it hears about itself reaches it through its gates, not through zeroconf's cache, from which a
flood could have pushed it: a rival for the name is answered as `naming` says, what is wrong by
saying again what is right.
"""

import asyncio
import contextlib
import ipaddress
import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from zeroconf import DNSAddress, DNSOutgoing, DNSPointer, DNSQuestion, DNSRecord, ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from edged.clock import Clock
from edged.log import get_logger
from edged.node.lan.dns_sd import SERVICE_TYPE, ServiceText
from edged.node.lan.interfaces import Interface, Reachable, on_link, reachable, usable_interfaces
from edged.node.lan.multicast import (
    CLASS_IN,
    FLAGS_QUERY,
    FLAGS_RESPONSE,
    TYPE_A,
    TYPE_AAAA,
    TYPE_ANY,
    Budgets,
    Gate,
    Intake,
    Sender,
    choice,
    forget_strangers,
    is_response,
    open_multicast,
    parse,
    put_gates,
    update_interfaces,
)
from edged.node.lan.naming import Claim, heard, is_about, names

MAX_RENAMES = 16
"""Of names that were in use already. Whoever wants more wants to disturb."""
RENAMES_FORGOTTEN_S = 600.0
"""After so long without one."""
BYTES_PER_S = 256 * 1024
SENDER_BYTES_PER_S = 64 * 1024
"""What concerns the daemon is far less: a question has about 100 bytes."""

_POLL_S = 2.0
_PROBES = 3
_PROBE_PAUSE_S = 0.25
_DEFENCE_PAUSE_S = 1.0
"""A record is multicast once in a second at most (RFC 6762, 6)."""
_MAX_RETRY_S = 60.0
_MAX_KNOWN_SENDERS = 1024
_TYPE_LABEL = SERVICE_TYPE.partition(".")[0].encode()
_TYPES_LABEL = b"_services"
"""Of the question which types there are at all."""


@dataclass(frozen=True, slots=True)
class Advertised:
    """What others are told."""

    name: str
    where: Reachable


class Announcer:
    """Made, run and closed on one event loop, once."""

    def __init__(
        self,
        name: str,
        listeners: Sequence[str],
        text: Callable[[], ServiceText],
        clock: Clock,
        *,
        ttl_s: int,
    ) -> None:
        self._wanted = name
        self._listeners = listeners
        self._read_text = text
        self._text = text().encode()
        self._clock = clock
        self._ttl_s = ttl_s
        self._log = get_logger("advertise")
        self._distinction = secrets.token_hex(4)
        # Not the host's own name: its addresses are told by whoever manages the host, and two who
        # tell of one name take each other's records back.
        self._host = f"edged-{self._distinction}.local."
        self._budgets = Budgets(
            clock, bytes_per_s=BYTES_PER_S, sender_bytes_per_s=SENDER_BYTES_PER_S
        )
        self._zeroconf: AsyncZeroconf | None = None
        self._interfaces: tuple[Interface, ...] = ()
        self._is_near: dict[str, bool] = {}
        self._info: ServiceInfo | None = None
        self._claim: Claim | None = None
        self._labels: tuple[bytes, ...] = ()
        self._told: Advertised | None = None
        self._woken = asyncio.Event()
        self._has_rival = False
        self._is_denied = False
        self._num_renames = 0
        self._renamed_s = clock.now_s()
        self._failure = ""
        self._was_failing = ""
        self._again_at_s: float | None = None
        self._retry_s = _POLL_S

    @property
    def told(self) -> Advertised | None:
        return self._told

    async def run(self) -> None:
        """Announce until cancelled. Raises OSError or zeroconf's errors: it cannot be done."""
        where = await self._somewhere()
        self._zeroconf = zeroconf = open_multicast(where.interfaces)
        await zeroconf.zeroconf.async_wait_for_start()
        self._interfaces = where.interfaces
        self._put_gates(zeroconf)
        await self._take_name(zeroconf, where)
        while True:
            await self._wait(_POLL_S)
            await self._answer_others(zeroconf)
            await self._look_at_failures(zeroconf)
            await self._follow(zeroconf)
            forget_strangers(zeroconf.zeroconf, self._is_own)

    async def close(self) -> None:
        """Say goodbye for what was told, and close every socket."""
        told, self._told = self._told, None
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is None:
            return
        # Three goodbyes in a quarter of a second, and nothing after the last.
        await zeroconf.async_close()
        if told is not None:
            self._log.info("advertisement withdrawn", name=told.name)

    # ── The name ─────────────────────────────────────────────────────────────────────────────────

    async def _take_name(self, zeroconf: AsyncZeroconf, where: Reachable) -> None:
        """The last candidate is taken whatever is said."""
        name = ""
        for name in names(self._wanted, self._distinction):
            self._set_claim(name, where)
            if await self._is_free(zeroconf):
                break
            self._log.info("name is in use on the local network", name=name)
        assert self._info is not None, "there is a name"
        announced = await zeroconf.async_register_service(self._info, cooperating_responders=True)
        self._told = Advertised(name, where)
        self._log.info("advertised", name=name, port=where.port, addresses=list(where.addresses))
        await announced

    def _set_claim(self, name: str, where: Reachable) -> None:
        self._info = info = ServiceInfo(
            SERVICE_TYPE,
            f"{name}.{SERVICE_TYPE}",
            port=where.port,
            properties=self._text,
            server=self._host,
            host_ttl=self._ttl_s,
            other_ttl=self._ttl_s,
            parsed_addresses=list(where.addresses),
        )
        addresses = frozenset(ipaddress.ip_address(one).packed for one in where.addresses)
        self._claim = Claim(info.name.lower(), self._host, where.port, self._text, addresses)
        self._labels = (name.encode().lower(), self._host.partition(".")[0].encode())

    async def _is_free(self, zeroconf: AsyncZeroconf) -> bool:
        """Ask for the name, with what it would stand for (RFC 6762, 8.1). By multicast, since an
        answer to this host alone may reach another program of it."""
        assert self._info is not None, "it is asked for something"
        self._has_rival = self._is_denied = False
        await asyncio.sleep(random.uniform(0, _PROBE_PAUSE_S))
        for _ in range(_PROBES):
            probe = DNSOutgoing(FLAGS_QUERY)
            probe.add_question(DNSQuestion(self._info.name, TYPE_ANY, CLASS_IN))
            # Typed for pointers only, and written as any record.
            probe.authorities.append(cast(DNSPointer, self._info.dns_service()))
            zeroconf.zeroconf.async_send(probe)
            await self._wait(_PROBE_PAUSE_S)
            if self._has_rival:
                return False
        return True

    # ── What is heard ────────────────────────────────────────────────────────────────────────────

    def _put_gates(self, zeroconf: AsyncZeroconf) -> None:
        def make(intake: Intake) -> Gate:
            def listen(data: bytes, sender: Sender) -> None:
                self._examine(data, sender)
                intake(data, sender)

            return Gate(listen, wants=self._wants, budgets=self._budgets, failed=self._failed)

        put_gates(zeroconf.zeroconf, make)

    def _wants(self, data: bytes, host: str) -> bool:
        """A response that names the daemon, or a question that it may have an answer to, from its
        own network: others would use it to send answers to a third (RFC 6762, 11)."""
        text = data.lower()
        labels = self._labels
        if not is_response(data):
            labels = (*labels, _TYPE_LABEL, _TYPES_LABEL)
        return any(label in text for label in labels) and self._comes_from_near(host)

    def _comes_from_near(self, host: str) -> bool:
        known = self._is_near.get(host)
        if known is None:
            if len(self._is_near) >= _MAX_KNOWN_SENDERS:
                self._is_near.clear()
            known = on_link(ipaddress.ip_address(host), self._interfaces)
            self._is_near[host] = known
        return known

    def _examine(self, data: bytes, sender: Sender) -> None:
        claim = self._claim
        if claim is None:
            return
        message = parse(data, sender)
        said = heard(message, claim)
        is_told = self._told is not None
        if said.rival is not None:
            if message.is_query():
                # Who asks for a name that is in use gets zeroconf's answer.
                self._has_rival |= not is_told and said.rival > claim.rank
            elif is_told and said.rival < claim.rank:
                self._is_denied = True
            else:
                self._has_rival = True
        # Before anything was told there is nothing to defend, and a question is not cut short.
        self._is_denied |= said.is_denied and is_told
        if self._has_rival or self._is_denied:
            self._woken.set()

    def _is_own(self, record: DNSRecord) -> bool:
        return self._claim is not None and is_about(record, self._claim)

    async def _answer_others(self, zeroconf: AsyncZeroconf) -> None:
        told, info = self._told, self._info
        assert told is not None, "a name was taken"
        assert info is not None, "there is something to tell"
        now_s = self._clock.now_s()
        if now_s - self._renamed_s > RENAMES_FORGOTTEN_S:
            self._num_renames = 0
        if self._has_rival and self._num_renames < MAX_RENAMES:
            self._num_renames += 1
            self._renamed_s = now_s
            # No goodbye: it would take the rival's records back, which are of the same name.
            zeroconf.zeroconf.registry.async_remove(info)
            self._told = None
            await self._take_name(zeroconf, told.where)
        elif self._has_rival or self._is_denied:
            self._log.debug("somebody tells otherwise of this daemon", name=told.name)
            self._announce(zeroconf)
            await asyncio.sleep(_DEFENCE_PAUSE_S)
        self._has_rival = self._is_denied = False

    # ── The host ─────────────────────────────────────────────────────────────────────────────────

    async def _somewhere(self) -> Reachable:
        """Wait until the host has an address to tell of."""
        is_said = False
        while True:
            where = reachable(self._listeners, usable_interfaces())
            if where is not None:
                return where
            if not is_said:
                is_said = True
                self._log.warning("no interface to advertise on yet", listeners=self._listeners)
            await asyncio.sleep(_POLL_S)

    async def _follow(self, zeroconf: AsyncZeroconf) -> None:
        """Take over what changed of the host's addresses, and of the daemon."""
        told, was_text = self._told, self._text
        assert told is not None, "a name was taken"
        where = reachable(self._listeners, usable_interfaces())
        interfaces = () if where is None else where.interfaces
        self._text = self._read_text().encode()
        now = told.where if where is None else where
        gone = [one for one in told.where.addresses if one not in now.addresses]
        is_new = self._text != was_text or now.addresses != told.where.addresses
        if is_new:
            self._set_claim(told.name, now)
            assert self._info is not None, "there is a name"
            zeroconf.zeroconf.registry.async_update(self._info)
            self._told = Advertised(told.name, now)
            self._log.info("advertised anew", name=told.name, addresses=list(now.addresses))
        has_all = len(zeroconf.zeroconf.engine.senders) == len(choice(interfaces))
        if interfaces != self._interfaces or not has_all:
            was, self._interfaces = self._interfaces, interfaces
            self._is_near.clear()
            await update_interfaces(zeroconf, was, interfaces)
            self._put_gates(zeroconf)
        if is_new:
            assert self._info is not None, "there is a name"
            self._take_back(zeroconf, gone)
            await (await zeroconf.async_update_service(self._info))

    def _take_back(self, zeroconf: AsyncZeroconf, addresses: Sequence[str]) -> None:
        goodbye = DNSOutgoing(FLAGS_RESPONSE)
        for text in addresses:
            one = ipaddress.ip_address(text)
            kind = TYPE_A if one.version == 4 else TYPE_AAAA
            goodbye.add_answer_at_time(DNSAddress(self._host, kind, CLASS_IN, 0, one.packed), 0)
        if addresses:
            zeroconf.zeroconf.async_send(goodbye)

    def _announce(self, zeroconf: AsyncZeroconf) -> None:
        assert self._info is not None, "there is a name"
        zeroconf.zeroconf.async_send(zeroconf.zeroconf.generate_service_broadcast(self._info, None))

    def _failed(self, error: Exception) -> None:
        """A packet could not be sent: no route, not allowed, the interface went down."""
        self._failure = (isinstance(error, OSError) and error.strerror) or str(error)

    async def _look_at_failures(self, zeroconf: AsyncZeroconf) -> None:
        """What was not heard is said again, later and later."""
        now_s = self._clock.now_s()
        if self._failure:
            if self._failure != self._was_failing:
                self._log.warning("multicast cannot be sent", error=self._failure)
            self._was_failing, self._failure = self._failure, ""
            self._again_at_s = now_s + self._retry_s
            self._retry_s = min(_MAX_RETRY_S, self._retry_s * 2)
        elif self._again_at_s is not None and now_s >= self._again_at_s:
            self._again_at_s = None
            # From sockets made anew: these may be what fails.
            was, self._interfaces = self._interfaces, ()
            await update_interfaces(zeroconf, was, ())
        elif self._was_failing and self._again_at_s is None:
            self._log.info("multicast is sent again")
            self._was_failing, self._retry_s = "", _POLL_S

    async def _wait(self, timeout_s: float) -> None:
        """Until something was heard that needs an answer, or the time is over."""
        self._woken.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
