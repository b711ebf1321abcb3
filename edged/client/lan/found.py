"""What a client believes of daemons that it heard of on the local network, and what makes room when
it hears of too many.

Theory of operation: anybody can say anything of anybody. So what each sender says is kept apart: a
liar's record never replaces what the daemon itself said of its name, both are listed. Sightings
that say the same, as those of one daemon by IPv4 and by IPv6, are one daemon. Addresses are those
of the latest of them; one that packets came from is the best.

What a sighting claims is proven by TLS alone. But who claims a fingerprint that was paired with is
never put out for others, up to MAX_CLAIMS of one fingerprint; who else must go is one of a sender
that says much.
"""

import ipaddress
import random
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from zeroconf import DNSAddress, DNSIncoming, DNSPointer, DNSService, DNSText

from edged.node.lan.dns_sd import (
    SERVICE_TYPE,
    Auth,
    ServiceText,
    TextError,
    decode_text,
    instance_of,
    shown,
)
from edged.node.lan.interfaces import MAX_ADDRESSES, Host

MAX_SIGHTINGS = 4096
MAX_OF_SENDER = 512
"""A host that forwards multicast between networks says what many do."""
MAX_CLAIMS = 16
MAX_TTL_S = 120.0
"""Longest time that anything is believed without being heard again."""
MAX_REASONS = 16
_SAME_ROUND_S = 3.0
"""Sightings of one daemon that are this much older than the latest are of where it was."""
_MAX_ASKED = 3
_TRIES = 8


@dataclass(frozen=True, slots=True)
class FoundDaemon:
    """Claims, all of them: nothing here was proven."""

    name: str
    """Without what could harm a terminal. Several may have the same."""
    addresses: tuple[str, ...]
    """HOST:PORT, an IPv6 host in brackets, with its scope where it needs one. Best first."""
    version: str
    auth: Auth
    fingerprint: str
    """"" if it does without TLS."""
    peer: str | None
    """The name under which a daemon of this fingerprint was paired with."""


@dataclass(slots=True)
class Sighting:
    """What one sender says of one instance."""

    instance: str
    sender: str
    heard_s: float
    host: str = ""
    port: int = 0
    until_s: float = 0.0
    """Forgotten then."""
    text: ServiceText | None = None
    raw_text: bytes = b""
    num_asked: int = 0

    @property
    def is_whole(self) -> bool:
        return bool(self.host) and self.text is not None


@dataclass(slots=True)
class _Sender:
    sightings: dict[str, Sighting] = field(default_factory=dict)
    """By instance, in lower case."""
    hosts: dict[str, dict[Host, float]] = field(default_factory=dict)
    """Addresses, each until when; of the hosts that its sightings name."""


@dataclass(slots=True)
class _News:
    """Of one instance in one packet."""

    name: str
    is_goodbye: bool = False
    service: DNSService | None = None
    text: DNSText | None = None
    ttl_s: float = 0.0


