"""What a client believes of the daemons that it hears of."""

import socket

from zeroconf import DNSIncoming

from edged.client.lan.found import (
    MAX_CLAIMS,
    MAX_OF_SENDER,
    MAX_REASONS,
    MAX_SIGHTINGS,
    MAX_TTL_S,
    FoundDaemon,
    Sightings,
)
from edged.node.lan.dns_sd import SERVICE_TYPE, Auth, ServiceText
from edged.node.lan.interfaces import MAX_ADDRESSES
from edged.node.lan.multicast import TYPE_A, TYPE_AAAA, TYPE_PTR
from edged.node.trust.fingerprint import fingerprint
from tests.lan.hostile import announcement, name, packet, record

OURS = fingerprint(b"ours")
OURS_TEXT = ServiceText("1.0", Auth.TOKEN, OURS).encode()
A, B = "10.0.0.1", "10.0.0.2"


class Ear:
    """Sightings, and what they are told."""

    def __init__(self, *, near: str = "10.0.0.") -> None:
        self.sightings = Sightings(
            {OURS: "studio"}, lambda address: str(address).startswith((near, "fe80"))
        )

    def hear(self, data: bytes, sender: str = A, now_s: float = 0.0, scope: int = 0) -> None:
        self.sightings.hear(DNSIncoming(data, (sender, 5353), scope or None), sender, now_s)

    @property
    def found(self) -> tuple[FoundDaemon, ...]:
        return tuple(self.sightings.found().values())


def test_a_daemon_is_known_when_all_of_it_was_heard() -> None:
    ear = Ear()
    ear.hear(announcement("Studio", "s.local.", 7411, A, text=OURS_TEXT))
    assert ear.found == (FoundDaemon("Studio", (f"{A}:7411",), "1.0", Auth.TOKEN, OURS, "studio"),)


def test_what_is_missing_is_asked_for_a_few_times() -> None:
    ear = Ear()
    pointer = record(name(SERVICE_TYPE), TYPE_PTR, name(f"Studio.{SERVICE_TYPE}"), class_=1)
    ear.hear(packet([pointer]))
    assert ear.found == ()
    asked = [len(ear.sightings.incomplete(10)) for _ in range(5)]
    assert asked == [1, 1, 1, 0, 0]


def test_a_goodbye_is_the_end() -> None:
    ear = Ear()
    ear.hear(announcement("Studio", "s.local.", 7411, A))
    ear.hear(announcement("Studio", "s.local.", 7411, A, ttl=0), sender=B)
    assert ear.found, "somebody else's goodbye is none"
    ear.hear(announcement("Studio", "s.local.", 7411, A, ttl=0))
    assert ear.found == ()
    assert len(ear.sightings) == 0


def test_what_is_not_heard_again_is_forgotten() -> None:
    ear = Ear()
    ear.hear(announcement("Studio", "s.local.", 7411, A, ttl=60))
    ear.hear(announcement("Eternal", "e.local.", 7411, B, ttl=2**32 - 1), sender=B)
    ear.sightings.expire(59.9)
    assert len(ear.found) == 2
    ear.sightings.expire(60.0)
    assert [one.name for one in ear.found] == ["Eternal"]
    ear.sightings.expire(MAX_TTL_S)
    assert ear.found == ()


def test_a_liar_is_listed_beside_the_one_it_lies_about() -> None:
    ear = Ear()
    ear.hear(announcement("Studio", "s.local.", 7411, A, text=OURS_TEXT))
    ear.hear(announcement("Studio", "liar.local.", 7411, B), sender=B)
    assert [(one.peer, one.addresses) for one in ear.found] == [
        ("studio", (f"{A}:7411",)),
        (None, (f"{B}:7411",)),
    ]


def test_what_comes_by_both_families_is_one_daemon_with_the_best_address_first() -> None:
    ear = Ear()
    index = socket.if_nametoindex("lo")
    link = socket.inet_pton(socket.AF_INET6, "fe80::9")
    far = socket.inet_aton("172.16.0.1")
    host = name("s.local.")
    for sender, scope in ((A, 0), ("fe80::9", index)):
        ear.hear(announcement("Studio", "s.local.", 7411, A), sender, 0.0, scope)
        more = [record(host, TYPE_A, far, class_=1), record(host, TYPE_AAAA, link, class_=1)]
        ear.hear(packet(more), sender, 0.0, scope)
    (daemon,) = ear.found
    assert daemon.addresses == (f"{A}:7411", "172.16.0.1:7411", "[fe80::9%lo]:7411")


