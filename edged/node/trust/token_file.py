"""Decides what a file of tokens looks like: JSON, which an operator may read and a service manager
may hand over as a credential.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edged.core.types import SloTier
from edged.errors import ConfigError, EdgedError
from edged.node.trust.grant import Grant, check_grant
from edged.node.trust.private_files import read_private

MAX_TOKENS = 1024
"""In one file, beside as many of a credential that are revoked in it."""
MAX_FILE_BYTES = 8 * 1024 * 1024

_FORMAT_VERSION = 1
_ID = re.compile(r"[0-9a-f]{8}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token without its secret. Times are seconds since 1970."""

    token_id: str
    grant: Grant
    secret_sha256: str
    """Hexadecimal."""
    created_s: float
    revoked_s: float | None = None
    is_credential: bool = False
    """Given by the service manager, which gives it again at the next start."""

    @property
    def is_valid(self) -> bool:
        return self.revoked_s is None


class _Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One token as the file has it."""

    token_id: str
    name: str
    max_tier: SloTier = SloTier.INTERACTIVE
    models: tuple[str, ...] = ()
    is_admin: bool = False
    max_requests_per_minute: float | None = None
    max_concurrent_requests: int | None = None
    secret_sha256: str
    created_s: float
    revoked_s: float | None = None
    is_credential: bool | msgspec.UnsetType = msgspec.UNSET
    """Not written unless it is so: versions before this field refuse a file that has it, and would
    go on with the tokens that they knew."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens: tuple[_Token, ...]
    version: int = _FORMAT_VERSION


def read_tokens(path: Path, *, is_credential: bool = False) -> tuple[TokenRecord, ...]:
    """The tokens of a file; none if there is no file.

    Raises:
        ConfigError: it cannot be read, or is no file of tokens.
    """
    raw = read_private(path, MAX_FILE_BYTES)
    if raw is None:
        return ()
    try:
        file = msgspec.json.decode(raw, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no file of tokens: {error}") from error
    if file.version != _FORMAT_VERSION:
        raise ConfigError(
            f"{path} has version {file.version}; this edged knows version {_FORMAT_VERSION}"
        )
    records = tuple(
        _to_record(token, is_credential or token.is_credential is True) for token in file.tokens
    )
    _check(path, records)
    return records


def _check(path: Path, records: tuple[TokenRecord, ...]) -> None:
    """Raises ConfigError: the file was written by hand, and wrongly."""
    given = sum(record.is_credential for record in records)
    if max(given, len(records) - given) > MAX_TOKENS:
        raise ConfigError(f"{path} has {len(records)} tokens; expected at most {MAX_TOKENS}")
    if len({record.token_id for record in records}) < len(records):
        raise ConfigError(f"{path} has two tokens of one id")
    for record in records:
        if not _ID.fullmatch(record.token_id):
            raise ConfigError(f"{path}: the id {record.token_id!r} is not 8 hexadecimal digits")
        if not _SHA256.fullmatch(record.secret_sha256):
            raise ConfigError(f"{path}: the hash of token {record.token_id} is no SHA-256")
        try:
            check_grant(record.grant)
        except EdgedError as error:
            raise ConfigError(f"{path}: token {record.token_id}: {error.detail}") from error


def _to_record(token: _Token, is_credential: bool) -> TokenRecord:
    grant = Grant(
        name=token.name,
        max_tier=token.max_tier,
        models=token.models,
        is_admin=token.is_admin,
        max_requests_per_minute=token.max_requests_per_minute,
        max_concurrent_requests=token.max_concurrent_requests,
    )
    return TokenRecord(
        token.token_id,
        grant,
        token.secret_sha256,
        token.created_s,
        token.revoked_s,
        is_credential,
    )


def encoded(records: tuple[TokenRecord, ...]) -> bytes:
    tokens = tuple(
        _Token(
            token_id=record.token_id,
            name=record.grant.name,
            max_tier=record.grant.max_tier,
            models=record.grant.models,
            is_admin=record.grant.is_admin,
            max_requests_per_minute=record.grant.max_requests_per_minute,
            max_concurrent_requests=record.grant.max_concurrent_requests,
            secret_sha256=record.secret_sha256,
            created_s=record.created_s,
            revoked_s=record.revoked_s,
            is_credential=record.is_credential or msgspec.UNSET,
        )
        for record in records
    )
    return msgspec.json.format(msgspec.json.encode(_File(tokens)), indent=2) + b"\n"
