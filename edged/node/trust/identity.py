"""Owns who a daemon is to others: its key and certificate, made here or the operator's own.

Others pin the certificate itself, so that it is made once and for long: under which name or address
the daemon is reached may change, and a host's clock may be off by years when it starts.
"""

import datetime
import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edged.errors import ConfigError
from edged.node.trust.fingerprint import fingerprint
from edged.node.trust.private_files import (
    locked,
    make_state_directory,
    read_private,
    read_with_mode,
    replace_private,
)

KEY_FILE = "key.pem"
CERTIFICATE_FILE = "certificate.pem"
COMMON_NAME = "edged"
VALID_DAYS = 20 * 365
EARLIER_DAYS = 1
"""How long before its making a certificate is valid: the clock of a client may be behind."""
SOON_DAYS = 30
MAX_PEM_BYTES = 1024 * 1024

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""What every client's TLS knows."""
_HOST_NAME = re.compile(r"(?=.{1,240}\Z)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")


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
            else "renew the file that server.tls_certificate names, and reload"
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
                key_pem = _new_key()
                replace_private(key, key_pem)
            if certificate_pem is None:
                certificate_pem = _new_certificate(_key(key, key_pem), host_name, now_s)
                replace_private(certificate, certificate_pem)
    except OSError as error:
        raise ConfigError(f"cannot keep a key in {directory}: {error.strerror}") from error
    return _identity((certificate, certificate_pem), (key, key_pem), is_own=True)


def _identity(
    certificate: tuple[Path, bytes], key: tuple[Path, bytes], *, is_own: bool
) -> Identity:
    """Raises ConfigError: one of the two cannot be used, or they do not belong together."""
    try:
        first, *_ = x509.load_pem_x509_certificates(certificate[1])
        public = first.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{certificate[0]} is no PEM file of a certificate: {error}") from error
    if _encoded(public) != _encoded(_key(*key).public_key()):
        raise ConfigError(f"{key[0]} is not the key of the certificate {certificate[0]}")
    return Identity(
        key_pem=key[1],
        certificate_pem=certificate[1],
        fingerprint=fingerprint(first.public_bytes(serialization.Encoding.DER)),
        not_before_s=first.not_valid_before_utc.timestamp(),
        not_after_s=first.not_valid_after_utc.timestamp(),
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


def _key(path: Path, pem: bytes) -> _Key:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise ConfigError(
            f"the key {path} is encrypted; expected one without passphrase"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is no PEM file of a private key: {error}") from error
    if not isinstance(key, _Key):
        raise ConfigError(f"the key {path} is a {type(key).__name__}; expected RSA or ECDSA")
    return key


def _encoded(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _new_certificate(key: _Key, host_name: str, now_s: float) -> bytes:
    """For itself alone: it vouches for no other."""
    made = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    names = [x509.DNSName(one) for one in _names(host_name)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(made - datetime.timedelta(days=EARLIER_DAYS))
        .not_valid_after(made + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _names(host_name: str) -> list[str]:
    """Under which it may be reached; a host name that DNS cannot have is left out."""
    if not _HOST_NAME.fullmatch(host_name):
        return [COMMON_NAME]
    short = host_name.partition(".")[0]
    return list(dict.fromkeys((COMMON_NAME, host_name, f"{short}.local")))


def _day(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d")
