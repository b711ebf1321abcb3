"""Can other hosts find and reach the daemon: settings, interfaces, and whether multicast passes?

Theory of operation: a question of multicast DNS is sent out of each interface and listened for on
another socket of this host. What the host's own firewall or routes stop does not come back. What a
switch or an access point stops cannot be seen from one host.
"""

import errno
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from edged.errors import ConfigError
from edged.node.doctor.finding import Finding, note, ok, problem, warning
from edged.node.doctor.firewall import open_command
from edged.node.doctor.host import Host, Interface
from edged.node.doctor.subject import TOKENS_CREDENTIAL, Subject
from edged.node.trust.tokens import TOKENS_FILE, TokenStore

MDNS_GROUP, MDNS_PORT = "224.0.0.251", 5353
HEAR_LIMIT_S = 0.7
_MAX_PACKET_BYTES = 9000


def check_settings(subject: Subject) -> Iterator[Finding]:
    if subject.settings is None:
        return
    server = subject.settings.server
    if server.discovery and not subject.network_listens:
        yield warning(
            "lan.unreachable",
            "server.discovery is on, and no address of server.listen can be reached from other "
            "hosts, so that nothing is told",
            'set server.listen = "0.0.0.0:7411", or turn server.discovery off',
        )
    if subject.network_listens and not server.insecure:
        yield from _tokens(subject)


def check_interfaces(subject: Subject) -> Iterator[Finding]:
    if not subject.uses_lan:
        return
    up = _of_network(subject.host)
    if not up:
        yield problem(
            "lan.interfaces",
            "no interface of a network is up and has an IPv4 address",
            "connect this host to a network; `ip address` shows what there is",
        )
        return
    for interface in up:
        if interface.has_multicast:
            continue
        yield warning(
            "lan.flag",
            f"interface {interface.name} does not carry multicast, so that nobody behind it "
            "finds the daemon",
            f"sudo ip link set dev {interface.name} multicast on",
        )
    names = ", ".join(f"{one.name} ({', '.join(one.ipv4)})" for one in up)
    yield ok("lan.interfaces", f"up: {names}")


def check_multicast(subject: Subject) -> Iterator[Finding]:
    if not subject.uses_lan:
        return
    usable = [one for one in _of_network(subject.host) if one.has_multicast]
    if not usable:
        return
    yield from probe(subject.host, usable, MDNS_PORT)
    yield from _route(usable[0])
    if sharing := _holders(MDNS_PORT):
        yield ok("lan.shared", f"UDP port {MDNS_PORT} is shared with {', '.join(sharing)}")


def probe(host: Host, interfaces: Sequence[Interface], port: int) -> Iterator[Finding]:
    """Whether what is sent to the group on each interface comes back."""
    try:
        listener = _listener(port)
    except OSError as error:
        yield _port_taken(port, error)
        return
    with listener:
        for interface in interfaces:
            yield hears(host, listener, interface, port)


def hears(host: Host, listener: socket.socket, interface: Interface, port: int) -> Finding:
    """Ask out of an interface for the daemons there, and hear the question."""
    question = _question()
    own = socket.inet_aton(interface.ipv4[0])
    group = socket.inet_aton(MDNS_GROUP)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP) as sender:
        try:
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + own)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            sender.sendto(question, (MDNS_GROUP, port))
        except OSError as error:
            return _not_sent(host, interface, port, error)
    ends_s = time.monotonic() + HEAR_LIMIT_S
    while (left_s := ends_s - time.monotonic()) > 0:
        readable, _, _ = select.select([listener], [], [], left_s)
        if readable and listener.recv(_MAX_PACKET_BYTES) == question:
            return ok("lan.multicast", f"multicast passes on {interface.name}, as far as this host")
    return warning(
        "lan.multicast",
        f"multicast DNS does not come back on {interface.name}: something on this host, most "
        "likely a firewall, drops it",
        open_command(host, "udp", port),
    )


