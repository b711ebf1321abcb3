"""Is the certificate that the daemon shows to other hosts valid, for long, and that of its key?"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edged.node.doctor.credentials import credential_source
from edged.node.doctor.finding import Finding, note, ok, problem, warning
from edged.node.doctor.sandbox import not_readable
from edged.node.doctor.subject import Subject
from edged.node.doctor.unit import CREDENTIALS, EDIT
from edged.node.trust.identity import CERTIFICATE_FILE, KEY_FILE

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_DAY_S = 86400.0
SOON_S = 30 * _DAY_S


def check(subject: Subject) -> Iterator[Finding]:
    state = subject.state_directory
    if subject.settings is None or state is None or not subject.network_listens:
        return
    if subject.settings.server.insecure:
        return
    if obstacles := list(_not_readable(subject)):
        yield from obstacles
        return
    own = subject.settings.server.tls_certificate
    path = _place(subject, own) if own else state / CERTIFICATE_FILE
    key = _place(subject, subject.settings.server.tls_key) if own else state / KEY_FILE
    try:
        certificate_pem = subject.host.path(path).read_bytes()
    except FileNotFoundError:
        if path.is_relative_to(CREDENTIALS):
            yield _given_later(path)
        elif own:
            yield problem(
                "certificate.missing",
                f"server.tls_certificate: there is no file {path}",
                "put it there, or remove server.tls_certificate and server.tls_key: then the "
                "daemon makes its own",
            )
        else:
            yield ok("certificate.none", "the daemon makes its certificate at its first start")
        return
    except OSError as error:
        yield note(
            "certificate.unseen", f"{path} cannot be read: {error.strerror}", "sudo edgectl doctor"
        )
        return
    yield from _certificate(subject, path, key, certificate_pem, is_own=bool(own))


def _not_readable(subject: Subject) -> Iterator[Finding]:
    """By the service, of what the operator configured."""
    assert subject.settings is not None, "it was looked at"
    unit, server = subject.unit, subject.settings.server
    for setting in ("tls_certificate", "tls_key"):
        path = Path(getattr(server, setting) or CREDENTIALS)
        if unit is None or path.is_relative_to(CREDENTIALS):
            continue
        if obstacle := not_readable(subject.host, unit, subject.user, path):
            name = setting.replace("_", ".")
            yield problem(
                "certificate.closed",
                f"server.{setting}: the service cannot read {path}: {obstacle.why}",
                f'{EDIT}: LoadCredential={name}:{path}; and {setting} = "{CREDENTIALS / name}"',
            )


def _place(subject: Subject, given: str) -> Path:
    """Where it is on this host; what systemd hands to the service, where that is from while the
    service does not run."""
    path = Path(given)
    if not path.is_relative_to(CREDENTIALS) or subject.host.exists(path):
        return subject.outside(path)
    return credential_source(subject.host, path.name) or path


def _given_later(path: Path) -> Finding:
    return note(
        "certificate.unseen",
        f"{path} is there while the service runs, and where it is from cannot be seen",
        "sudo edgectl doctor, while it runs",
    )


def _certificate(
    subject: Subject, path: Path, key: Path, certificate_pem: bytes, *, is_own: bool
) -> Iterator[Finding]:
    # Takes a while to import, and few hosts have one.
    from cryptography import x509  # noqa: PLC0415

    new = (
        "get a new one, and have the daemon read it (systemctl reload edged, or a restart)"
        if is_own
        else f"remove {path} and {key}, restart the daemon, and pair its clients anew"
    )
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError:
        yield problem("certificate.damaged", f"{path} is no certificate in PEM form", new)
        return
    yield _validity(subject.host.now_s, path, certificate, new)
    yield from _key(subject, path, key, certificate, new)


def _validity(now_s: float, path: Path, certificate: "Certificate", new: str) -> Finding:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now_s < begins.timestamp():
        return problem(
            "certificate.early",
            f"{path} is valid from {_shown(begins)} on, and the clock says "
            f"{_shown(datetime.fromtimestamp(now_s, UTC))}",
            "set the clock: sudo timedatectl set-ntp true",
        )
    if now_s >= ends.timestamp():
        return problem("certificate.expired", f"{path} expired on {_shown(ends)}", new)
    if now_s >= ends.timestamp() - SOON_S:
        return warning("certificate.soon", f"{path} expires on {_shown(ends)}", new)
    return ok("certificate.valid", f"{path} is valid to {_shown(ends)}")


def _key(
    subject: Subject, path: Path, key: Path, certificate: "Certificate", new: str
) -> Iterator[Finding]:
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415  # as above
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    try:
        private = load_pem_private_key(subject.host.path(key).read_bytes(), password=None)
    except FileNotFoundError:
        if key.is_relative_to(CREDENTIALS):
            yield _given_later(key)
            return
        yield problem("certificate.key", f"{path} is there, and its key {key} is not", new)
        return
    except OSError as error:
        yield note(
            "certificate.unseen", f"{key} cannot be read: {error.strerror}", "sudo edgectl doctor"
        )
        return
    except (ValueError, TypeError):
        yield problem(
            "certificate.key", f"{key} is no private key in PEM form without password", new
        )
        return
    shown = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*shown) != certificate.public_key().public_bytes(*shown):
        yield problem("certificate.key", f"{key} is not the key of {path}", new)


def _shown(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
