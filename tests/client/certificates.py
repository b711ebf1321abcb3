"""Certificates of every kind that an operator may have: self-signed, issued, expired, for names."""

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edged.node.trust.fingerprint import fingerprint

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certified:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()
    """Those of its issuers that a server sends too."""

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def chain_pem(self) -> bytes:
        """As a server is given it."""
        return b"".join(
            one.public_bytes(serialization.Encoding.PEM) for one in (self.certificate, *self.chain)
        )

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate.public_bytes(serialization.Encoding.DER))

    def context(self, folder: Path) -> ssl.SSLContext:
        """Of a server that shows it; its files are left in `folder`."""
        (folder / "chain.pem").write_bytes(self.chain_pem)
        (folder / "key.pem").write_bytes(self.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
        return context


def certified(
    *names: str,
    common_name: str = "edged",
    issuer: Certified | None = None,
    is_authority: bool = False,
    key: ec.EllipticCurvePrivateKey | None = None,
    days: tuple[int, int] = (-1, 10),
) -> Certified:
    """For DNS names and addresses; self-signed unless it has an issuer; valid from and to so many
    days from now."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = _name(common_name)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * _DAY)
        .not_valid_after(now + days[1] * _DAY)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(_general_names(names)), critical=False
        )
    certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
    is_intermediate = issuer is not None and issuer.certificate.issuer != issuer.certificate.subject
    chain = (issuer.certificate, *issuer.chain) if issuer and is_intermediate else ()
    return Certified(certificate, key, chain)


def authority(common_name: str = "An Authority", issuer: Certified | None = None) -> Certified:
    return certified(common_name=common_name, is_authority=True, issuer=issuer)


def _name(common_name: str) -> x509.Name:
    if not common_name:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            is_mail = "@" in name
            found.append(x509.RFC822Name(name) if is_mail else x509.DNSName(name))
    return found
