"""`edgectl pair HOST`, with a daemon that says what it is told to."""

import json
import signal

import pytest

from edged.cli.pair import Wish, _name_of_daemon, own_name
from edged.client.connect.certificate import read_pem
from edged.client.connect.peers import Peer, PeerBook
from tests.cli.fake_access import OWN, SECRET, WAIT_S, FakeAccess, serving_access
from tests.cli.known import ANOTHER, GIVEN, known
from tests.cli.program import Program
from tests.cli.terminal import Opened
from tests.client.servers import free_port, grpc_server


@pytest.fixture
def edgectl(environ: dict[str, str]) -> Program:
    """On the client."""
    return Program("edgectl", environ)


def grouped(code: str) -> str:
    return f"{code[:3]} {code[3:]}"


# ── With a code ──────────────────────────────────────────────────────────────────────────────────


def test_a_client_shows_the_code_and_keeps_the_daemon_when_both_ends_agree(
    open_terminal: Opened, edgectl: Program, access: FakeAccess, at: str, book: PeerBook
) -> None:
    terminal = open_terminal(edgectl, "pair", at, "--as", "laptop")
    terminal.read_until("[y/N]")
    [code] = access.codes
    assert f"{at} shows the certificate {OWN.fingerprint}" in terminal.shown
    assert f"pairing as 'laptop' with the code {grouped(code)}" in terminal.shown
    assert f"Did the daemon's machine show {grouped(code)} too?" in terminal.shown
    terminal.type("y\n")
    assert terminal.exit_code() == 0
    assert "paired with gpu-box" in terminal.shown
    assert book.all() == (
        Peer(
            name="gpu-box",
            addresses=(at,),
            fingerprint=OWN.fingerprint,
            certificate_pem=OWN.pem.decode(),
            token=SECRET,
        ),
    )
    done = edgectl.run("--host", "gpu-box", "identity")
    assert (done.returncode, access.tokens_shown[-1]) == (0, f"Bearer {SECRET}")


def test_a_client_that_sees_another_code_keeps_nothing_though_it_was_accepted(
    open_terminal: Opened, edgectl: Program, at: str, book: PeerBook
) -> None:
    terminal = open_terminal(edgectl, "pair", at)
    terminal.read_until("[y/N]")
    terminal.type("n\n")
    assert terminal.exit_code() == 5
    assert "may not be the daemon that you mean" in terminal.shown
    assert book.all() == ()


def test_what_was_typed_before_the_question_answers_nothing(
    open_terminal: Opened, edgectl: Program, access: FakeAccess, at: str, book: PeerBook
) -> None:
    access.holds = True
    terminal = open_terminal(edgectl, "pair", at)
    terminal.read_until("with the code")
    terminal.type("y\n")
    terminal.read_until("y\r\n")
    access.left.set()
    terminal.read_until("[y/N]")
    terminal.type("n\n")
    assert terminal.exit_code() == 5
    assert book.all() == ()


def test_a_daemon_that_says_no_is_not_kept(
    edgectl: Program, access: FakeAccess, at: str, book: PeerBook
) -> None:
    access.accepts = False
    done = edgectl.run("pair", at, *GIVEN)
    assert (done.returncode, book.all()) == (5, ())
    assert done.stderr.endswith("edgectl: the administrator said no\n")


def test_where_no_administrator_watches_it_is_said_what_to_do(
    edgectl: Program, access: FakeAccess, at: str, book: PeerBook
) -> None:
    access.is_open = False
    done = edgectl.run("pair", at, *GIVEN)
    assert (done.returncode, book.all()) == (1, ())
    assert "run `edgectl pair` on the daemon's machine" in done.stderr


def test_a_fingerprint_that_was_given_leaves_nothing_to_ask_here(
    edgectl: Program, access: FakeAccess, at: str, book: PeerBook
) -> None:
    done = edgectl.run("pair", at, *GIVEN, "--json")
    assert done.returncode == 0
    assert f"the code {grouped(access.codes[0])}" in done.stderr
    assert json.loads(done.stdout) == {
        "name": "gpu-box",
        "addresses": [at],
        "fingerprint": OWN.fingerprint,
    }
    assert [peer.token for peer in book.all()] == [SECRET]


def test_a_client_that_is_interrupted_leaves(
    edgectl: Program, access: FakeAccess, at: str, book: PeerBook
) -> None:
    access.holds = True
    running = edgectl.start("pair", at, *GIVEN)
    assert access.went_on.wait(WAIT_S)
    running.send_signal(signal.SIGINT)
    assert access.left.wait(WAIT_S)
    running.communicate(timeout=WAIT_S)
    assert (running.returncode, book.all()) == (130, ())


