"""Which certificate is trusted, and what is said of one that is not: with servers on loopback."""

import contextlib
import socket
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest

from edged.client.connect.certificate import read_der, read_pem
from edged.client.connect.channel import open_channel
from edged.client.connect.peers import Peer, PeerBook
from edged.client.connect.target import Pinned, Plaintext, Security, Target, Trusted
from edged.client.connect.trust import MAX_GREETING_BYTES, NoTlsError, diagnose, fetch_certificate
from edged.errors import ConfigError, EdgedError, Reason
from edged.v1 import admin_pb2, admin_pb2_grpc
from tests.client.certificates import Certified, authority, certified
from tests.client.servers import VERSION, WAIT_S, free_port, grpc_server, raw_server

AUTHORITY = authority()
INTERMEDIATE = authority("Below", AUTHORITY)
OWN = certified("edged", "box", "box.local")


def target(address: str, security: Security) -> Target:
    return Target("box", address, security)


def ask(address: str, security: Security) -> str:
    """The version that is told there, or why gRPC had no answer."""
    try:
        with open_channel(target(address, security)) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            answer = stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=WAIT_S)
    except grpc.RpcError as error:
        return str(error.code().name)
    return str(answer.status.version)


# ── What is trusted ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(OWN, id="self-signed"),
        pytest.param(certified("edged", is_authority=True), id="self-signed, may sign"),
        pytest.param(certified("box.example.org", issuer=AUTHORITY), id="issued"),
        pytest.param(certified("box.example.org", issuer=INTERMEDIATE), id="issued further down"),
        pytest.param(certified("192.0.2.7", issuer=AUTHORITY), id="for an address"),
        pytest.param(certified("2001:db8::7", issuer=AUTHORITY), id="for an IPv6 address"),
        pytest.param(certified("*.example.org", issuer=INTERMEDIATE), id="for a wildcard"),
        pytest.param(certified("w*.x.org", "box.x.org"), id="a wildcard that none follows"),
        pytest.param(certified("someone@example.org", common_name="box"), id="for a mailbox"),
        pytest.param(certified(common_name="The Box"), id="common name"),
        pytest.param(certified(common_name="*.lan", issuer=AUTHORITY), id="common wildcard"),
    ],
)
def test_a_certificate_that_is_pinned_is_trusted_whoever_made_it_and_for_whatever_name(
    shown: Certified,
) -> None:
    with grpc_server(shown) as address:
        assert ask(address, Pinned(shown.pem)) == VERSION
        assert diagnose(target(address, Pinned(shown.pem))) is None


@pytest.mark.parametrize(
    ("pinned", "shown"),
    [
        pytest.param(OWN, certified("edged", "box", "box.local"), id="of the same names"),
        pytest.param(OWN, certified("edged", "box", key=OWN.key), id="of the same key"),
        pytest.param(OWN, certified("edged", issuer=OWN), id="issued by it"),
        pytest.param(
            certified("box.example.org", issuer=AUTHORITY),
            certified("box.example.org", issuer=AUTHORITY),
            id="of the same authority",
        ),
        pytest.param(
            certified("box.example.org", issuer=INTERMEDIATE),
            certified("box.example.org", issuer=INTERMEDIATE),
            id="of the same chain",
        ),
    ],
)
def test_another_certificate_is_refused_and_said_to_have_changed(
    pinned: Certified, shown: Certified
) -> None:
    with grpc_server(shown) as address:
        assert ask(address, Pinned(pinned.pem)) == "UNAVAILABLE"
        found = diagnose(target(address, Pinned(pinned.pem, "gpu-box")))
    assert found is not None
    assert found.reason is Reason.PEER_CHANGED
    first, known, now, *_, last = found.detail.splitlines()
    assert "THE CERTIFICATE OF gpu-box HAS CHANGED" in first
    assert known == f"known: {pinned.fingerprint}"
    assert now == f"shown: {shown.fingerprint} at {address}"
    assert "`edgectl pair --forget gpu-box`" in last


SECOND, STRANGER = certified("edged"), certified("edged")


