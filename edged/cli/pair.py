"""`edgectl pair HOST`: trust a daemon on another host, and get a token from it.

Two things have to be shown, and a person or a fingerprint given beforehand shows them: to us, that
the certificate is the daemon's; to the daemon, that we are who asks for a token. The codes are
compared at both ends, because each end can be deceived: whoever is in the middle says yes at once.
"""

import os
import re
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from edged.cli.exits import CommandError, ExitCode
from edged.cli.output import emit, emit_json, harmless, note
from edged.cli.question import can_ask, is_agreed
from edged.cli.remote import Connection
from edged.client.connect.address import PEER_NAME
from edged.client.connect.certificate import Certificate
from edged.client.connect.peers import MAX_ADDRESSES, Peer, PeerBook
from edged.client.connect.target import Pinned, Target
from edged.client.connect.trust import fetch_certificate, not_the_peer
from edged.client.lan.find import find_host_ports
from edged.errors import EdgedError, InvalidRequestError, Reason
from edged.node.trust.fingerprint import digest_of, parse_fingerprint
from edged.node.trust.grant import NAME_RULE, is_grant_name
from edged.node.trust.pairing import PairingLimits, Proposal
from edged.node.trust.tokens import MAX_TOKEN_CHARACTERS
from edged.places import peers_file
from edged.v1 import access_pb2

