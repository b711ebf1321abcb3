"""May others read or change what must be the daemon's, or this user's, alone?"""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edged.node.doctor.finding import Finding, note, ok, problem
from edged.node.doctor.host import shown_mode, user_name
from edged.node.doctor.subject import Subject
from edged.node.trust.identity import CERTIFICATE_FILE, KEY_FILE
from edged.node.trust.tokens import TOKENS_FILE
from edged.places import peers_file

_NOBODY_ELSE, _GROUP_MAY_READ, _OTHERS_MAY_READ = 0o077, 0o037, 0o022


@dataclass(frozen=True, slots=True)
class _Wanted:
    path: Path
    what: str
    forbidden: int
    """Bits of the mode."""
    mode: str
    """That is right."""
    of_daemon: bool
    """Else of the user who asks."""


def check(subject: Subject) -> Iterator[Finding]:
    found = [finding for wanted in _wanted(subject) for finding in _check(subject, wanted)]
    yield from found
    if not found:
        yield ok("permissions.files", "keys, tokens and their directory are closed to others")


def _wanted(subject: Subject) -> Iterator[_Wanted]:
    state = subject.state_directory
    if state is not None:
        yield _Wanted(state, "the state directory", _OTHERS_MAY_READ, "0700", of_daemon=True)
        tokens, key, certificate = (state / n for n in (TOKENS_FILE, KEY_FILE, CERTIFICATE_FILE))
        yield _Wanted(tokens, "the file of tokens", _NOBODY_ELSE, "0600", of_daemon=True)
        yield _Wanted(key, "the daemon's private key", _NOBODY_ELSE, "0600", of_daemon=True)
        yield _Wanted(
            certificate, "the daemon's certificate", _OTHERS_MAY_READ, "0644", of_daemon=True
        )
    if subject.settings is not None and subject.settings.server.tls_key:
        own_key = Path(subject.settings.server.tls_key)
        # Of a group that services with certificates are in, as ssl-cert.
        yield _Wanted(own_key, "server.tls_key", _GROUP_MAY_READ, "0640", of_daemon=True)
    peers = peers_file(subject.host.environ)
    yield _Wanted(
        peers,
        "the file of paired daemons, with tokens in it",
        _NOBODY_ELSE,
        "0600",
        of_daemon=False,
    )


def _check(subject: Subject, wanted: _Wanted) -> Iterator[Finding]:
    host = subject.host
    try:
        found = host.path(wanted.path).stat()
    except PermissionError:
        yield note(
            "permissions.unseen",
            f"{wanted.what}, {wanted.path}, cannot be seen by {host.user.name}",
            "sudo edgectl doctor",
        )
        return
    except OSError:
        return  # not made yet, or told elsewhere
    bits = stat.S_IMODE(found.st_mode) & wanted.forbidden
    if bits:
        verb = "change" if bits & _OTHERS_MAY_READ else "read"
        yield problem(
            "permissions.mode",
            f"others may {verb} {wanted.what}, {wanted.path} (mode {shown_mode(found.st_mode)})",
            f"chmod {wanted.mode} {wanted.path}",
        )
    may_be_others = wanted.of_daemon and subject.is_service
    if found.st_uid not in (0, host.user.uid) and not may_be_others and not host.user.is_root:
        yield problem(
            "permissions.owner",
            f"{wanted.what}, {wanted.path}, belongs to {user_name(found.st_uid)}",
            f"sudo chown {host.user.name} {wanted.path}",
        )
    elif not host.may("read", host.path(wanted.path)) and not may_be_others:
        yield problem(
            "permissions.read",
            f"user {host.user.name} may not read {wanted.what}, {wanted.path}",
            f"sudo chown {host.user.name} {wanted.path}",
        )
