"""`edgectl identity`: who a daemon is, and what the caller may do there."""

from edged.cli.as_json import as_json
from edged.cli.grants import what_it_allows
from edged.cli.output import emit, emit_json, harmless
from edged.cli.remote import Connection
from edged.node.trust.fingerprint import hexadecimal
from edged.v1 import access_pb2


def print_identity(connection: Connection, *, json: bool) -> None:
    answer = connection.call(connection.access.GetIdentity, access_pb2.GetIdentityRequest())
    if json:
        emit_json(as_json(answer))
    else:
        emit(harmless(_as_text(answer)))


def _as_text(answer: access_pb2.GetIdentityResponse) -> str:
    fingerprint = answer.fingerprint or "none: it listens nowhere with TLS"
    rows = [
        ("name", answer.name),
        ("version", answer.version),
        ("fingerprint", fingerprint),
        *([("", hexadecimal(fingerprint))] if answer.fingerprint else []),
        ("listening", ", ".join(answer.listeners) or "nowhere"),
        ("advertised", "yes" if answer.is_advertised else "no"),
        (f"{answer.grant.name or 'you'}", what_it_allows(answer.grant)),
    ]
    width = max(len(head) for head, _ in rows)
    return "".join(f"{head:{width}}  {text}".rstrip() + "\n" for head, text in rows)