def test_an_address_that_is_gone_is_gone() -> None:
    ear = Ear()
    ear.hear(announcement("Studio", "s.local.", 7411, A))
    ear.hear(announcement("Studio", "s.local.", 7411, B), sender=B, now_s=10.0)
    (daemon,) = ear.found
    assert daemon.addresses == (f"{B}:7411",), "the daemon moved: it speaks from there now"
    ear = Ear()
    ear.hear(announcement("Studio", "s.local.", 7411, A))
    ear.hear(announcement("Studio", "s.local.", 7411, "10.0.0.3"), now_s=10.0)
    ear.sightings.expire(11.0)
    (daemon,) = ear.found
    assert daemon.addresses == ("10.0.0.3:7411",), "the set was told anew"


def test_addresses_that_nobody_can_use_are_left_out() -> None:
    ear = Ear()
    for number, address in enumerate(("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255")):
        ear.hear(announcement(f"{number}", f"{number}.local.", 7411, address))
    assert len(ear.sightings) == 4
    assert ear.found == ()


def test_a_daemon_has_so_many_addresses() -> None:
    ear = Ear()
    ear.hear(announcement("Studio", "s.local.", 7411, A))
    more = [
        record(name("s.local."), TYPE_A, socket.inet_aton(f"10.0.1.{number}"), class_=1)
        for number in range(30)
    ]
    ear.hear(packet(more))
    (daemon,) = ear.found
    assert len(daemon.addresses) == MAX_ADDRESSES


def test_what_breaks_the_rules_is_refused_with_the_reason() -> None:
    ear = Ear()
    ear.hear(announcement("Studio", "s.local.", 7411, A, text=b"\x09txtvers=2"))
    ear.hear(announcement("Port", "s.local.", 0, A))
    ear.hear(announcement("Outside", "example.com.", 80, A))
    assert ear.found == ()
    assert list(ear.sightings.reasons) == [
        "txtvers is '2', expected '1'",
        "port 0 of s.local.",
        "port 80 of example.com.",
    ]
    for number in range(2 * MAX_REASONS):
        ear.hear(announcement("Port", f"{number}.local.", 0, A))
    assert len(ear.sightings.reasons) == MAX_REASONS


def test_names_are_harmless() -> None:
    ear = Ear()
    ear.hear(announcement("a\x1b[2Jb\u202e", "s.local.", 7411, A))
    assert [one.name for one in ear.found] == ["a�[2Jb�"]


# ── Room ─────────────────────────────────────────────────────────────────────────────────────────


def flood(ear: Ear, senders: int, each: int) -> None:
    for sender in range(senders):
        for number in range(each):
            data = announcement(f"{sender} {number}", f"f{sender}-{number}.local.", 1, A)
            ear.hear(data, sender=f"bad {sender}")


def test_one_sender_has_so_many() -> None:
    ear = Ear()
    flood(ear, 1, MAX_OF_SENDER + 10)
    assert len(ear.sightings) == MAX_OF_SENDER
    ear.hear(announcement("Studio", "s.local.", 7411, A))
    assert "Studio" in [one.name for one in ear.found]


def test_who_says_much_makes_room_for_who_says_little() -> None:
    ear = Ear()
    flood(ear, MAX_SIGHTINGS // 256, 256)
    assert len(ear.sightings) == MAX_SIGHTINGS
    ear.hear(announcement("Studio", "s.local.", 7411, A))
    assert len(ear.sightings) == MAX_SIGHTINGS
    assert "Studio" in [one.name for one in ear.found]


def test_who_was_paired_with_is_kept_whatever_comes() -> None:
    ear = Ear()
    ear.hear(announcement("Studio", "s.local.", 7411, A, text=OURS_TEXT))
    flood(ear, MAX_SIGHTINGS + 100, 1)
    assert len(ear.sightings) == MAX_SIGHTINGS
    assert ear.found[0].peer == "studio"
    ear = Ear()
    flood(ear, MAX_SIGHTINGS, 1)
    ear.hear(announcement("Studio", "s.local.", 7411, A, text=OURS_TEXT))
    assert len(ear.sightings) == MAX_SIGHTINGS
    assert ear.found[0].peer == "studio"


def test_who_claims_to_be_it_has_so_much_room() -> None:
    ear = Ear()
    flood(ear, MAX_SIGHTINGS, 1)
    for number in range(MAX_CLAIMS + 10):
        data = announcement(f"Fake {number}", f"{number}.local.", 7411, A, text=OURS_TEXT)
        ear.hear(data, sender=f"liar {number}")
    assert sum(one.peer is not None for one in ear.found) == MAX_CLAIMS
