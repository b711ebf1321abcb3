"""What a daemon tells the local network about itself, and what may be believed of what others tell.

DNS-SD (RFC 6763) over multicast DNS (RFC 6762): an instance of the type `_edged._tcp` has a name
for people, a host, a port, and a TXT record with the keys below. Anybody on the network can send
one, so whatever is read here is a claim: checked for form, made harmless to show, and proven only
by TLS.

| key | value |
|---|---|
| `txtvers` | 1, the version of this table |
| `ver` | version of edged |
| `api` | edged.v1 |
| `auth` | token, or none |
| `tls` | 1 or 0 |
| `fp` | the certificate's fingerprint without "SHA256:"; with TLS only |
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from edged.node.trust.fingerprint import PREFIX

SERVICE_TYPE = "_edged._tcp.local."
API = "edged.v1"
TXT_VERSION = "1"

MAX_KEY_BYTES = 9
MAX_STRING_BYTES = 255
MAX_TEXT_BYTES = 399
MAX_INSTANCE_BYTES = 63
"""A label of DNS."""

_KEY = re.compile(rb"[\x20-\x3c\x3e-\x7e]+")
_WORD = re.compile(r"[A-Za-z0-9._+-]{1,32}")
_FINGERPRINT_CHARACTERS = 43
_UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"


class Auth(StrEnum):
    TOKEN = "token"  # noqa: S105  # a word of the protocol
    NONE = "none"


class TextError(ValueError):
    """What was told breaks the rules above; the text says which."""


@dataclass(frozen=True, slots=True)
class ServiceText:
    """The TXT record as a value."""

    version: str
    auth: Auth
    fingerprint: str
    """As `edged.node.trust.fingerprint` writes it; "" without TLS."""

    @property
    def has_tls(self) -> bool:
        return bool(self.fingerprint)

    def encode(self) -> bytes:
        pairs = {
            "txtvers": TXT_VERSION,
            "ver": self.version,
            "api": API,
            "auth": self.auth.value,
            "tls": "1" if self.has_tls else "0",
        }
        if self.has_tls:
            pairs["fp"] = self.fingerprint.removeprefix(PREFIX)
        raw = b"".join(_string(f"{key}={value}") for key, value in pairs.items())
        assert len(raw) <= MAX_TEXT_BYTES, f"{len(raw)} bytes of TXT"
        return raw


def decode_text(raw: bytes) -> ServiceText:
    """Keys that are not in the table are ignored.

    Raises:
        TextError: a rule is broken; says which.
    """
    pairs = _pairs(raw)
    if pairs.get("txtvers") != TXT_VERSION:
        raise TextError(f"txtvers is {pairs.get('txtvers')!r}, expected {TXT_VERSION!r}")
    if pairs.get("api") != API:
        raise TextError(f"api is {pairs.get('api')!r}, expected {API!r}")
    version = pairs.get("ver", "")
    if not _WORD.fullmatch(version):
        raise TextError(f"ver is {version!r}, expected 1 to 32 characters of a version")
    auth, tls = pairs.get("auth", ""), pairs.get("tls", "")
    if auth not in set(Auth):
        raise TextError(f"auth is {auth!r}, expected token or none")
    if tls not in ("0", "1"):
        raise TextError(f"tls is {tls!r}, expected 0 or 1")
    return ServiceText(version, Auth(auth), _fingerprint(pairs.get("fp"), has_tls=tls == "1"))


def instance_of(name: str) -> str | None:
    """The instance's part of a full name, as it was sent; None if it is of another type."""
    suffix = f".{SERVICE_TYPE}"
    if not name.lower().endswith(suffix):
        return None
    instance = name[: -len(suffix)]
    return instance if 1 <= len(instance.encode()) <= MAX_INSTANCE_BYTES else None


def shown(text: str) -> str:
    """Text of a stranger without what could move a cursor, reverse a line or hide."""
    return "".join(character if character.isprintable() else _UNPRINTABLE for character in text)


def instance_name(text: str, suffix: str = "") -> str:
    """A name for an instance: `text`, cut so that with `suffix` it is one label.

    A dot would be taken for the end of the label by some of those who read it.
    """
    room = MAX_INSTANCE_BYTES - len(suffix.encode())
    kept = shown(text.replace(".", "-")).encode()[:room].decode(errors="ignore").strip()
    return (kept or "edged") + suffix


def _string(text: str) -> bytes:
    raw = text.encode()
    assert len(raw) <= MAX_STRING_BYTES, f"{len(raw)} bytes in one string of TXT"
    return bytes((len(raw),)) + raw


def _pairs(raw: bytes) -> Mapping[str, str]:
    if len(raw) > MAX_TEXT_BYTES:
        raise TextError(f"TXT has {len(raw)} bytes, expected at most {MAX_TEXT_BYTES}")
    pairs: dict[str, str] = {}
    at = 0
    while at < len(raw):
        end = at + 1 + raw[at]
        if end > len(raw):
            raise TextError("a string of TXT is longer than TXT")
        key, _, value = raw[at + 1 : end].partition(b"=")
        at = end
        if not key:
            continue  # RFC 6763, 6.4: silently ignored.
        if len(key) > MAX_KEY_BYTES or not _KEY.fullmatch(key):
            raise TextError(f"a key of TXT is {key[:64]!r}, expected at most {MAX_KEY_BYTES} bytes")
        try:
            # The first of a key is the one that counts.
            pairs.setdefault(key.decode().lower(), value.decode())
        except UnicodeDecodeError:
            raise TextError(f"the value of {key.decode()} is not UTF-8") from None
    return pairs


def _fingerprint(text: str | None, *, has_tls: bool) -> str:
    if not has_tls:
        if text is not None:
            raise TextError("fp without tls")
        return ""
    try:
        digest = base64.b64decode(f"{text or ''}=", validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    # Only one text may stand for a digest: what is compared by eye or by `==` must not have two.
    canonical = base64.b64encode(digest).decode().rstrip("=")
    if text != canonical or len(canonical) != _FINGERPRINT_CHARACTERS:
        raise TextError(
            f"fp is {(text or '')[:64]!r}, expected {_FINGERPRINT_CHARACTERS} of base64"
        )
    return PREFIX + canonical