ANSWER_TIMEOUT_S = PairingLimits().answer_s + 10.0
"""The daemon gives up first, and says so."""
STDIN = "-"
_MAX_OWN_NAME_CHARACTERS = 32
_MAX_PEER_NAME_CHARACTERS = 63


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for; "" where nothing was said."""

    where: str
    name: str
    """What to call the daemon here."""
    as_name: str
    """What to be called there."""
    token: str
    fingerprint: str
    timeout_s: float | None
    json: bool


def pair_with(wish: Wish) -> None:
    """Pair, and keep the daemon in the file of peers.

    Raises:
        CommandError: refused, or what was asked for makes no sense.
        EdgedError: PEER_CHANGED, it is known with another certificate; UNREACHABLE.
    """
    expected = _checked(wish)
    book = PeerBook(peers_file(os.environ))
    try:
        host_ports = find_host_ports(wish.where, book)
    except InvalidRequestError as error:
        raise CommandError(error.detail, ExitCode.USAGE) from None
    known = book.named(wish.where)
    wanted = expected or (None if known is None else known.fingerprint)
    host_port, certificate = _choose(host_ports, wanted, _Meant(book, known))
    note(f"{host_port} shows the certificate {certificate.fingerprint}")
    if expected is not None and certificate.fingerprint != expected:
        raise CommandError(
            f"not paired: the certificate of {host_port} is {certificate.fingerprint}; expected "
            f"{expected}. Nothing was sent to it",
            ExitCode.DENIED,
        )
    _refuse_taken_name(book, wish, host_port, certificate, is_verified=expected is not None)
    if certificate.name is None:
        raise CommandError(f"the certificate of {host_port} is for no name and no address")
    token = _given_token(wish)
    if not token:
        token = _token_for_code(wish, host_port, certificate, is_verified=expected is not None)
    elif expected is None and not is_agreed(
        "Is it what `edgectl identity` shows on the daemon's machine?"
    ):
        raise CommandError("not paired, and the token was not sent", ExitCode.DENIED)
    told_name = _name_of_daemon(wish, host_port, certificate, token)
    _keep(
        book,
        wish,
        told_name,
        Peer(
            name="",
            addresses=(host_port,),
            fingerprint=certificate.fingerprint,
            certificate_pem=certificate.pem.decode(),
            token=token,
        ),
    )


def _checked(wish: Wish) -> str | None:
    """The fingerprint that was given, if one was.

    Raises:
        CommandError: something given makes no sense, or a person is needed and there is none.
    """
    if wish.name and not PEER_NAME.fullmatch(wish.name):
        raise CommandError(
            f"--name {wish.name!r}: expected 1 to 63 characters out of A-Z a-z 0-9 . _ -",
            ExitCode.USAGE,
        )
    if wish.as_name and not is_grant_name(wish.as_name):
        raise CommandError(
            f"--as {wish.as_name!r}: expected {NAME_RULE}",
            ExitCode.USAGE,
        )
    if wish.fingerprint:
        try:
            return parse_fingerprint(wish.fingerprint)
        except ValueError as error:
            raise CommandError(f"--fingerprint: {error}", ExitCode.USAGE) from None
    if not can_ask():
        raise CommandError(
            "a person has to say whether the certificate is the daemon's, and this is no terminal: "
            "give --fingerprint, which `edgectl identity` shows on the daemon's machine",
            ExitCode.DENIED,
        )
    return None


@dataclass(frozen=True, slots=True)
class _Meant:
    """Which daemon, as far as it is known."""

    book: PeerBook
    named: Peer | None
    """The peer that the user named."""

    def check(self, host_port: str, certificate: Certificate) -> None:
        """Raises EdgedError: the peer that was named is not there; or, PEER_CHANGED, somebody else
        is where one should be."""
        peer = self.named or self.book.at(host_port)
        if peer is None or peer.fingerprint == certificate.fingerprint:
            return
        error = not_the_peer(
            self.book, peer.name, host_port, peer.fingerprint, certificate.fingerprint
        )
        if self.named is not None or error.reason is Reason.PEER_CHANGED:
            raise error


def _choose(
    host_ports: Iterable[str], wanted: str | None, meant: _Meant
) -> tuple[str, Certificate]:
    """The first address with the certificate that is wanted, else the first that may be meant.

    Raises:
        EdgedError: PEER_CHANGED; UNREACHABLE, what is said of the last one.
    """
    first: tuple[str, Certificate] | None = None
    alarm: EdgedError | None = None
    failure: EdgedError | None = None
    for host_port in host_ports:
        try:
            found = host_port, fetch_certificate(host_port)
            if found[1].fingerprint == wanted:
                return found
            meant.check(*found)
            first = first or found
        except EdgedError as error:
            failure = error
            if error.reason is Reason.PEER_CHANGED:
                alarm = alarm or error
        if wanted is None and (first or alarm):
            break
    if first is not None and alarm is None:
        return first
    failure = alarm or failure
    assert failure is not None, "there was an address"
    raise failure


def _given_token(wish: Wish) -> str:
    """Raises CommandError: stdin has none."""
    if wish.token != STDIN:
        return wish.token
    token = sys.stdin.buffer.readline(MAX_TOKEN_CHARACTERS + 2).decode(errors="replace").strip()
    if not token:
        raise CommandError("there is no token on stdin", ExitCode.USAGE)
    return token


def _refuse_taken_name(
    book: PeerBook, wish: Wish, host_port: str, certificate: Certificate, *, is_verified: bool
) -> None:
    """Raises CommandError: another peer has the name that the user wants. One whose own new
    certificate was verified is no other."""
    known = book.named(wish.name)
    if known is None or known.fingerprint == certificate.fingerprint:
        return
    if is_verified and (wish.where == known.name or host_port == known.addresses[0]):
        return
    raise CommandError(
        f"not paired: another daemon is known as {known.name!r}, with the certificate "
        f"{known.fingerprint}; choose another --name, or run `edgectl pair --forget "
        f"{known.name}` first",
        ExitCode.DENIED,
    )


def _token_for_code(
    wish: Wish, host_port: str, certificate: Certificate, *, is_verified: bool
) -> str:
    """Begin a pairing, show its code, wait for the answer; the token that was given.

    Raises:
        CommandError: the daemon, its administrator or the user here said no.
    """
    proposal = Proposal(wish.as_name or own_name(socket.gethostname()))
    target = Target(host_port, host_port, Pinned(certificate.pem))
    with Connection(target, wish.timeout_s) as connection:
        begun = connection.call(
            connection.access.BeginPairing,
            access_pb2.BeginPairingRequest(name=proposal.name, commitment=proposal.commitment),
        )
        code = proposal.code(digest_of(certificate.fingerprint), begun.nonce)
        note(
            f"pairing as {proposal.name!r} with the code {code[:3]} {code[3:]}: compare it with "
            "the one that `edgectl pair` shows on the daemon's machine, and answer there"
        )
        given = connection.call(
            connection.access.FinishPairing,
            access_pb2.FinishPairingRequest(pairing_id=begun.pairing_id, nonce=proposal.nonce),
            usual_limit_s=ANSWER_TIMEOUT_S,
        )
    if not is_verified and not is_agreed(
        f"It has accepted. Did the daemon's machine show {code[:3]} {code[3:]} too?"
    ):
        raise CommandError(
            f"not paired: what answers at {host_port} may not be the daemon that you mean; if that "
            f"one accepted a code, run `edgectl token revoke {given.token.grant.name}` there",
            ExitCode.DENIED,
        )
    return given.secret


def _name_of_daemon(wish: Wish, host_port: str, certificate: Certificate, token: str) -> str:
    """As it calls itself. Shows that a token which was given is one of its own.

    Raises:
        CommandError: it is not.
    """
    target = Target(host_port, host_port, Pinned(certificate.pem), token)
    try:
        with Connection(target, wish.timeout_s) as connection:
            answer = connection.call(connection.access.GetIdentity, access_pb2.GetIdentityRequest())
    except (CommandError, EdgedError):
        if wish.token:
            raise
        return ""  # a token that was just given must not be lost
    return answer.name


def _keep(book: PeerBook, wish: Wish, told_name: str, peer: Peer) -> None:
    """Under the name that the user wants, else the one it is known under, else its own."""
    known = book.showing(peer.fingerprint)
    others = () if known is None else known.addresses
    host = peer.addresses[0].rpartition(":")[0].strip("[]")
    renewed = known or book.named(wish.where)
    name = wish.name or (
        renewed.name if renewed else _free_name(book, peer_name(told_name or host))
    )
    addresses = (*peer.addresses, *(one for one in others if one not in peer.addresses))
    kept = Peer(
        name=name,
        addresses=addresses[:MAX_ADDRESSES],
        fingerprint=peer.fingerprint,
        certificate_pem=peer.certificate_pem,
        token=peer.token,
    )
    book.put(kept)
    if known is not None and known.name != name:
        book.forget(known.name)
    if wish.json:
        emit_json(
            {"name": name, "addresses": list(kept.addresses), "fingerprint": kept.fingerprint}
        )
    else:
        emit(f"paired with {harmless(name)}: `edgectl --host {harmless(name)} …` asks it\n")


def own_name(host_name: str) -> str:
    """What this host would be called there: a name that a token may have."""
    first = host_name.partition(".")[0]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", first).strip("-")[:_MAX_OWN_NAME_CHARACTERS]
    return name if is_grant_name(name) else "client"


def peer_name(told: str) -> str:
    """A daemon's own name as one that a user can type: "gpu box (2)" is gpu-box-2."""
    typed = re.sub(r"[^A-Za-z0-9._-]+", "-", told).strip("-")
    return typed[:_MAX_PEER_NAME_CHARACTERS] or "daemon"


def _free_name(book: PeerBook, wanted: str) -> str:
    """Another daemon may have that name already."""
    taken = {peer.name for peer in book.all()}
    if wanted not in taken:
        return wanted
    ends = (f"-{number}" for number in range(2, len(taken) + 3))
    names = (wanted[: _MAX_PEER_NAME_CHARACTERS - len(end)] + end for end in ends)
    name = next(name for name in names if name not in taken)
    note(f"another daemon is known as {wanted!r} already: this one is {name!r}")
    return name