def _tokens(subject: Subject) -> Iterator[Finding]:
    state = subject.state_directory
    assert state is not None, "there are settings"
    path = state / TOKENS_FILE
    make = f"edgectl token create NAME --file {path}"
    own = subject.host.path(path)
    given = subject.host.path(TOKENS_CREDENTIAL) if subject.is_service else None
    for file in (own, given):
        if file is not None and not _is_seen(subject.host, file):
            name = subject.host.user.name
            yield note("lan.tokens", f"{file} may not be read by {name}", "sudo edgectl doctor")
            return
    try:
        num_valid = sum(token.is_valid for token in TokenStore(own, given).all())
    except ConfigError as error:
        yield problem("lan.tokens", error.detail, f"move it away, then {make}")
        return
    if num_valid:
        yield ok("lan.tokens", f"{num_valid} token(s)")
    else:
        yield problem(
            "lan.tokens",
            f"{', '.join(subject.network_listens)} can be reached from other hosts, and there is "
            "no token, so that nobody there could use it",
            make,
        )


def _is_seen(host: Host, file: Path) -> bool:
    """Whether this user may read it, or see that it is not there."""
    try:
        file.stat()
    except PermissionError:
        return False
    except OSError:
        return True
    return host.may("read", file)


def _of_network(host: Host) -> list[Interface]:
    return [one for one in host.interfaces if one.is_up and one.ipv4 and not one.is_loopback]


def _route(interface: Interface) -> Iterator[Finding]:
    """edged names the interface; not every program that looks for it does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asks_nobody:
        try:
            asks_nobody.connect((MDNS_GROUP, MDNS_PORT))
        except OSError:
            yield note(
                "lan.route",
                "the system has no route for multicast: edged does without, other programs of "
                "this host that look for services may not",
                f"sudo ip route add 224.0.0.0/4 dev {interface.name}",
            )


def _listener(port: int) -> socket.socket:
    """Of a port that is shared, as responders share it.

    Raises:
        OSError: who has it does not share it.
    """
    with ExitStack() as on_error:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
        on_error.enter_context(made)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("", port))
        on_error.pop_all()
    return made


def _question() -> bytes:
    """Of multicast DNS: who is there of _edged._tcp.local? Its number makes it known again."""
    labels = b"".join(bytes([len(one)]) + one for one in (b"_edged", b"_tcp", b"local"))
    header = struct.pack("!6H", secrets.randbelow(65535) + 1, 0, 1, 0, 0, 0)
    pointer, internet = 12, 1
    return header + labels + b"\0" + struct.pack("!2H", pointer, internet)


def _not_sent(host: Host, interface: Interface, port: int, error: OSError) -> Finding:
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return warning(
            "lan.multicast",
            f"there is no route for multicast on {interface.name}",
            f"sudo ip route add 224.0.0.0/4 dev {interface.name}",
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return warning(
            "lan.multicast",
            f"this host does not let multicast out of {interface.name}: a firewall refuses it",
            f"let the firewall send to {MDNS_GROUP}, UDP port {port}",
        )
    return warning(
        "lan.multicast",
        f"multicast cannot be used on {interface.name} ({interface.ipv4[0]}): {error.strerror}",
        f"`ip address show dev {interface.name}` shows how it is",
    )


def _port_taken(port: int, error: OSError) -> Finding:
    if error.errno != errno.EADDRINUSE:
        return warning("lan.port", f"UDP port {port} cannot be listened on: {error.strerror}")
    who = ", ".join(_holders(port)) or "a process"
    return warning(
        "lan.port",
        f"UDP port {port} is held by {who}, which does not share it, so that the local network "
        "cannot be told of the daemon",
        f"stop it; `sudo ss -lunp 'sport = :{port}'` names it",
    )


def _holders(port: int) -> list[str]:
    """Other programs with a UDP port, as far as this user may see."""
    try:
        connections = psutil.net_connections("udp")
    except (psutil.Error, OSError):
        return []
    pids = {one.pid for one in connections if one.laddr and one.laddr.port == port}
    names = set()
    for pid in pids - {None, os.getpid()}:
        try:
            names.add(psutil.Process(pid).name())
        except psutil.Error:
            continue
    return sorted(names)
