"""`edgectl` where an address, or a name, is or was another daemon's."""

import msgspec
import pytest

from edged.client.connect.peers import PeerBook
from tests.cli.fake_access import OWN, SECRET, FakeAccess, serving_access
from tests.cli.known import ANOTHER, GIVEN, known
from tests.cli.program import Program
from tests.cli.terminal import Opened
from tests.client.certificates import certified
from tests.client.servers import free_port


@pytest.fixture
def edgectl(environ: dict[str, str]) -> Program:
    """On the client."""
    return Program("edgectl", environ)


@pytest.mark.parametrize("by", ["address", "where"])
def test_another_certificate_at_the_current_address_is_refused_unless_it_is_the_one_given(
    edgectl: Program, access: FakeAccess, at: str, book: PeerBook, by: str
) -> None:
    before = known("box", at, ANOTHER.fingerprint, token="old")
    book.put(before)
    where = "box" if by == "where" else at
    done = edgectl.run("pair", where, "--fingerprint", certified("edged").fingerprint)
    assert done.returncode == 5
    first, known_line, shown_line, *_, last = done.stderr.splitlines()
    assert first.startswith("edgectl: THE CERTIFICATE OF box HAS CHANGED")
    assert (ANOTHER.fingerprint in known_line, OWN.fingerprint in shown_line) == (True, True)
    assert "`edgectl pair --forget box`" in last
    assert (access.asked, access.tokens_shown, book.all()) == ([], [], (before,))
    assert edgectl.run("pair", where, *GIVEN).returncode == 0
    names = {peer.name: peer.fingerprint for peer in book.all()}
    assert names == ({} if by == "where" else {"box": ANOTHER.fingerprint}) | {
        "box" if by == "where" else "gpu-box": OWN.fingerprint
    }
    assert edgectl.run("pair", "--forget", "box").stdout == "box is forgotten\n"


def test_a_person_is_not_asked_whether_it_has_changed(
    open_terminal: Opened, edgectl: Program, access: FakeAccess, at: str, book: PeerBook
) -> None:
    book.put(known("box", at, ANOTHER.fingerprint))
    terminal = open_terminal(edgectl, "pair", at, "--token", SECRET)
    assert terminal.exit_code() == 5
    assert "THE CERTIFICATE OF box HAS CHANGED" in terminal.shown
    assert access.tokens_shown == []


@pytest.mark.parametrize("is_current", [True, False], ids=["its address", "another's"])
def test_a_name_that_another_daemon_has_is_refused_unless_it_is_the_same_with_a_new_certificate(
    edgectl: Program, access: FakeAccess, at: str, book: PeerBook, is_current: bool
) -> None:
    book.put(known("box", at if is_current else "192.0.2.1:7411", ANOTHER.fingerprint))
    done = edgectl.run("pair", at, "--name", "box", *GIVEN)
    assert done.returncode == (0 if is_current else 5)
    kept = OWN if is_current else ANOTHER
    assert [(peer.name, peer.fingerprint) for peer in book.all()] == [("box", kept.fingerprint)]
    assert is_current or "choose another --name, or run `edgectl pair --forget box`" in done.stderr


@pytest.mark.parametrize("is_known", [True, False], ids=["paired with already", "new"])
def test_an_address_that_another_had_before_is_paired_with(
    edgectl: Program, at: str, book: PeerBook, is_known: bool
) -> None:
    other = msgspec.structs.replace(
        known("box", "192.0.2.1:7411", ANOTHER.fingerprint), addresses=("192.0.2.1:7411", at)
    )
    book.put(other)
    if is_known:
        book.put(known("gpu-box", "192.0.2.2:7411", OWN.fingerprint))
    assert edgectl.run("pair", at, *GIVEN).returncode == 0
    assert [peer.name for peer in book.all()] == ["box", "gpu-box"]
    assert edgectl.run("--host", f"tls:{at}", "identity").returncode == 0


def test_who_is_known_at_the_current_address_of_another_is_paired_with_again(
    open_terminal: Opened, edgectl: Program, at: str, book: PeerBook
) -> None:
    book.put(known("gpu-box", "192.0.2.2:7411", OWN.fingerprint))
    book.put(known("box", at, ANOTHER.fingerprint))
    terminal = open_terminal(edgectl, "pair", at)
    terminal.read_until("[y/N]")
    terminal.type("y\n")
    assert terminal.exit_code() == 0
    assert {peer.name: peer.addresses[0] for peer in book.all()} == {"box": at, "gpu-box": at}


def test_a_peer_whose_current_address_another_has_is_not_there(
    edgectl: Program, access: FakeAccess, at: str, book: PeerBook
) -> None:
    book.put(known("gpu-box", at, OWN.fingerprint))
    other = msgspec.structs.replace(
        known("box", at, ANOTHER.fingerprint, SECRET), certificate_pem=ANOTHER.pem.decode()
    )
    book.put(other)
    done = edgectl.run("--host", "box", "identity")
    assert (done.returncode, f"box is not at {at}: gpu-box is" in done.stderr) == (3, True)
    assert access.tokens_shown == []


@pytest.mark.parametrize("words", [("pair", "box", *GIVEN), ("--host", "box", "identity")])
def test_who_is_off_is_not_there_whoever_has_an_address_of_before(
    edgectl: Program, access: FakeAccess, book: PeerBook, words: tuple[str, ...]
) -> None:
    stranger, port = FakeAccess(ANOTHER), free_port()
    with serving_access(stranger, port=port):
        addresses = (f"127.0.0.1:{free_port()}", f"127.0.0.1:{port}")
        first = known("box", addresses[0], OWN.fingerprint, SECRET)
        book.put(msgspec.structs.replace(first, addresses=addresses))
        done = edgectl.run(*words)
    assert (done.returncode, "HAS CHANGED" in done.stderr) == (3, False)
    assert (stranger.asked, stranger.tokens_shown) == ([], [])