# ── With a token ─────────────────────────────────────────────────────────────────────────────────


def test_a_token_pairs_without_a_code(
    open_terminal: Opened, edgectl: Program, access: FakeAccess, at: str, book: PeerBook
) -> None:
    terminal = open_terminal(edgectl, "pair", at, "--token", SECRET, "--name", "box")
    terminal.read_until("Is it what `edgectl identity` shows on the daemon's machine? [y/N]")
    assert access.tokens_shown == [], "nothing is sent to whom nobody knows yet"
    terminal.type("yes\n")
    assert terminal.exit_code() == 0
    assert [(peer.name, peer.token) for peer in book.all()] == [("box", SECRET)]
    assert access.codes == []


def test_a_token_is_not_sent_where_the_certificate_is_not_the_daemons(
    open_terminal: Opened, edgectl: Program, access: FakeAccess, at: str, book: PeerBook
) -> None:
    terminal = open_terminal(edgectl, "pair", at, "--token", SECRET)
    terminal.read_until("[y/N]")
    terminal.type("\n")
    assert terminal.exit_code() == 5
    done = edgectl.run("pair", at, "--token", SECRET, "--fingerprint", ANOTHER.fingerprint)
    assert done.returncode == 5
    assert f"expected {ANOTHER.fingerprint}. Nothing was sent to it" in done.stderr
    assert (access.tokens_shown, book.all()) == ([], ())


def test_a_script_pairs_with_a_token_on_stdin_and_a_fingerprint_as_openssl_writes_it(
    edgectl: Program, at: str, book: PeerBook
) -> None:
    from edged.node.trust.fingerprint import hexadecimal

    written = hexadecimal(OWN.fingerprint)
    done = edgectl.run("pair", at, "--token", "-", "--fingerprint", written, stdin=f"{SECRET}\n")
    assert done.returncode == 0
    assert [peer.token for peer in book.all()] == [SECRET]
    assert SECRET not in done.stdout + done.stderr


def test_a_token_that_the_daemon_does_not_know_is_not_kept(
    edgectl: Program, at: str, book: PeerBook
) -> None:
    done = edgectl.run("pair", at, "--token", "edged_x", *GIVEN)
    assert (done.returncode, book.all()) == (5, ())
    assert "the token is none of this daemon's" in done.stderr


def test_without_a_terminal_and_a_fingerprint_nobody_can_say_yes(
    edgectl: Program, there: Program, access: FakeAccess, at: str
) -> None:
    for arguments in ((at,), (at, "--token", SECRET)):
        done = edgectl.run("pair", *arguments)
        assert done.returncode == 5
        assert "this is no terminal: give --fingerprint" in done.stderr
    waiting = there.run("pair")
    assert waiting.returncode == 5
    assert "make a token with `edgectl token create`" in waiting.stderr
    assert access.asked == []


# ── What is known already ────────────────────────────────────────────────────────────────────────


def test_pairing_again_keeps_the_name_and_the_other_addresses(
    edgectl: Program, at: str, book: PeerBook
) -> None:
    book.put(known("box", "192.0.2.1:7411", OWN.fingerprint, token="old"))
    assert edgectl.run("pair", at, *GIVEN).returncode == 0
    [peer] = book.all()
    assert (peer.name, peer.addresses, peer.token) == ("box", (at, "192.0.2.1:7411"), SECRET)
    renamed = ("pair", "box", *GIVEN, "--name", "better")
    assert edgectl.run(*renamed).returncode == 0
    assert [peer.name for peer in book.all()] == ["better"]


def test_another_daemon_of_the_same_name_gets_a_number(
    edgectl: Program, at: str, book: PeerBook
) -> None:
    book.put(known("gpu-box", "192.0.2.1:7411", ANOTHER.fingerprint))
    done = edgectl.run("pair", at, *GIVEN)
    assert "another daemon is known as 'gpu-box' already: this one is 'gpu-box-2'" in done.stderr
    assert [peer.name for peer in book.all()] == ["gpu-box", "gpu-box-2"]


def test_a_changed_certificate_is_refused_by_every_command_and_nothing_is_sent(
    edgectl: Program, access: FakeAccess, at: str, book: PeerBook
) -> None:
    assert edgectl.run("pair", at, *GIVEN).returncode == 0
    num_shown = len(access.tokens_shown)
    impostor, port = FakeAccess(ANOTHER), free_port()
    book.put(known("gpu-box", f"127.0.0.1:{port}", OWN.fingerprint, SECRET))
    with serving_access(impostor, port=port):
        for host in ("gpu-box", f"tls:127.0.0.1:{port}"):
            done = edgectl.run("--host", host, "identity")
            assert (done.returncode, done.stdout) == (5, "")
            assert "THE CERTIFICATE OF gpu-box HAS CHANGED" in done.stderr
    assert (impostor.tokens_shown, len(access.tokens_shown)) == ([], num_shown)


