"""Owns the tokens: which there are, what each allows, whether a caller's is one of them.

Theory of operation: a token is `edged_ID_SECRET`. The secret is 256 random bits, so that its plain
SHA-256 is all that has to be kept of it, and comparing hashes in constant time is all there is to
checking it. The file is the truth: whoever changes it takes its lock, reads it anew and replaces it
as a whole, and whoever looks a token up first looks whether the file was replaced. So a token that
a command revokes is refused by a running daemon from the next call on.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from edged.errors import ConfigError, EdgedError, Reason
from edged.log import get_logger
from edged.node.trust.grant import Grant, check_grant
from edged.node.trust.private_files import (
    FileVersion,
    locked,
    make_state_directory,
    replace_private,
    version_of,
)
from edged.node.trust.token_file import MAX_TOKENS, TokenRecord, encoded, read_tokens

TOKENS_FILE = "tokens.json"
CREDENTIAL = "edged.tokens"
"""The name of the service manager's credential, a file of the same form."""
MAX_TOKEN_CHARACTERS = 64

_TOKEN = re.compile(r"edged_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_NOBODYS_SHA256 = hashlib.sha256(b"").hexdigest()
_Records = tuple[TokenRecord, ...]
_Versions = tuple[FileVersion | None, FileVersion | None]

_log = get_logger("tokens")


class TokenStore:
    """The tokens of the file at `path`, which need not exist yet, and those of a credential, which
    is only read."""

    def __init__(self, path: Path, credential: Path | None = None) -> None:
        """Raises ConfigError: a file cannot be read, or is no file of tokens."""
        self._path = path
        self._credential = credential
        self._records: dict[str, TokenRecord] = {}
        self._given: frozenset[str] | None = None
        """The ids that the credential has; None: whether there is one is not known."""
        self._seen: _Versions = (None, None)
        self._told: _Versions | None = None
        """Of files that were told to be unusable."""
        self.reload()

    @property
    def path(self) -> Path:
        return self._path

    def all(self) -> tuple[TokenRecord, ...]:
        """Every token, also those that were revoked, oldest first."""
        self._reload_if_changed()
        return tuple(sorted(self._records.values(), key=lambda one: one.created_s))

    @property
    def has_valid(self) -> bool:
        return any(record.is_valid for record in self.all())

    def reload(self) -> None:
        """Read the files anew.

        Raises:
            ConfigError: one cannot be read, or is no file of tokens; what was known still holds.
        """
        seen = self._versions()
        given = (
            () if self._credential is None else read_tokens(self._credential, is_credential=True)
        )
        own = read_tokens(self._path)
        if self._credential is not None:
            self._given = frozenset(record.token_id for record in given)
        # A record of the file stands before one of the credential, so that what the credential
        # gives can be revoked.
        self._records = {record.token_id: record for record in (*given, *own)}
        self._seen = seen

    def create(self, grant: Grant, now_s: float) -> tuple[str, TokenRecord]:
        """A new token, which is not kept, and what is kept of it.

        Raises:
            EdgedError: INVALID_ARGUMENT, the grant makes no sense; DUPLICATE_TOKEN, a valid token
                has its name; BAD_CONFIG, there are too many, or the file cannot be changed.
        """
        check_grant(grant)
        secret = secrets.token_urlsafe(32)
        made: list[TokenRecord] = []

        def with_new(records: _Records) -> _Records:
            for record in (*records, *self._of_credential()):
                if record.is_valid and record.grant.name == grant.name:
                    raise EdgedError(
                        Reason.DUPLICATE_TOKEN,
                        f"a token is named {grant.name!r} already, id {record.token_id}; "
                        "revoke it, or take another name",
                    )
            taken = {record.token_id for record in records} | set(self._records)
            token_id = next(one for one in iter(_new_id, "") if one not in taken)
            made.append(TokenRecord(token_id, grant, _sha256(secret), now_s))
            return (*_with_room(records), made[0])

        self._change(with_new)
        return f"edged_{made[0].token_id}_{secret}", made[0]

    def revoke(self, name_or_id: str, now_s: float) -> TokenRecord:
        """Refuse a token from now on. One that was revoked already stays as it is.

        Raises:
            EdgedError: UNKNOWN_TOKEN; BAD_CONFIG, the file cannot be changed.
        """
        revoked: list[TokenRecord] = []

        def without(records: _Records) -> _Records:
            found = _named((*records, *self._of_credential()), name_or_id)
            changed = replace(found, revoked_s=now_s) if found.is_valid else found
            revoked.append(changed)
            if all(one.token_id != found.token_id for one in records):  # the credential's alone
                return (*(one for one in records if self._may_count(one)), changed)
            return tuple(changed if one.token_id == found.token_id else one for one in records)

        self._change(without)
        return revoked[0]

    def find(self, token: str) -> TokenRecord:
        """The record of a token that somebody shows.

        Raises:
            EdgedError: TOKEN_INVALID, it is none of ours; TOKEN_REVOKED.
        """
        self._reload_if_changed()
        parsed = _TOKEN.fullmatch(token) if len(token) <= MAX_TOKEN_CHARACTERS else None
        token_id, secret = parsed.groups() if parsed else ("", "")
        record = self._records.get(token_id)
        # An id that is not there takes as long as a secret that is wrong.
        expected = _NOBODYS_SHA256 if record is None else record.secret_sha256
        is_right = hmac.compare_digest(_sha256(secret), expected)
        if record is None or not is_right:
            raise EdgedError(
                Reason.TOKEN_INVALID,
                "the token is none of this daemon's; ask its operator for one",
            )
        if not record.is_valid:
            raise _revoked(record.grant.name)
        return record

    def check_still_valid(self, token_id: str) -> None:
        """For what a caller holds open for long.

        Raises:
            EdgedError: TOKEN_REVOKED; it was let in with a token that holds no more.
        """
        self._reload_if_changed()
        record = self._records.get(token_id)
        if record is None or not record.is_valid:
            raise _revoked(token_id if record is None else record.grant.name)

    def _may_count(self, record: TokenRecord) -> bool:
        """Not what revokes a token of the credential that the credential has no more."""
        return not record.is_credential or self._given is None or record.token_id in self._given

    def _of_credential(self) -> _Records:
        return tuple(record for record in self._records.values() if record.is_credential)

    def _versions(self) -> _Versions:
        credential = None if self._credential is None else version_of(self._credential)
        return version_of(self._path), credential

    def _reload_if_changed(self) -> None:
        """A file that became unusable is told once; the tokens known before still hold. One that
        cannot be read now, for want of descriptors say, is read at the next call."""
        versions = self._versions()
        if versions == self._seen:
            return
        try:
            self.reload()
        except ConfigError as error:
            if not isinstance(error.__cause__, OSError):
                self._seen = versions
            if versions != self._told:
                self._told = versions
                _log.error("the tokens' file is unusable, the last ones hold", detail=error.detail)

    def _change(self, change: Callable[[_Records], _Records]) -> None:
        make_state_directory(self._path.parent)
        try:
            with locked(self._path):
                self.reload()
                records = change(read_tokens(self._path))
                replace_private(self._path, encoded(records))
        except OSError as error:
            raise ConfigError(f"cannot write {self._path}: {error.strerror}") from error
        self.reload()


def id_in(token: str) -> str | None:
    """The id that a token claims to have: all of it that a log may show."""
    parsed = _TOKEN.fullmatch(token) if len(token) <= MAX_TOKEN_CHARACTERS else None
    return parsed[1] if parsed else None


def _revoked(name: str) -> EdgedError:
    return EdgedError(
        Reason.TOKEN_REVOKED,
        f"token {name!r} was revoked; ask the daemon's operator for another",
    )


def _new_id() -> str:
    return secrets.token_hex(4)


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _named(records: Iterable[TokenRecord], name_or_id: str) -> TokenRecord:
    """The valid token of that id, else the valid one of that name, else one that was revoked.

    The id comes first: who pairs chooses its own name, and could make it the id of another.

    Raises:
        EdgedError: UNKNOWN_TOKEN.
    """
    all_of_them = tuple(records)
    of_name = [record for record in all_of_them if record.grant.name == name_or_id]
    of_id = [record for record in all_of_them if record.token_id == name_or_id]
    found = [*of_name, *of_id]
    if not found:
        raise EdgedError(
            Reason.UNKNOWN_TOKEN, f"no token has the name or the id {name_or_id[:40]!r}"
        )
    return max(found, key=lambda one: (one.is_valid, one.token_id == name_or_id, one.created_s))


def _with_room(records: _Records) -> _Records:
    """Without the token that was revoked first, if there is no room for another. Those of the
    credential take no room, and stay: they would hold again.

    Raises:
        EdgedError: BAD_CONFIG; all of them are valid.
    """
    own = [record for record in records if not record.is_credential]
    if len(own) < MAX_TOKENS:
        return records
    revoked = [record for record in own if not record.is_valid]
    if not revoked:
        raise EdgedError(
            Reason.BAD_CONFIG,
            f"there are {len(own)} tokens, the most there may be; revoke one first",
        )
    oldest = min(revoked, key=lambda one: one.revoked_s or 0.0)
    return tuple(record for record in records if record is not oldest)
