"""Names on the local network: who keeps one, and what is said against it."""

from ipaddress import ip_address

import pytest
from zeroconf import DNSIncoming

from edged.node.lan.dns_sd import MAX_INSTANCE_BYTES, SERVICE_TYPE, Auth, ServiceText
from edged.node.lan.multicast import TYPE_SRV
from edged.node.lan.naming import MAX_NUMBERED_NAMES, Claim, Heard, heard, names
from tests.lan.hostile import QUERY, announcement, name, packet, record

TEXT = ServiceText("9.9.9", Auth.TOKEN, "SHA256:" + "A" * 43).encode()
CLAIM = Claim(
    f"studio.{SERVICE_TYPE}",
    "m.local.",
    7411,
    TEXT,
    frozenset({ip_address("10.0.0.1").packed}),
)


def said(data: bytes) -> Heard:
    return heard(DNSIncoming(data), CLAIM)


def test_candidates_are_numbered_and_the_last_is_ones_own() -> None:
    found = list(names("Studio", "c0ffee"))
    assert found[:3] == ["Studio", "Studio (2)", "Studio (3)"]
    assert found[-1] == "Studio (c0ffee)"
    assert len(found) == MAX_NUMBERED_NAMES + 1


def test_a_number_finds_room() -> None:
    found = list(names("x" * 70, "c0ffee"))
    assert all(len(one.encode()) == MAX_INSTANCE_BYTES for one in found)
    assert found[1].endswith("x (2)")
    assert len(set(found)) == len(found)


def test_what_agrees_says_nothing() -> None:
    assert said(announcement("STUDIO", "M.local.", 7411, "10.0.0.1")) == Heard()
    assert said(announcement("Another", "other.local.", 1, "10.0.0.2")) == Heard()


@pytest.mark.parametrize(("host", "port"), [("a.local.", 7411), ("m.local.", 1), ("z.local.", 1)])
def test_another_of_the_name_is_a_rival(host: str, port: int) -> None:
    assert said(announcement("Studio", host, port, "10.0.0.9")).rival == (host, port)


def test_the_greater_of_two_rivals_is_told() -> None:
    full = name(f"Studio.{SERVICE_TYPE}")
    both = [
        record(full, TYPE_SRV, bytes(6)[:4] + b"\x00\x01" + name(host))
        for host in ("z.local.", "a.local.")
    ]
    assert said(packet(both)).rival == ("z.local.", 1)


def test_other_content_and_a_goodbye_are_denials() -> None:
    assert said(announcement("Studio", "m.local.", 7411, "10.0.0.1", text=b"\x01x")).is_denied
    assert said(announcement("Other", "m.local.", 7411, "10.0.0.9")).is_denied
    assert said(announcement("Studio", "m.local.", 7411, "10.0.0.1", ttl=0)).is_denied


def test_a_goodbye_of_what_is_not_so_is_none() -> None:
    assert said(announcement("Other", "m.local.", 7411, "10.0.0.9", ttl=0)) == Heard()


def test_a_question_says_nothing_and_a_probe_what_somebody_wants() -> None:
    srv = record(name(f"Studio.{SERVICE_TYPE}"), TYPE_SRV, bytes(6) + name("z.local."))
    as_answer = packet([srv], QUERY)
    assert said(as_answer) == Heard()
    as_authority = as_answer[:6] + bytes(2) + b"\x00\x01" + as_answer[10:]
    assert said(as_authority) == Heard(rival=("z.local.", 0))
