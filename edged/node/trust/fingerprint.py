"""How a certificate is named so that two people can compare it."""

import base64
import binascii
import hashlib
import re

PREFIX = "SHA256:"
_HEXADECIMAL = re.compile(r"[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31}")


def fingerprint(certificate_der: bytes) -> str:
    """Its name: "SHA256:" and 43 characters of unpadded base64, as OpenSSH writes it."""
    return _written(hashlib.sha256(certificate_der).digest())


def parse_fingerprint(text: str) -> str:
    """A fingerprint as `fingerprint` writes it, of one as people paste it: "SHA256:" and base64,
    padded or not, or 64 hexadecimal digits with or without colons, as OpenSSL writes it.

    Raises:
        ValueError: it is none of them.
    """
    bare = text.strip()
    for prefix in (PREFIX, "sha256 Fingerprint=", "SHA256 Fingerprint="):
        bare = bare.removeprefix(prefix)
    if _HEXADECIMAL.fullmatch(bare):
        return _written(bytes.fromhex(bare.replace(":", "")))
    try:
        digest = base64.b64decode(bare.rstrip("=") + "=", validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError(
            f"{text!r} is no fingerprint: expected {PREFIX} and 43 characters of base64, "
            "or 64 hexadecimal digits"
        )
    return _written(digest)


def digest_of(written: str) -> bytes:
    """The 32 bytes that a fingerprint stands for. Raises ValueError as `parse_fingerprint`."""
    return base64.b64decode(parse_fingerprint(written).removeprefix(PREFIX) + "=")


def hexadecimal(written: str) -> str:
    """The same as OpenSSL writes it: 32 pairs of digits with colons between."""
    return digest_of(written).hex(":").upper()


def _written(digest: bytes) -> str:
    return PREFIX + base64.b64encode(digest).decode().rstrip("=")
