"""The authorities that vouch for an operator's own certificate, as EDGED_CA names them.

Theory of operation: gRPC brings authorities of its own and knows nothing of those that were added
to the system's. So these are read here, where OpenSSL would look, and are the only ones, both to
connect and to tell why that failed.
"""

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from edged.errors import ConfigError

CA_VARIABLE = "EDGED_CA"
"""A PEM file of them; "system" for those of the system."""
SYSTEM_AUTHORITIES = "system"
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")
"""A name that OpenSSL looks for in a directory: links that c_rehash makes."""


def read_authorities(named: str, environ: Mapping[str, str]) -> bytes:
    """In PEM, those that $EDGED_CA names.

    Raises:
        ConfigError: they cannot be read, or the system has none.
    """
    if named == SYSTEM_AUTHORITIES:
        return _of_system(environ)
    try:
        return Path(os.path.expanduser(named)).read_bytes()
    except OSError as error:
        raise ConfigError(f"{CA_VARIABLE} = {named!r}: cannot read it: {error.strerror}") from error


def _of_system(environ: Mapping[str, str]) -> bytes:
    """Each once: the directory mostly has what the file has."""
    usual = ssl.get_default_verify_paths()
    file = environ.get(usual.openssl_cafile_env, usual.openssl_cafile)
    folders = environ.get(usual.openssl_capath_env, usual.openssl_capath)
    found: dict[bytes, None] = {}
    for path in (Path(file), *_hashed_in(folders)):
        with suppress(OSError):  # either of the two may not be there
            found |= dict.fromkeys(_CERTIFICATE.findall(path.read_bytes()))
    if not found:
        raise ConfigError(
            f"{CA_VARIABLE} = {SYSTEM_AUTHORITIES!r}: there is no certificate in {file}, nor in "
            f"{folders}; expected PEM there, or where ${usual.openssl_cafile_env} or "
            f"${usual.openssl_capath_env} says, or the path of a PEM file in {CA_VARIABLE}"
        )
    return b"\n".join((*found, b""))


def _hashed_in(folders: str) -> Iterator[Path]:
    for folder in filter(None, folders.split(os.pathsep)):
        with suppress(OSError):
            paths = sorted(Path(folder).iterdir())
            yield from (path for path in paths if _HASHED.fullmatch(path.name))
