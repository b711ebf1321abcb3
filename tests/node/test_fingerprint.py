"""Fingerprints as they are written, and as people paste them."""

import base64
import hashlib

import pytest

from edged.node.trust.fingerprint import digest_of, fingerprint, hexadecimal, parse_fingerprint

DER = b"a certificate"
DIGEST = hashlib.sha256(DER).digest()
BASE64 = base64.b64encode(DIGEST).decode()


def test_it_is_written_as_openssh_does() -> None:
    assert fingerprint(DER) == f"SHA256:{BASE64.rstrip('=')}"
    assert len(fingerprint(DER)) == len("SHA256:") + 43


@pytest.mark.parametrize(
    "pasted",
    [
        fingerprint(DER),
        f"  {fingerprint(DER)}\n",
        f"SHA256:{BASE64}",
        BASE64.rstrip("="),
        DIGEST.hex(),
        DIGEST.hex().upper(),
        DIGEST.hex(":"),
        f"sha256 Fingerprint={DIGEST.hex(':').upper()}",
    ],
)
def test_it_is_read_however_it_is_pasted(pasted: str) -> None:
    assert parse_fingerprint(pasted) == fingerprint(DER)
    assert digest_of(pasted) == DIGEST


def test_as_openssl_writes_it_it_means_the_same() -> None:
    assert hexadecimal(fingerprint(DER)) == DIGEST.hex(":").upper()


@pytest.mark.parametrize(
    "text",
    ["", "SHA256:", "SHA256:abc", BASE64[:-3], BASE64 + "A", DIGEST.hex()[:-2], "MD5:00", "é" * 43],
)
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no fingerprint: expected SHA256:"):
        parse_fingerprint(text)
