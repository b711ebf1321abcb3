"""`edgectl token`: through a daemon, or in a file while none runs."""

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edged.cli.as_json import as_json
from edged.cli.columns import Cell, Column, Style, Styled, laid_out
from edged.cli.grants import tier_of
from edged.cli.output import emit, emit_json, harmless, note, wants_colour
from edged.node.trust.grant import Grant
from edged.node.trust.tokens import TOKENS_FILE, TokenStore
from edged.rpc.convert_access import from_grant, from_record
from edged.v1 import access_pb2

if TYPE_CHECKING:
    from edged.cli.remote import Connection  # imports gRPC, which a file does not need


def create(connection: "Connection", grant: Grant, *, json: bool) -> None:
    request = access_pb2.CreateTokenRequest(grant=from_grant(grant))
    _print_created(connection.call(connection.access.CreateToken, request), json=json)


def create_in_file(file: Path, grant: Grant, *, json: bool) -> None:
    secret, record = TokenStore(_tokens_file(file)).create(grant, time.time())
    made = access_pb2.CreateTokenResponse(secret=secret, token=from_record(record, None))
    _print_created(made, json=json)


def list_all(connection: "Connection", *, json: bool) -> None:
    answer = connection.call(connection.access.ListTokens, access_pb2.ListTokensRequest())
    _print_list(answer, json=json)


def list_in_file(file: Path, *, json: bool) -> None:
    records = TokenStore(_tokens_file(file)).all()
    tokens = [from_record(record, None) for record in records]
    _print_list(access_pb2.ListTokensResponse(tokens=tokens), json=json)


def revoke(connection: "Connection", name_or_id: str, *, json: bool) -> None:
    request = access_pb2.RevokeTokenRequest(name_or_id=name_or_id)
    _print_revoked(connection.call(connection.access.RevokeToken, request).token, json=json)


def revoke_in_file(file: Path, name_or_id: str, *, json: bool) -> None:
    record = TokenStore(_tokens_file(file)).revoke(name_or_id, time.time())
    _print_revoked(from_record(record, None), json=json)


def _tokens_file(given: Path) -> Path:
    """Absolute, so that errors name it in full."""
    return (given / TOKENS_FILE if given.is_dir() else given).absolute()


def _print_created(made: access_pb2.CreateTokenResponse, *, json: bool) -> None:
    """The secret alone on stdout, so that it can be piped to where it is needed."""
    token = made.token
    if json:
        emit_json(as_json(made))
    else:
        emit(f"{harmless(made.secret)}\n")
    note(
        f"token {token.grant.name!r}, id {token.token_id}: it cannot be shown again. Its holder "
        "pairs with `edgectl pair HOST --token -`, which reads it, or sends it as EDGED_TOKEN"
    )


def _print_list(answer: access_pb2.ListTokensResponse, *, json: bool) -> None:
    if json:
        emit_json(as_json(answer))
    else:
        emit(_as_table(answer.tokens))


def _print_revoked(token: access_pb2.Token, *, json: bool) -> None:
    if json:
        emit_json(as_json(token))
    else:
        emit(
            f"token {harmless(repr(token.grant.name))}, id {harmless(token.token_id)}, is revoked\n"
        )


def _as_table(tokens: Sequence[access_pb2.Token]) -> str:
    columns = (
        Column("NAME"),
        Column("ID"),
        Column("TIER"),
        Column("MODELS"),
        Column("PER MINUTE", is_number=True),
        Column("AT ONCE", is_number=True),
        Column("ADMIN"),
        Column("CREATED"),
        Column("LAST USED"),
        Column("STATE"),
    )
    return laid_out(columns, [_row(token) for token in tokens], colour=wants_colour(sys.stdout))


def _row(token: access_pb2.Token) -> list[Cell]:
    grant = token.grant
    per_minute = grant.HasField("max_requests_per_minute")
    at_once = grant.HasField("max_concurrent_requests")
    return [
        grant.name,
        token.token_id,
        tier_of(grant),
        ",".join(grant.models) or "all",
        f"{grant.max_requests_per_minute:g}" if per_minute else "-",
        str(grant.max_concurrent_requests) if at_once else "-",
        "yes" if grant.is_admin else "no",
        _moment(token.created_s),
        _moment(token.last_used_s) if token.HasField("last_used_s") else "-",
        _state(token),
    ]


def _state(token: access_pb2.Token) -> Styled:
    if token.HasField("revoked_s"):
        return Styled(f"revoked {_moment(token.revoked_s)}", Style.RED)
    return Styled("valid (credential)" if token.is_credential else "valid", Style.GREEN)


def _moment(seconds: float) -> str:
    """By the clock on the wall of whoever looks; "?" for what is no time of the calendar."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
    except (OSError, OverflowError, ValueError):
        return "?"
