"""Does multicast pass on the interfaces of the local network, as far as this host can see?

Theory of operation: a question of multicast DNS is sent out of each interface and listened for on
another socket of this host. What the host's own firewall or routes stop does not come back. What a
switch or an access point stops cannot be seen from one host. It is asked by IPv6 where an interface
has no IPv4.
"""

import errno
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import psutil

from edged.node.doctor.finding import Finding, note, ok, warning
from edged.node.doctor.firewall import open_command
from edged.node.doctor.host import Host, Interface
from edged.node.doctor.lan import network_interfaces
from edged.node.doctor.subject import Subject

MDNS_PORT = 5353
HEAR_LIMIT_S = 0.7
_GROUPS: Mapping[int, str] = {socket.AF_INET: "224.0.0.251", socket.AF_INET6: "ff02::fb"}
_NETWORKS: Mapping[int, str] = {socket.AF_INET: "224.0.0.0/4", socket.AF_INET6: "ff00::/8"}
_MAX_PACKET_BYTES = 9000


def check(subject: Subject) -> Iterator[Finding]:
    if not subject.uses_lan:
        return
    usable = [one for one in network_interfaces(subject.host) if one.has_multicast]
    if not usable:
        return
    yield from probe(subject.host, usable, MDNS_PORT)
    yield from _route(usable[0])
    if sharing := _holders(MDNS_PORT):
        yield ok("lan.shared", f"UDP port {MDNS_PORT} is shared with {', '.join(sharing)}")


def probe(host: Host, interfaces: Sequence[Interface], port: int) -> Iterator[Finding]:
    """Whether what is sent to the group on each interface comes back."""
    for family in _GROUPS:
        of_family = [one for one in interfaces if _family(one) == family]
        if not of_family:
            continue
        try:
            listener = _listener(family, port)
        except OSError as error:
            yield _port_taken(port, error)
            return
        with listener:
            for interface in of_family:
                yield hears(host, listener, interface, port)


def hears(host: Host, listener: socket.socket, interface: Interface, port: int) -> Finding:
    """Ask out of an interface for the daemons there, and hear the question."""
    question = _question()
    with socket.socket(listener.family, socket.SOCK_DGRAM, socket.IPPROTO_UDP) as sender:
        try:
            _choose(listener, sender, interface)
            sender.sendto(question, (_GROUPS[listener.family], port))
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


def _family(interface: Interface) -> int:
    return socket.AF_INET if interface.ipv4 else socket.AF_INET6


def _choose(listener: socket.socket, sender: socket.socket, interface: Interface) -> None:
    """An interface, to hear the group on and to send to it.

    Raises:
        OSError: it went away, or cannot do so.
    """
    group = socket.inet_pton(listener.family, _GROUPS[listener.family])
    if listener.family == socket.AF_INET:
        own = socket.inet_aton(interface.ipv4[0])
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + own)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    else:
        index = struct.pack("@I", socket.if_nametoindex(interface.name))
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + index)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)


def _route(interface: Interface) -> Iterator[Finding]:
    """edged names the interface; not every program that looks for it does."""
    if _family(interface) != socket.AF_INET:
        return  # the system makes one for each interface with IPv6
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asks_nobody:
        try:
            asks_nobody.connect((_GROUPS[socket.AF_INET], MDNS_PORT))
        except OSError:
            yield note(
                "lan.route",
                "the system has no route for multicast: edged does without, other programs of "
                "this host that look for services may not",
                f"sudo ip route add {_NETWORKS[socket.AF_INET]} dev {interface.name}",
            )


def _listener(family: int, port: int) -> socket.socket:
    """Of a port that is shared, as responders share it.

    Raises:
        OSError: who has it does not share it.
    """
    with ExitStack() as on_error:
        made = socket.socket(family, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
        on_error.enter_context(made)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
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
    family = _family(interface)
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return warning(
            "lan.multicast",
            f"there is no route for multicast on {interface.name}",
            f"sudo ip route add {_NETWORKS[family]} dev {interface.name}",
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return warning(
            "lan.multicast",
            f"this host does not let multicast out of {interface.name}: a firewall refuses it",
            f"let the firewall send to {_GROUPS[family]}, UDP port {port}",
        )
    return warning(
        "lan.multicast",
        f"multicast cannot be used on {interface.name} ({interface.addresses[0]}): "
        f"{error.strerror}",
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
