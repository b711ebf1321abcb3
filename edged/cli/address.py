"""Decides which daemon a command talks to."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from edged.cli.exits import CommandError, ExitCode
from edged.places import DEFAULT_LISTEN, client_sockets, is_host_port

HOST_VARIABLE = "EDGED_HOST"
UNIX_PREFIX = "unix:"
_PROBE_TIMEOUT_S = 0.2


def choose_address(given: str | None, environ: Mapping[str, str]) -> str:
    """`given`, else $EDGED_HOST, else a usual socket that something listens on, else the usual
    TCP address. Answers HOST:PORT or unix:/PATH.

    Raises:
        CommandError: what was given is neither.
    """
    for source, text in (("--host", given), (HOST_VARIABLE, environ.get(HOST_VARIABLE))):
        if text:
            return _checked(source, text)
    for path in client_sockets(environ):
        if _is_listening(path):
            return f"{UNIX_PREFIX}{path}"
    return DEFAULT_LISTEN


def _checked(source: str, text: str) -> str:
    if text.startswith(UNIX_PREFIX) and len(text) > len(UNIX_PREFIX):
        # gRPC resolves a relative path against its own idea of the working directory.
        return f"{UNIX_PREFIX}{os.path.abspath(text.removeprefix(UNIX_PREFIX))}"
    if is_host_port(text):
        return text
    raise CommandError(
        f"{source}: {text!r} is no address: expected HOST:PORT, [IPv6]:PORT or unix:PATH",
        ExitCode.USAGE,
    )


def _is_listening(path: Path) -> bool:
    """A daemon that was killed leaves its socket behind, so to exist is not enough."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
