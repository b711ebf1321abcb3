"""Owns who a daemon is to others: its key and certificate, made here or the operator's own.

Others pin the certificate itself, so that it is made once and for long: under which name or address
the daemon is reached may change, and a host's clock may be off by years when it starts.

Theory of operation: most daemons listen for their own host alone and never load an identity, so
what reads and makes certificates (`edged.node.trust.certificates`) is imported by those that do.
"""

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from edged.errors import ConfigError
from edged.node.trust.private_files import (
    locked,
    make_state_directory,
    read_private,
    read_with_mode,
    replace_private,
)

KEY_FILE = "key.pem"
CERTIFICATE_FILE = "certificate.pem"
SOON_DAYS = 30
MAX_PEM_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    """The chain, the daemon's own certificate first."""
    fingerprint: str
    not_before_s: float
    not_after_s: float
    """Seconds since 1970."""
    is_own: bool
    """Made here, not given by the operator."""

    def warning(self, now_s: float) -> str | None:
        """What an operator is to know of its validity, if anything."""
        remedy = (
            f"remove {CERTIFICATE_FILE} from the state directory, start again, and pair again"
            if self.is_own
            else "renew the file that server.tls_certificate names, and reload; restart, if it or "
            "its key is a credential of the service"
        )
        left_days = (self.not_after_s - now_s) / 86400
        if now_s < self.not_before_s:
            return f"the certificate is not valid before {_day(self.not_before_s)}; see the clock"
        if left_days <= 0:
            return f"the certificate expired on {_day(self.not_after_s)}: {remedy}"
        if left_days < SOON_DAYS:
            return f"the certificate expires on {_day(self.not_after_s)}: {remedy}"
        return None


@dataclass(frozen=True, slots=True)
class IdentitySource:
    """Where a daemon's identity is."""

    directory: Path
    """For one that is made here."""
    host_name: str
    certificate: Path | None = None
    """The operator's own, with `key`; None: one is made."""
    key: Path | None = None

    def load(self, now_s: float) -> Identity:
        """The identity; one that does not exist yet is made.

        Raises:
            ConfigError: a file cannot be read or written, has no certificate or no key, the two
                do not match, or the operator's certificate has expired.
        """
        if self.certificate is not None and self.key is not None:
            return _of_operator(self.certificate, self.key, now_s)
        return _made_here(self.directory, self.host_name, now_s)


def _of_operator(certificate: Path, key: Path, now_s: float) -> Identity:
    identity = _identity(
        (certificate, _required(certificate, "server.tls_certificate")),
        (key, _required(key, "server.tls_key")),
        is_own=False,
    )
    if identity.not_after_s <= now_s:
        raise ConfigError(
            f"the certificate {certificate} (server.tls_certificate) expired on "
            f"{_day(identity.not_after_s)}; today is {_day(now_s)}"
        )
    return identity


def _made_here(directory: Path, host_name: str, now_s: float) -> Identity:
    from edged.node.trust.certificates import new_certificate, new_key  # noqa: PLC0415

    key, certificate = directory / KEY_FILE, directory / CERTIFICATE_FILE
    make_state_directory(directory)
    try:
        with locked(key):
            key_pem = read_private(key, MAX_PEM_BYTES, is_secret=True)
            certificate_pem = read_private(certificate, MAX_PEM_BYTES)
            if key_pem is None and certificate_pem is not None:
                raise ConfigError(
                    f"{certificate} has lost its key, {key}: restore the key, or remove the "
                    "certificate, start again, and pair again"
                )
            if key_pem is None:
                key_pem = new_key()
                replace_private(key, key_pem)
            if certificate_pem is None:
                certificate_pem = new_certificate((key, key_pem), host_name, now_s)
                replace_private(certificate, certificate_pem)
    except OSError as error:
        raise ConfigError(f"cannot keep a key in {directory}: {error.strerror}") from error
    return _identity((certificate, certificate_pem), (key, key_pem), is_own=True)


def _identity(
    certificate: tuple[Path, bytes], key: tuple[Path, bytes], *, is_own: bool
) -> Identity:
    """Raises ConfigError: one of the two cannot be used, or they do not belong together."""
    from edged.node.trust.certificates import describe  # noqa: PLC0415  # see the module's theory

    described = describe(certificate, key)
    return Identity(
        key_pem=key[1],
        certificate_pem=certificate[1],
        fingerprint=described.fingerprint,
        not_before_s=described.not_before_s,
        not_after_s=described.not_after_s,
        is_own=is_own,
    )


def _required(path: Path, setting: str) -> bytes:
    """Raises ConfigError: there is no such file, or everybody can read a key."""
    found = read_with_mode(path, MAX_PEM_BYTES)
    if found is None:
        raise ConfigError(f"there is no file {path} ({setting})")
    content, status = found
    if setting == "server.tls_key" and status.st_mode & 0o004:
        raise ConfigError(f"everybody can read the key {path} ({setting}); run `chmod o-r {path}`")
    return content


def _day(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d")