def test_what_is_known_is_listed_without_tokens(edgectl: Program, book: PeerBook) -> None:
    book.put(known("box", "192.0.2.1:7411", OWN.fingerprint, token=SECRET))
    done = edgectl.run("pair", "--list")
    assert " ".join(done.stdout.splitlines()[1].split()) == (
        f"box 192.0.2.1:7411 {OWN.fingerprint} yes"
    )
    told = edgectl.run("pair", "--list", "--json").stdout
    assert json.loads(told)["peers"][0]["has_token"] is True
    assert SECRET not in done.stdout + told


def test_who_is_not_known_cannot_be_forgotten(edgectl: Program) -> None:
    done = edgectl.run("pair", "--forget", "box")
    assert (done.returncode, done.stderr) == (
        1,
        "edgectl: no daemon was paired with under the name 'box'\n",
    )


# ── What else may be there ───────────────────────────────────────────────────────────────────────


def test_where_nothing_or_something_else_listens_it_is_said_in_one_sentence(
    edgectl: Program,
) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    done = edgectl.run("pair", nowhere, *GIVEN)
    assert (done.returncode, done.stderr) == (
        3,
        f"edgectl: no daemon answers at {nowhere}: Connection refused\n",
    )
    with grpc_server(None) as plaintext:
        done = edgectl.run("pair", plaintext, *GIVEN)
    assert (done.returncode, "does not speak TLS, but gRPC" in done.stderr) == (3, True)


def test_a_name_without_an_address_is_told_as_that_by_every_command(edgectl: Program) -> None:
    told = "edgectl: nosuch.invalid has no address here: "
    for words in (
        ("pair", "nosuch.invalid", *GIVEN),
        ("--host", "plaintext:nosuch.invalid:7411", "identity"),
    ):
        done = edgectl.run(*words)
        assert (done.returncode, done.stderr[: len(told)]) == (3, told)


def test_tls_and_plaintext_in_each_others_place_are_told_by_every_command(
    edgectl: Program, at: str, book: PeerBook
) -> None:
    done = edgectl.run("--host", at, "status")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert f"speaks TLS; reach it as tls:{at}" in done.stderr
    with grpc_server(None) as plaintext:
        book.put(known("box", plaintext, OWN.fingerprint))
        done = edgectl.run("--host", "box", "status")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "a daemon with TLS was expected, and nothing was sent" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("unix:/x", *GIVEN), "is reached without TLS"),
        (("plaintext:192.0.2.1:7411", *GIVEN), "is reached without TLS"),
        (("http://box", *GIVEN), "is no address"),
        (("box", "--list"), "exclude one another"),
        (("--list", "--forget", "x"), "exclude one another"),
        (("box", "--tier", "batch"), "for the daemon's"),
        (("--list", "--once"), "for the daemon's"),
        (("--token", "x"), "need a HOST"),
        (("192.0.2.1", "--as", "a b"), "--as 'a b': expected 1 to 32 characters"),
        (("192.0.2.1", "--name", "a/b"), "--name 'a/b': expected 1 to 63 characters"),
        (("192.0.2.1", "--fingerprint", "SHA256:x"), "is no fingerprint"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(
    edgectl: Program, arguments: tuple[str, ...], why: str
) -> None:
    done = edgectl.run("pair", *arguments)
    assert done.returncode == 2
    assert why in " ".join(done.stderr.replace("│", " ").split())


def test_a_name_that_nobody_knows_is_told(edgectl: Program) -> None:
    done = edgectl.run("pair", "no-such-box-anywhere", *GIVEN)
    assert done.returncode == 3
    assert "no-such-box-anywhere" in done.stderr


@pytest.mark.parametrize(
    ("host", "name"),
    [("desk.example", "desk"), ("my desk", "my-desk"), ("", "client")],
)
def test_a_host_is_called_there_as_a_token_may_be(host: str, name: str) -> None:
    assert own_name(host) == name


@pytest.mark.parametrize("place", ["nosuch.invalid:7411", "127.0.0.1:1"])
def test_a_token_that_was_just_given_is_not_lost_with_the_daemons_name(place: str) -> None:
    wish = Wish(place, name="", as_name="", token="", fingerprint="", timeout_s=WAIT_S, json=False)
    assert _name_of_daemon(wish, place, read_pem(OWN.pem), SECRET) == ""
