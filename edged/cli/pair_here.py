"""`edgectl pair` on the daemon's machine: wait for clients, compare codes, answer."""

import shlex
import socket
from dataclasses import replace

from edged.cli.exits import CommandError, ExitCode
from edged.cli.grants import what_it_allows
from edged.cli.output import emit, harmless, note, warn
from edged.cli.question import can_ask, is_agreed
from edged.cli.remote import Connection
from edged.node.trust.grant import Grant, check_grant
from edged.rpc.convert_access import from_grant
from edged.v1 import access_pb2


def wait_for_clients(connection: Connection, grant: Grant, *, once: bool) -> None:
    """Ask for each client that wants to pair, until the user has enough of it, or after one.

    `grant.name` is "" for the client's own.

    Raises:
        CommandError: nobody can be asked, or the daemon takes no pairings.
        EdgedError: INVALID_ARGUMENT, such a token cannot be made; else that would be told when
            somebody has compared codes.
    """
    check_grant(replace(grant, name=grant.name or "client"))
    if not can_ask():
        raise CommandError(
            "a person has to compare the codes, and this is no terminal: without one, make a "
            "token with `edgectl token create`, and pair with --token and --fingerprint",
            ExitCode.DENIED,
        )
    allowed = from_grant(grant)
    identity = connection.call(connection.access.GetIdentity, access_pb2.GetIdentityRequest())
    watch = connection.access.WatchPairings(
        access_pb2.WatchPairingsRequest(),
        timeout=connection.timeout_s,
        metadata=connection.metadata,
    )
    asked: set[str] = set()
    is_told = False
    for answer in connection.each(watch, connection.timeout_s):
        if not is_told:
            is_told = True
            _tell(identity, allowed)
        for pairing in answer.pairings:
            if pairing.code and pairing.pairing_id not in asked:
                asked.add(pairing.pairing_id)
                if _answer(connection, pairing, allowed) and once:
                    return


def _tell(identity: access_pb2.GetIdentityResponse, allowed: access_pb2.Grant) -> None:
    note(f"the certificate of {identity.name} is {identity.fingerprint}")
    note(f"who is accepted {what_it_allows(allowed)}")
    name = identity.name if identity.is_advertised else socket.gethostname()
    note(
        f"waiting: run `edgectl pair {shlex.quote(name)}`, or with an address of this host, on "
        "the other one; Ctrl-C ends"
    )


def _answer(connection: Connection, pairing: access_pb2.Pairing, allowed: access_pb2.Grant) -> bool:
    """Whether it was answered; its client may have left meanwhile."""
    code = f"{pairing.code[:3]} {pairing.code[3:]}"
    accept = is_agreed(
        f"{pairing.name} at {pairing.address} wants to pair. Does it show the code {code}?"
    )
    request = access_pb2.AnswerPairingRequest(
        pairing_id=pairing.pairing_id, accept=accept, grant=allowed
    )
    try:
        connection.call(connection.access.AnswerPairing, request)
    except CommandError as error:
        if error.exit_code is not ExitCode.ERROR:
            raise
        warn("edgectl", error.sentence)
        return False
    emit(f"{harmless(pairing.name)} is {'paired' if accept else 'refused'}\n")
    return True
