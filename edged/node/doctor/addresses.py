"""Can the daemon listen on each address of `server.listen`, or who has it?

An address is tried as the daemon tries it: it is bound, and let go at once.
"""

import errno
import socket
from collections.abc import Iterator

import psutil

from edged.config.values import listen_addresses
from edged.node.doctor.finding import Finding, note, ok, problem, warning
from edged.node.doctor.host import Host
from edged.node.doctor.subject import Refused, Running, Subject
from edged.node.doctor.unit import EDIT, Unit

_CAPABILITY = "CAP_NET_BIND_SERVICE"
_ANY = frozenset({"0.0.0.0", "::"})  # noqa: S104  # compared with, not bound


def check(subject: Subject) -> Iterator[Finding]:
    if subject.settings is None:
        return
    if not subject.listens:
        yield ok("listen.off", "server.listen is off")
    for listen in listen_addresses(subject.settings.server.listen):
        yield from _check(subject, listen)
    if subject.network_listens and subject.settings.server.insecure:
        yield warning(
            "listen.insecure",
            f"server.insecure: whoever reaches {', '.join(subject.network_listens)} may use the "
            "models, and whoever is on the way can read and change all that is said",
            "remove server.insecure, and make tokens with `edgectl token create NAME`",
        )


def _check(subject: Subject, listen: str) -> Iterator[Finding]:
    host, _, port_text = listen.rpartition(":")
    port = int(port_text)
    if port == 0:
        yield note(
            "listen.free",
            f"{listen} takes another port at each start, which clients have to look for",
            "name a port in server.listen",
        )
        return
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        yield problem(
            "listen.name",
            f"{listen}: {host} has no address: {why}",
            "name an address of this host in server.listen",
        )
        return
    if subject.unit and not _may_bind(subject.host, subject.unit, port):
        yield _privileged(subject, listen, port)  # though root, who may ask, could
        return
    elsewhere: list[str] = []
    num_usable = 0
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            _try_bind(family, address)
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                elsewhere.append(str(address[0]))
                continue
            num_usable += 1
            yield from _unusable(subject, listen, str(address[0]), port, error)
        else:
            num_usable += 1
            yield ok("listen.free", f"{listen} is free")
    if not num_usable:
        own = ", ".join(_own_addresses(subject.host))
        yield problem(
            "listen.elsewhere",
            f"{listen}: {' and '.join(elsewhere)} is no address of this host",
            f"name one of its own in server.listen ({own}), or 0.0.0.0 for all of them",
        )


def _try_bind(family: int, address: tuple[object, ...]) -> None:
    """Raises OSError: the host's own reason."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _unusable(
    subject: Subject, listen: str, address: str, port: int, error: OSError
) -> Iterator[Finding]:
    match error.errno:
        case errno.EADDRINUSE:
            yield from _taken(subject, listen, address, port)
        case errno.EACCES if subject.is_service:
            yield note("listen.unseen", f"{listen} cannot be tried", "sudo edgectl doctor")
        case errno.EACCES:
            yield _privileged(subject, listen, port)
        case _:
            yield problem("listen.failed", f"{listen}: {error.strerror}", "name another address")


def _taken(subject: Subject, listen: str, address: str, port: int) -> Iterator[Finding]:
    shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    daemon = subject.local_daemon
    if daemon is not None and {shown, listen} & set(daemon.listeners):
        yield ok("listen.served", f"{listen}: the daemon that answers listens there")
        return
    asked = f"127.0.0.1:{port}" if address == "0.0.0.0" else shown  # noqa: S104  # compared with
    asked = f"[::1]:{port}" if address == "::" else asked
    if isinstance(answer := subject.ask_at(asked), Running | Refused):
        version = f" {answer.version}" if isinstance(answer, Running) else ""
        yield ok("listen.served", f"{listen}: an edged{version} listens there already")
        return
    pid, unit = _holder(address, port), subject.unit
    if unit is not None and unit.runs and pid in (None, unit.main_pid):
        # With TLS, and nothing else, it does not answer who is not known to it.
        yield ok("listen.served", f"{listen}: the service runs, and listens there")
        return
    who, stop = _named(pid, port)
    yield problem(
        "listen.taken",
        f"{listen} is taken by {who}",
        f"{stop}, or name another address in server.listen",
    )


def _holder(address: str, port: int) -> int | None:
    """Which process listens there; None if this user may not see it."""
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return None
    for one in connections:
        if one.status != psutil.CONN_LISTEN or not one.laddr or one.laddr.port != port:
            continue
        if address in _ANY or one.laddr.ip in (address, *_ANY):
            return one.pid
    return None


def _named(pid: int | None, port: int) -> tuple[str, str]:
    """Who it is, and how to stop it."""
    if pid is None:
        who = "a process that this user may not see"
        return who, f"`sudo ss -ltnp 'sport = :{port}'` names it: stop it"
    try:
        who = f"{psutil.Process(pid).name()} (process {pid})"
    except psutil.Error:
        who = f"process {pid}"
    return who, f"stop process {pid}"


def _least_port(host: Host) -> int:
    """That everybody may listen on."""
    return int(host.read("/proc/sys/net/ipv4/ip_unprivileged_port_start") or "1024")


def _may_bind(host: Host, unit: Unit, port: int) -> bool:
    return unit.may_have(_CAPABILITY) or port >= _least_port(host)


def _privileged(subject: Subject, listen: str, port: int) -> Finding:
    least = _least_port(subject.host)
    text = f"{listen}: user {subject.user.name} may not listen on port {port}"
    if port >= least:
        return problem("listen.privileged", text, "look for a security module that forbids it")
    other = (
        f"{EDIT}: AmbientCapabilities={_CAPABILITY} and CapabilityBoundingSet={_CAPABILITY}"
        if subject.is_service
        else f"let every user listen there: sudo sysctl net.ipv4.ip_unprivileged_port_start={port}"
    )
    return problem(
        "listen.privileged",
        f"{text}, which is below {least}",
        f"name a port from {least} on in server.listen; or {other}",
    )


def _own_addresses(host: Host) -> list[str]:
    up = [one for one in host.interfaces if one.is_up]
    return [address for one in up for address in one.ipv4] or ["127.0.0.1"]
