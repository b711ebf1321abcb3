"""How an instance on the local network comes by a name that nobody else has.

Theory of operation (RFC 6762, 8 and 9): a name is asked for before it is used, and whoever has it
answers. Two who ask at once, or meet later, compare their records: the later one in the order below
keeps the name, and both come to the same result without another word. What somebody says only to
disturb costs a few renames, then the name is kept whatever is said: clients know a daemon by its
certificate, not by its name.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from zeroconf import DNSAddress, DNSIncoming, DNSPointer, DNSRecord, DNSService, DNSText

from edged.node.lan.dns_sd import SERVICE_TYPE, instance_name

MAX_NUMBERED_NAMES = 9


@dataclass(frozen=True, slots=True)
class Claim:
    """What one instance says that it is. All in lower case: DNS tells no case apart."""

    instance: str
    """The full name."""
    host: str
    port: int
    text: bytes
    addresses: frozenset[bytes]

    @property
    def rank(self) -> tuple[str, int]:
        """Of two with one name the greater keeps it."""
        return self.host, self.port


@dataclass(frozen=True, slots=True)
class Heard:
    """What a packet says against a claim."""

    rival: tuple[str, int] | None = None
    """Rank of another that uses the name, or is about to."""
    is_denied: bool = False
    """Something was told of the name or the host that is not so."""


def names(wanted: str, distinction: str) -> Iterator[str]:
    """`wanted`, "wanted (2)" and so on, at last one that nobody has."""
    yield instance_name(wanted)
    for number in range(2, MAX_NUMBERED_NAMES + 1):
        yield instance_name(wanted, f" ({number})")
    yield instance_name(wanted, f" ({distinction})")


def heard(message: DNSIncoming, claim: Claim) -> Heard:
    """A response says what is, a probe what somebody wants to be; other questions say nothing."""
    if message.is_query() and not message.is_probe():
        return Heard()
    rival, is_denied = None, False
    for record in message.answers():
        if not is_about(record, claim) or _agrees(record, claim):
            continue
        if isinstance(record, DNSService) and record.ttl:
            rank = (record.server.lower(), record.port)
            rival = rank if rival is None else max(rival, rank)
        elif not message.is_query():
            is_denied = True
    return Heard(rival, is_denied)


def is_about(record: DNSRecord, claim: Claim) -> bool:
    """Whether it is of the claim's names."""
    if isinstance(record, DNSPointer):
        return record.alias.lower() == claim.instance and record.name.lower() == SERVICE_TYPE
    return record.name.lower() in (claim.instance, claim.host)


def _agrees(record: DNSRecord, claim: Claim) -> bool:
    """Whether it says what the claim says: that what is so is, or that what is not so is no more.
    Of types that are not used here nothing is known."""
    match record:
        case DNSService():
            content = (record.server.lower(), record.port) == claim.rank
        case DNSText():
            content = record.text == claim.text
        case DNSAddress():
            content = record.address in claim.addresses
        case DNSPointer():
            content = True
        case _:
            return True
    return content == (record.ttl > 0)