class Sightings:
    """Owned by one event loop. Holds MAX_SIGHTINGS at most."""

    def __init__(
        self, peers: Mapping[str, str], is_near: Callable[[Host], bool] = lambda _: True
    ) -> None:
        """`peers` are names by fingerprint. `is_near` tells which addresses this host can reach
        without a router."""
        self._peers = peers
        self._is_near = is_near
        self._senders: dict[str, _Sender] = {}
        self._num_sightings = 0
        self._claims: dict[str, int] = {}
        self.reasons: dict[str, int] = {}
        """Why announcements were not believed, and how many."""

    def __len__(self) -> int:
        return self._num_sightings

    # ── Hearing ──────────────────────────────────────────────────────────────────────────────────

    def hear(self, message: DNSIncoming, sender: str, now_s: float) -> None:
        """Take over what a response says."""
        news: dict[str, _News] = {}
        addresses: list[DNSAddress] = []
        for record in message.answers():
            if isinstance(record, DNSAddress):
                addresses.append(record)
                continue
            of_type = isinstance(record, DNSPointer) and record.name.lower() == SERVICE_TYPE
            name = record.alias if isinstance(record, DNSPointer) and of_type else record.name
            instance = instance_of(name)
            if instance is None:
                continue
            one = news.setdefault(instance.lower(), _News(instance))
            match record:
                case DNSPointer() | DNSService() if not record.ttl:
                    one.is_goodbye = True
                case DNSService():
                    one.service, one.ttl_s = record, float(record.ttl)
                case DNSText() if record.ttl:
                    one.text = record
                case _:
                    pass
        for key, one in news.items():
            self._take(key, one, sender, now_s)
        self._take_addresses(addresses, sender, now_s)

    def _take(self, key: str, news: _News, sender: str, now_s: float) -> None:
        if news.is_goodbye:
            self._drop(sender, key)
            return
        known = self._senders[sender].sightings.get(key) if sender in self._senders else None
        text = None
        if news.text is not None:
            try:
                text = decode_text(news.text.text)
            except TextError as error:
                self._refuse(str(error))
                self._drop(sender, key)
                return
        if news.service is not None and not _is_sane(news.service):
            self._refuse(f"port {news.service.port} of {shown(news.service.server)[:64]}")
            self._drop(sender, key)
            return
        if known is None:
            known = self._admit(key, Sighting(news.name, sender, now_s, until_s=now_s + 1), text)
            if known is None:
                return
        known.heard_s = now_s
        if news.service is not None:
            self._place(known, news.service, now_s + min(news.ttl_s, MAX_TTL_S))
        if text is not None and news.text is not None:
            self._count_claim(known, -1)
            known.text, known.raw_text = text, news.text.text
            self._count_claim(known, 1)

    def _place(self, sighting: Sighting, service: DNSService, until_s: float) -> None:
        where = (service.server.lower(), service.port)
        if where == (sighting.host, sighting.port):
            # An answer to one asker has a short life (RFC 6762, 6.7), what all heard a longer one.
            until_s = max(until_s, sighting.until_s)
        sighting.host, sighting.port = where
        sighting.until_s = until_s
        self._senders[sighting.sender].hosts.setdefault(sighting.host, {})

    def _take_addresses(self, records: list[DNSAddress], sender: str, now_s: float) -> None:
        if sender not in self._senders:
            return
        hosts = self._senders[sender].hosts
        flushed: set[tuple[str, int]] = set()
        for record in records:
            host = record.name.lower()
            held = hosts.get(host)
            address = _address(record)
            if held is None or address is None:
                continue
            if record.unique and (host, address.version) not in flushed:
                # The first of a set that is told whole (RFC 6762, 10.2).
                flushed.add((host, address.version))
                for one in [one for one in held if one.version == address.version]:
                    held[one] = min(held[one], now_s + 1)
            if not record.ttl:
                held.pop(address, None)
            elif address in held or len(held) < MAX_ADDRESSES:
                held[address] = now_s + min(float(record.ttl), MAX_TTL_S)

    # ── Room ─────────────────────────────────────────────────────────────────────────────────────

    def _admit(self, key: str, new: Sighting, text: ServiceText | None) -> Sighting | None:
        """None: there is no room, or not for this one."""
        is_claim = text is not None and self._is_claim(text)
        sender = self._senders.get(new.sender, _Sender())
        if len(sender.sightings) >= MAX_OF_SENDER and not is_claim:
            return None
        if self._num_sightings >= MAX_SIGHTINGS:
            least = 0 if is_claim else len(sender.sightings) + 1
            if not self._make_room(least):
                return None
        self._senders.setdefault(new.sender, sender).sightings[key] = new
        self._num_sightings += 1
        return new

    def _make_room(self, least: int) -> bool:
        """Put out one that claims nothing, of a sender that says more than `least`."""
        names = list(self._senders)
        tried = random.sample(names, min(_TRIES, len(names)))
        tried.sort(key=lambda name: -len(self._senders[name].sightings))
        for name in tried:
            sightings = self._senders[name].sightings
            if len(sightings) <= least:
                return False
            for key, one in sightings.items():
                if one.text is None or one.text.fingerprint not in self._peers:
                    self._drop(name, key)
                    return True
        return False

    def _is_claim(self, text: ServiceText) -> bool:
        is_peer = text.fingerprint in self._peers
        return is_peer and self._claims.get(text.fingerprint, 0) < MAX_CLAIMS

    def _count_claim(self, sighting: Sighting, change: int) -> None:
        if sighting.text is not None and sighting.text.fingerprint in self._peers:
            fingerprint = sighting.text.fingerprint
            self._claims[fingerprint] = self._claims.get(fingerprint, 0) + change

    def _drop(self, sender: str, key: str) -> None:
        held = self._senders.get(sender)
        if held is None or key not in held.sightings:
            return
        self._count_claim(held.sightings.pop(key), -1)
        self._num_sightings -= 1
        if not held.sightings:
            del self._senders[sender]

    def _refuse(self, reason: str) -> None:
        if reason in self.reasons or len(self.reasons) < MAX_REASONS:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def expire(self, now_s: float) -> None:
        """Forget what nobody said again."""
        for name, sender in list(self._senders.items()):
            for key, one in list(sender.sightings.items()):
                if one.until_s <= now_s:
                    self._drop(name, key)
            named = {one.host for one in sender.sightings.values()}
            for host, addresses in list(sender.hosts.items()):
                for address in [one for one, until_s in addresses.items() if until_s <= now_s]:
                    del addresses[address]
                if host not in named:
                    del sender.hosts[host]

    # ── What is known ────────────────────────────────────────────────────────────────────────────

    def incomplete(self, most: int) -> list[Sighting]:
        """Some of which not all is known yet; each is handed out a few times."""
        found: list[Sighting] = []
        for sender in self._senders.values():
            for one in sender.sightings.values():
                lacks = not one.is_whole or not sender.hosts.get(one.host)
                if lacks and one.num_asked < _MAX_ASKED and len(found) < most:
                    one.num_asked += 1
                    found.append(one)
        return found

    def found(self) -> dict[tuple[str, str, int, bytes], FoundDaemon]:
        """The daemons that are known whole, by what makes them one; those paired with first."""
        same: dict[tuple[str, str, int, bytes], list[Sighting]] = {}
        for sender in self._senders.values():
            for key, one in sender.sightings.items():
                if one.is_whole and sender.hosts.get(one.host):
                    same.setdefault((key, one.host, one.port, one.raw_text), []).append(one)
        daemons = ((key, self._daemon(sightings)) for key, sightings in same.items())
        listed = [(key, daemon) for key, daemon in daemons if daemon.addresses]
        listed.sort(key=lambda pair: (pair[1].peer is None, pair[1].peer or "", pair[0]))
        return dict(listed)

    def _daemon(self, sightings: list[Sighting]) -> FoundDaemon:
        latest = max(sightings, key=lambda one: one.heard_s)
        recent = [one for one in sightings if one.heard_s >= latest.heard_s - _SAME_ROUND_S]
        text = latest.text
        assert text is not None, "it is whole"
        senders = {one.sender for one in recent}
        addresses = {
            address for one in recent for address in self._senders[one.sender].hosts[one.host]
        }
        ordered = sorted(addresses, key=lambda one: self._rank(one, senders))[:MAX_ADDRESSES]
        return FoundDaemon(
            name=shown(latest.instance),
            addresses=tuple(_host_port(one, latest.port) for one in ordered),
            version=text.version,
            auth=text.auth,
            fingerprint=text.fingerprint,
            peer=self._peers.get(text.fingerprint) if text.fingerprint else None,
        )

    def _rank(self, address: Host, senders: set[str]) -> tuple[bool, bool, bool, bool, str]:
        bare = str(address).partition("%")[0]
        return (
            address.is_link_local and address.version == 6,
            bare not in senders,
            not self._is_near(address),
            address.version == 6,
            str(address),
        )


def _is_sane(service: DNSService) -> bool:
    return service.port > 0 and service.server.lower().endswith(".local.")


def _address(record: DNSAddress) -> Host | None:
    """None if no host can be reached so; a link-local one needs the interface it was heard on."""
    try:
        address: Host = ipaddress.ip_address(record.address)
    except ValueError:
        return None
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        return None
    if address.version == 4 and (address.is_reserved or int(address) >> 24 == 0):
        return None
    if address.version == 6 and address.is_link_local:
        try:
            return ipaddress.IPv6Address(f"{address}%{socket.if_indextoname(record.scope_id or 0)}")
        except OSError:
            return None
    return address


def _host_port(address: Host, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