@pytest.mark.parametrize("is_current", [True, False], ids=["current", "former"])
@pytest.mark.parametrize("shown", [SECOND, STRANGER], ids=["a peer's", "a stranger's"])
def test_an_address_is_lent_and_only_a_stranger_at_the_current_one_is_an_alarm(
    tmp_path: Path, shown: Certified, is_current: bool
) -> None:
    book = PeerBook(tmp_path / "peers.json")
    with grpc_server(shown) as address:
        addresses = (address, "192.0.2.1:1") if is_current else ("192.0.2.1:1", address)
        for name, own in (("first", OWN), ("second", SECOND)):
            kept = Peer(
                name=name,
                addresses=addresses if own is OWN else ("192.0.2.2:1",),
                fingerprint=own.fingerprint,
                certificate_pem=own.pem.decode(),
            )
            book.put(kept)
        found = diagnose(target(address, Pinned(OWN.pem, "first", book)))
    assert found is not None
    if is_current and shown is STRANGER:
        assert found.reason is Reason.PEER_CHANGED
    else:
        who = "second" if shown is SECOND else "a daemon that was not paired with"
        assert (found.reason, found.detail) == (
            Reason.UNREACHABLE,
            f"first is not at {address}: {who} is, and nothing was sent to it",
        )


@pytest.mark.parametrize("left", ["nothing", "no file of peers", "itself anew"])
def test_what_cannot_be_told_apart_is_an_alarm(tmp_path: Path, left: str) -> None:
    path = tmp_path / "peers.json"
    book = PeerBook(path)
    with grpc_server(SECOND) as address:
        if left == "itself anew":
            pem = SECOND.pem.decode()
            where = ("192.0.2.1:1", address)
            fingerprint = SECOND.fingerprint
            book.put(
                Peer(name="box", addresses=where, fingerprint=fingerprint, certificate_pem=pem)
            )
        elif left != "nothing":
            path.write_text(left)
        found = diagnose(target(address, Pinned(OWN.pem, "box", book)))
    assert found is not None
    assert found.reason is Reason.PEER_CHANGED


def test_an_authority_vouches_for_names_that_it_has_signed() -> None:
    shown = certified("127.0.0.1", issuer=INTERMEDIATE)
    with grpc_server(shown) as address:
        assert ask(address, Trusted(AUTHORITY.pem)) == VERSION
        assert diagnose(target(address, Trusted(AUTHORITY.pem))) is None


@pytest.mark.parametrize(
    ("shown", "authorities", "why"),
    [
        pytest.param(OWN, AUTHORITY.pem, "self-signed certificate", id="nobody vouches"),
        pytest.param(
            certified("192.0.2.7", issuer=AUTHORITY), AUTHORITY.pem, "mismatch", id="another name"
        ),
        pytest.param(OWN, b"no certificate", "cannot be read", id="no authority at all"),
        pytest.param(OWN, b"", "cannot be read", id="an empty file"),
        pytest.param(OWN, b"\xff\xfe", "cannot be read", id="no text"),
    ],
)
def test_a_certificate_that_nobody_vouches_for_is_not_trusted_and_why(
    shown: Certified, authorities: bytes, why: str
) -> None:
    with grpc_server(shown) as address:
        found = diagnose(target(address, Trusted(authorities)))
    assert found is not None
    assert found.reason is Reason.PEER_UNKNOWN
    assert why in found.detail


@pytest.mark.parametrize("days", [(-10, -1), (2, 10)], ids=["ended", "to come"])
def test_a_certificate_out_of_date_is_told_with_the_clock(days: tuple[int, int]) -> None:
    shown = certified("edged", days=days)
    with grpc_server(shown) as address:
        assert ask(address, Pinned(shown.pem)) == "UNAVAILABLE"
        found = diagnose(target(address, Pinned(shown.pem)))
    assert found is not None
    assert found.reason is Reason.PEER_UNKNOWN
    assert "by the clock of this host" in found.detail


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param(certified(common_name="").pem, id="for nobody"),
        pytest.param(certified("w*.example.org").pem, id="for what none follows"),
        pytest.param(b"no certificate", id="damaged"),
    ],
)
def test_a_kept_certificate_that_cannot_be_asked_for_is_an_error_and_no_hang(pem: bytes) -> None:
    with pytest.raises(ConfigError, match="box"):
        open_channel(target("127.0.0.1:1", Pinned(pem)))


