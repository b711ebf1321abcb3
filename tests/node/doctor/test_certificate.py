"""The certificate that other hosts are shown."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from edged.node.doctor.certificate import check
from tests.node.doctor.machine import NOW_S, ROOT, SOMEBODY, Machine, found, levels

CONFIG = '[server]\nlisten = "0.0.0.0:7411"\nstate_directory = "/state"\n'
OWN = f'{CONFIG}tls_certificate = "/c.pem"\ntls_key = "/k.pem"\n'


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def as_pem(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate(private: ec.EllipticCurvePrivateKey, begins_days: int, ends_days: int) -> bytes:
    """Valid between days from now."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edged")])
    now = datetime.fromtimestamp(NOW_S, UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now + timedelta(days=begins_days))
        .not_valid_after(now + timedelta(days=ends_days))
        .sign(private, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("begins_days", "ends_days", "expected"),
    [
        (-1, 365, {"certificate.valid": "ok"}),
        (-365, 29, {"certificate.soon": "warning"}),
        (-365, -1, {"certificate.expired": "problem"}),
        (1, 365, {"certificate.early": "problem"}),
    ],
)
def test_its_time_is_looked_at(
    machine: Machine, begins_days: int, ends_days: int, expected: dict[str, str]
) -> None:
    private = key()
    machine.write("/state/key.pem", as_pem(private))
    machine.write("/state/certificate.pem", certificate(private, begins_days, ends_days))
    assert levels(check, machine.subject(CONFIG)) == expected


def test_a_key_of_another_certificate_is_a_problem(machine: Machine) -> None:
    machine.write("/c.pem", certificate(key(), -1, 365))
    machine.write("/k.pem", as_pem(key()))
    finding = found(check, machine.subject(OWN))["certificate.key"]
    assert (finding.level, finding.text) == ("problem", "/k.pem is not the key of /c.pem")


@pytest.mark.parametrize("content", [None, b"text"])
def test_without_a_key_it_is_a_problem(machine: Machine, content: bytes | None) -> None:
    machine.write("/c.pem", certificate(key(), -1, 365))
    if content is not None:
        machine.write("/k.pem", content)
    assert levels(check, machine.subject(OWN))["certificate.key"] == "problem"


def test_a_file_that_is_no_certificate_is_a_problem(machine: Machine) -> None:
    machine.write("/c.pem", "text")
    assert levels(check, machine.subject(OWN)) == {"certificate.damaged": "problem"}


def test_the_operator_s_certificate_has_to_be_there(machine: Machine) -> None:
    assert levels(check, machine.subject(OWN)) == {"certificate.missing": "problem"}


def test_the_daemon_s_own_is_made_at_its_first_start(machine: Machine) -> None:
    assert levels(check, machine.subject(CONFIG)) == {"certificate.none": "ok"}


GIVEN = "/run/credentials/edged.service/tls.key"
HANDED_OVER = f'{CONFIG}tls_certificate = "/c.pem"\ntls_key = "{GIVEN}"\n'


def handing_over(machine: Machine, line: str) -> None:
    """A unit that hands a key to the service, which does not run."""
    machine.service({})
    machine.command("systemctl", f'[ "$2" = cat ] && printf "[Service]\\n{line}\\n"')


@pytest.mark.parametrize(
    ("line", "source"),
    [
        ("LoadCredential=tls.key:/etc/ssl/private/live.pem", "/etc/ssl/private/live.pem"),
        ("LoadCredential=tls.key", "/etc/credstore/tls.key"),
        ("LoadCredential=tls.key:other", "/etc/credstore/other"),
    ],
)
def test_a_key_that_is_handed_over_is_looked_at_where_it_is_from(
    machine: Machine, line: str, source: str
) -> None:
    private = key()
    machine.write("/c.pem", certificate(private, -1, 365))
    handing_over(machine, line)
    unseen = found(check, machine.subject(HANDED_OVER))["certificate.unseen"]
    assert unseen.level == "note"
    assert GIVEN in unseen.text
    machine.write(source, as_pem(private))
    assert levels(check, machine.subject(HANDED_OVER)) == {"certificate.valid": "ok"}
    machine.write(source, as_pem(key()))
    assert levels(check, machine.subject(HANDED_OVER))["certificate.key"] == "problem"


@pytest.mark.parametrize(
    "line",
    [
        "LoadCredentialEncrypted=tls.key:/etc/edged/tls.key.cred",
        "LoadCredential=tls.key:/etc/edged/old\\nLoadCredentialEncrypted=tls.key:/etc/edged/new",
        "LoadCredential=tls.key:/etc/edged/old\\nLoadCredential=",
        "SetCredential=tls.key:text",
    ],
)
def test_a_key_that_is_handed_over_unreadably_is_a_note(machine: Machine, line: str) -> None:
    machine.write("/c.pem", certificate(key(), -1, 365))
    handing_over(machine, line)
    for name in ("tls.key.cred", "old", "new"):
        machine.write(f"/etc/edged/{name}", "k6iUCUh0RJCQyvL8k8q1UyAAAAABAAAADAAAABAAAAA")
    findings = found(check, machine.subject(HANDED_OVER, user=ROOT))
    assert {name: one.level for name, one in findings.items()} == {
        "certificate.valid": "ok",
        "certificate.unseen": "note",
    }
    assert "where it is from cannot be seen" in findings["certificate.unseen"].text


def test_a_key_that_the_service_may_not_read_is_a_problem_whoever_asks(machine: Machine) -> None:
    private = key()
    machine.service()
    machine.write("/c.pem", certificate(private, -1, 365))
    machine.write("/k.pem", as_pem(private), mode=0o600)
    for user in (ROOT, SOMEBODY):
        finding = found(check, machine.subject(OWN, user=user))["certificate.closed"]
        assert finding.level == "problem"
        assert "server.tls_key: the service cannot read /k.pem" in finding.text
        assert finding.fix == (
            f'sudo systemctl edit edged: LoadCredential=tls.key:/k.pem; and tls_key = "{GIVEN}"'
        )
    machine.write("/k.pem", as_pem(private), mode=0o640)
    assert levels(check, machine.subject(OWN, user=ROOT)) == {"certificate.valid": "ok"}


def test_a_key_that_was_handed_over_is_looked_at_where_it_is(machine: Machine) -> None:
    private = key()
    machine.write("/c.pem", certificate(private, -1, 365))
    machine.write(GIVEN, as_pem(private))
    machine.service()
    assert levels(check, machine.subject(HANDED_OVER)) == {"certificate.valid": "ok"}


@pytest.mark.parametrize(
    "config", ["[engine]\n", '[server]\nlisten = "0.0.0.0:7411"\ninsecure = true\n']
)
def test_without_tls_there_is_nothing_to_look_at(machine: Machine, config: str) -> None:
    assert levels(check, machine.subject(config)) == {}
