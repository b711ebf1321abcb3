"""What a certificate says of itself: whom it is for, and from when to when."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from edged.node.trust.fingerprint import fingerprint

_USABLE_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
"""A name that a client can ask for; of wildcards those alone that clients follow."""

_UNREADABLE = (
    ValueError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Certificate:
    pem: bytes
    fingerprint: str
    name: str | None
    """A name or address that it is for: what TLS asks for where the certificate is known already.
    None if it is for none at all."""
    begins: datetime
    ends: datetime
    """It is valid between the two."""


def read_der(der: bytes) -> Certificate:
    """Raises ValueError: it is no certificate."""
    return _read(lambda: x509.load_der_x509_certificate(der))


def read_pem(pem: bytes) -> Certificate:
    """The first one of a chain. Raises ValueError: there is none."""
    return _read(lambda: x509.load_pem_x509_certificate(pem))


def _read(parse: Callable[[], x509.Certificate]) -> Certificate:
    try:
        parsed = parse()
        name = _name_in(parsed)
    except _UNREADABLE as error:
        raise ValueError(f"it is no certificate: {error}") from error
    return Certificate(
        pem=parsed.public_bytes(Encoding.PEM),
        fingerprint=fingerprint(parsed.public_bytes(Encoding.DER)),
        name=name,
        begins=parsed.not_valid_before_utc,
        ends=parsed.not_valid_after_utc,
    )


def _name_in(parsed: x509.Certificate) -> str | None:
    try:
        found = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = found.get_values_for_type(x509.DNSName)
        addresses = found.get_values_for_type(x509.IPAddress)
    except x509.ExtensionNotFound:
        names, addresses = [], []
    usable = [name for name in names if _USABLE_NAME.fullmatch(name)]
    if usable:
        return usable[0].replace("*", "host", 1)
    if names or addresses:
        # They forbid the common name.
        return str(addresses[0]) if addresses else None
    common = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common[0].value).replace("*", "host", 1) or None if common else None