# ── What else may listen ─────────────────────────────────────────────────────────────────────────


def test_the_certificate_is_fetched_as_it_is_shown() -> None:
    shown = certified("box.example.org", issuer=INTERMEDIATE)
    with grpc_server(shown) as address:
        found = fetch_certificate(address)
    assert (found.fingerprint, found.pem) == (shown.fingerprint, shown.pem)
    assert found == read_pem(shown.chain_pem)


@pytest.mark.parametrize("der", [b"", b"\x30\x03\x02\x01\x01", b"\xff" * 100])
def test_bytes_that_are_no_certificate_are_refused(der: bytes) -> None:
    with pytest.raises(ValueError, match="it is no certificate"):
        read_der(der)


def test_a_daemon_without_tls_where_tls_is_expected_is_told() -> None:
    with grpc_server(None) as address:
        assert ask(address, Pinned(OWN.pem)) == "UNAVAILABLE"
        found = diagnose(target(address, Pinned(OWN.pem)))
    assert found is not None
    assert (found.reason, "does not speak TLS, but gRPC" in found.detail) == (
        Reason.UNREACHABLE,
        True,
    )


def test_a_daemon_with_tls_where_none_is_expected_is_told() -> None:
    with grpc_server(OWN) as address:
        assert ask(address, Plaintext()) == "UNAVAILABLE"
        found = diagnose(target(address, Plaintext()))
    assert found is not None
    assert found.reason is Reason.UNREACHABLE
    assert f"speaks TLS; reach it as tls:{address}" in found.detail


def test_a_socket_and_a_plaintext_address_have_no_certificate_to_explain() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    assert diagnose(target("unix:x.sock", Plaintext())) is None
    assert diagnose(target(nowhere, Plaintext())) is None
    with grpc_server(None) as address:
        assert diagnose(target(address, Plaintext())) is None


def test_where_nothing_listens_the_system_says_why() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    found = diagnose(target(nowhere, Pinned(OWN.pem)))
    assert found is not None
    assert (found.reason, found.detail) == (
        Reason.UNREACHABLE,
        f"no daemon answers at {nowhere}: Connection refused",
    )


def test_a_name_without_an_address_is_told() -> None:
    with pytest.raises(EdgedError, match=r"nosuch\.invalid has no address here"):
        fetch_certificate("nosuch.invalid:7411")


def say(answer: bytes) -> AbstractContextManager[str]:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    return raw_server(talk)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS, but HTTP"),
        (b"220 mail ESMTP\r\n", "does not speak TLS"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "breaks TLS off"),
        (b"\x16\x03\x03\xff\xff" + b"\xff" * 100, "breaks TLS off"),
    ],
)
def test_what_answers_a_greeting_otherwise_is_told(answer: bytes, what: str) -> None:
    with say(answer) as address, pytest.raises(NoTlsError, match=what):
        fetch_certificate(address)


def test_one_that_hangs_up_is_told() -> None:
    with raw_server(lambda _: None) as address, pytest.raises(NoTlsError, match="not speak TLS"):
        fetch_certificate(address)


def test_one_that_is_silent_is_left_in_time() -> None:
    def talk(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    with raw_server(talk) as address, pytest.raises(NoTlsError, match="in time"):
        fetch_certificate(address, timeout_s=0.05)


def test_one_that_drips_is_left_in_time() -> None:
    left = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"\x16\x03\x03\x3f\xff")
        with contextlib.suppress(OSError):
            while not left.wait(0.001):
                connection.sendall(b"\x02")

    began_s = time.monotonic()
    with raw_server(talk) as address:
        with pytest.raises(NoTlsError, match="in time"):
            fetch_certificate(address, timeout_s=0.2)
        left.set()
    assert time.monotonic() - began_s < WAIT_S


def test_one_that_talks_without_end_is_left() -> None:
    sent = 0

    def talk(connection: socket.socket) -> None:
        nonlocal sent
        record = b"\x16\x03\x03\x20\x00" + b"\x00\x00\x00\x00" * 2048  # many a HelloRequest
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(record)
                sent += len(record)

    with raw_server(talk) as address, pytest.raises(NoTlsError, match="65536 bytes"):
        fetch_certificate(address)
    assert sent < 100 * MAX_GREETING_BYTES
