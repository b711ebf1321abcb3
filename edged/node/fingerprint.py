"""How a certificate is named so that two people can compare it."""

import base64
import hashlib

PREFIX = "SHA256:"


def fingerprint(certificate_der: bytes) -> str:
    """Its name: "SHA256:" and 43 characters of unpadded base64, as OpenSSH writes it."""
    digest = hashlib.sha256(certificate_der).digest()
    return PREFIX + base64.b64encode(digest).decode().rstrip("=")
