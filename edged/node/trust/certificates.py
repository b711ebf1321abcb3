"""Reads and makes keys and certificates, as PEM: all that knows of X.509 on the daemon's side."""

import datetime
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edged.errors import ConfigError
from edged.node.trust.fingerprint import fingerprint

COMMON_NAME = "edged"
VALID_DAYS = 20 * 365
EARLIER_DAYS = 1
"""How long before its making a certificate is valid: the clock of a client may be behind."""

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""What every client's TLS knows."""
_HOST_NAME = re.compile(r"(?=.{1,240}\Z)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")


@dataclass(frozen=True, slots=True)
class Described:
    """What a certificate says of itself."""

    fingerprint: str
    not_before_s: float
    not_after_s: float
    """Seconds since 1970."""


def describe(certificate: tuple[Path, bytes], key: tuple[Path, bytes]) -> Described:
    """Of the first certificate of a chain; both are files and their PEM.

    Raises:
        ConfigError: one of the two cannot be used, or they do not belong together.
    """
    try:
        first, *_ = x509.load_pem_x509_certificates(certificate[1])
        public = first.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{certificate[0]} is no PEM file of a certificate: {error}") from error
    if _encoded(public) != _encoded(_key(*key).public_key()):
        raise ConfigError(f"{key[0]} is not the key of the certificate {certificate[0]}")
    return Described(
        fingerprint(first.public_bytes(serialization.Encoding.DER)),
        first.not_valid_before_utc.timestamp(),
        first.not_valid_after_utc.timestamp(),
    )


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


def new_key() -> bytes:
    """A private key, PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def new_certificate(key: tuple[Path, bytes], host_name: str, now_s: float) -> bytes:
    """For itself alone: it vouches for no other. `key` is a file and its PEM.

    Raises:
        ConfigError: the key cannot be used.
    """
    private = _key(*key)
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
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(made - datetime.timedelta(days=EARLIER_DAYS))
        .not_valid_after(made + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _names(host_name: str) -> list[str]:
    """Under which it may be reached; a host name that DNS cannot have is left out."""
    if not _HOST_NAME.fullmatch(host_name):
        return [COMMON_NAME]
    short = host_name.partition(".")[0]
    return list(dict.fromkeys((COMMON_NAME, host_name, f"{short}.local")))
