"""A daemon's certificate: made once, kept, or the operator's own and checked."""

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from edged.errors import ConfigError
from edged.node.trust.certificates import VALID_DAYS
from edged.node.trust.fingerprint import fingerprint
from edged.node.trust.identity import SOON_DAYS, Identity, IdentitySource

NOW_S = datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC).timestamp()
DAY_S = 86400.0


def source_in(folder: Path, host_name: str = "desk") -> IdentitySource:
    return IdentitySource(folder / "state", host_name)


def certificate_of(identity: Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.certificate_pem)


def names_of(identity: Identity) -> list[str]:
    extensions = certificate_of(identity).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)


def operators(folder: Path, **changes: bytes) -> IdentitySource:
    """Files as an operator would have them; `changes` are other contents."""
    made = IdentitySource(folder / "made", "desk").load(NOW_S)
    contents = {"certificate": made.certificate_pem, "key": made.key_pem} | changes
    for name, content in contents.items():
        (folder / f"{name}.pem").write_bytes(content)
        (folder / f"{name}.pem").chmod(0o640)
    return IdentitySource(folder / "state", "desk", folder / "certificate.pem", folder / "key.pem")


def pem_of(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def failure(source: IdentitySource, now_s: float = NOW_S) -> str:
    with pytest.raises(ConfigError) as caught:
        source.load(now_s)
    return caught.value.detail


def test_an_identity_is_made_once(tmp_path: Path) -> None:
    first = source_in(tmp_path).load(NOW_S)
    assert source_in(tmp_path, "renamed").load(NOW_S + DAY_S) == first
    der = certificate_of(first).public_bytes(serialization.Encoding.DER)
    assert first.fingerprint == fingerprint(der)
    assert first.is_own


def test_its_files_are_the_users_alone(tmp_path: Path) -> None:
    source_in(tmp_path).load(NOW_S)
    for name in ("key.pem", "certificate.pem"):
        assert stat.S_IMODE((tmp_path / "state" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_the_certificate_is_for_a_server_and_vouches_for_no_other(tmp_path: Path) -> None:
    certificate = certificate_of(source_in(tmp_path).load(NOW_S))
    extensions = certificate.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert certificate.subject == certificate.issuer
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)


def test_it_is_valid_from_yesterday_for_twenty_years(tmp_path: Path) -> None:
    identity = source_in(tmp_path).load(NOW_S)
    assert NOW_S - identity.not_before_s == DAY_S
    assert identity.not_after_s - NOW_S == VALID_DAYS * DAY_S
    assert identity.warning(NOW_S) is None


@pytest.mark.parametrize(
    ("host_name", "names"),
    [
        ("desk", ["edged", "desk", "desk.local"]),
        ("desk.example.org", ["edged", "desk.example.org", "desk.local"]),
        ("", ["edged"]),
        ("bad_name", ["edged"]),
        ("schreibtisch-ä", ["edged"]),
        ("x" * 64, ["edged"]),
    ],
)
def test_it_is_for_the_names_that_dns_can_have(
    tmp_path: Path, host_name: str, names: list[str]
) -> None:
    assert names_of(source_in(tmp_path, host_name).load(NOW_S)) == names


def test_a_clock_that_is_years_off_makes_no_difference(tmp_path: Path) -> None:
    made = source_in(tmp_path).load(0.0)
    assert source_in(tmp_path).load(NOW_S) == made
    told = made.warning(NOW_S)
    assert told is not None
    assert "expired on 1989-12-27" in told
    assert "not valid before" in (source_in(tmp_path / "b").load(NOW_S).warning(0.0) or "")


def test_a_lost_certificate_is_made_anew_for_its_key(tmp_path: Path) -> None:
    first = source_in(tmp_path).load(NOW_S)
    (tmp_path / "state" / "certificate.pem").unlink()
    second = source_in(tmp_path).load(NOW_S)
    assert second.key_pem == first.key_pem
    assert second.fingerprint != first.fingerprint


def test_a_lost_key_is_an_error(tmp_path: Path) -> None:
    source_in(tmp_path).load(NOW_S)
    (tmp_path / "state" / "key.pem").unlink()
    assert "has lost its key" in failure(source_in(tmp_path))


@pytest.mark.parametrize("name", ["key.pem", "certificate.pem"])
def test_a_damaged_file_is_told_with_its_name(tmp_path: Path, name: str) -> None:
    source_in(tmp_path).load(NOW_S)
    path = tmp_path / "state" / name
    path.write_bytes(path.read_bytes()[:100])
    assert f"{path} is no PEM file" in failure(source_in(tmp_path))


def test_a_key_does_not_show_in_a_log(tmp_path: Path) -> None:
    identity = source_in(tmp_path).load(NOW_S)
    assert "PRIVATE" not in repr(identity)


# ── The operator's own ───────────────────────────────────────────────────────────────────────────


def test_the_operators_own_is_taken(tmp_path: Path) -> None:
    identity = operators(tmp_path).load(NOW_S)
    assert not identity.is_own
    assert identity.fingerprint == IdentitySource(tmp_path / "made", "").load(NOW_S).fingerprint
    assert not (tmp_path / "state").exists(), "nothing is made beside it"


def test_a_chain_is_its_first_certificate(tmp_path: Path) -> None:
    own = IdentitySource(tmp_path / "made", "desk").load(NOW_S)
    other = IdentitySource(tmp_path / "other", "ca").load(NOW_S)
    chain = operators(tmp_path, certificate=own.certificate_pem + other.certificate_pem)
    identity = chain.load(NOW_S)
    assert identity.fingerprint == own.fingerprint
    assert identity.certificate_pem.count(b"BEGIN CERTIFICATE") == 2


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    other = pem_of(ec.generate_private_key(ec.SECP256R1()))
    assert "is not the key of the certificate" in failure(operators(tmp_path, key=other))


def test_a_key_of_an_unusual_kind_is_refused(tmp_path: Path) -> None:
    unusual = pem_of(ed25519.Ed25519PrivateKey.generate())
    assert "expected RSA or ECDSA" in failure(operators(tmp_path, key=unusual))


def test_an_encrypted_key_is_refused(tmp_path: Path) -> None:
    encrypted = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    assert "without passphrase" in failure(operators(tmp_path, key=encrypted))


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff"])
def test_what_is_no_certificate_is_refused(tmp_path: Path, content: bytes) -> None:
    told = failure(operators(tmp_path, certificate=content))
    assert f"{tmp_path / 'certificate.pem'} is no PEM file" in told


def test_a_missing_file_is_told_with_its_setting(tmp_path: Path) -> None:
    source = operators(tmp_path)
    (tmp_path / "key.pem").unlink()
    assert f"no file {tmp_path / 'key.pem'} (server.tls_key)" in failure(source)


def test_an_own_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    source = IdentitySource(tmp_path, "desk")
    source.load(NOW_S)
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(ConfigError, match=r"everybody can read \S+key\.pem; run `chmod o-r"):
        source.load(NOW_S)


def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    source = operators(tmp_path)
    (tmp_path / "key.pem").chmod(0o644)
    assert "everybody can read the key" in failure(source)


def test_an_expired_certificate_is_refused_and_one_that_soon_will_be_is_warned_of(
    tmp_path: Path,
) -> None:
    source = operators(tmp_path)
    end_s = NOW_S + VALID_DAYS * DAY_S
    assert "expired on 2046-11-23; today is 2046-11-23" in failure(source, end_s)
    identity = source.load(end_s - 1)
    assert "renew the file" in (identity.warning(end_s - 1) or "")
    assert identity.warning(end_s - SOON_DAYS * DAY_S) is None
    assert identity.warning(end_s - SOON_DAYS * DAY_S + 1) is not None
