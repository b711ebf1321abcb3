"""Can other hosts find and reach the daemon, by its settings and the host's interfaces?"""

import ipaddress
from collections.abc import Iterator
from pathlib import Path

from edged.errors import ConfigError
from edged.node.doctor.credentials import Given, credential
from edged.node.doctor.finding import Finding, note, ok, problem, warning
from edged.node.doctor.host import Host, Interface
from edged.node.doctor.subject import Subject
from edged.node.doctor.unit import CREDENTIALS
from edged.node.trust.tokens import CREDENTIAL, TOKENS_FILE, TokenStore

_AS_ROOT = "sudo edgectl doctor"


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
    up = network_interfaces(subject.host)
    if not up and any(_is_up(one) for one in subject.host.interfaces):
        yield note(
            "lan.interfaces",
            "only tunnels and other point-to-point links are up: other hosts reach the daemon by "
            "its address, and do not find it",
        )
        return
    if not up:
        yield problem(
            "lan.interfaces",
            "no interface of a network is up and has an address",
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
    names = ", ".join(f"{one.name} ({', '.join(one.addresses)})" for one in up)
    yield ok("lan.interfaces", f"up: {names}")


def _tokens(subject: Subject) -> Iterator[Finding]:
    state = subject.state_directory
    assert state is not None, "there are settings"
    host = subject.host
    own = host.path(state / TOKENS_FILE)
    make = f"edgectl token create NAME --file {state / TOKENS_FILE}"
    given = credential(host, CREDENTIAL) if subject.is_service else Given()
    files = [own, *map(host.path, given.places)]
    if closed := next((file for file in files if not _is_seen(host, file)), None):
        yield note("lan.tokens", f"{closed} may not be read by {host.user.name}", _AS_ROOT)
        return
    source = given.source(host)
    if source is None and given.is_hidden and host.exists(CREDENTIALS / CREDENTIAL):
        source = CREDENTIALS / CREDENTIAL
    try:
        store = TokenStore(own, None if source is None else host.path(source))
        num_valid = sum(token.is_valid for token in store.all())
    except ConfigError as error:
        yield problem("lan.tokens", error.detail, f"move it away, then {make}")
        return
    if num_valid:
        yield ok("lan.tokens", f"{num_valid} token(s)")
    elif given.is_hidden and source is None:
        yield note(
            "lan.tokens",
            f"the unit gives the service {CREDENTIAL} in a way that cannot be looked into, so "
            "that nobody can tell whether there is a token",
            f"{_AS_ROOT}, while the service runs",
        )
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


def network_interfaces(host: Host) -> list[Interface]:
    """Over which the daemon tells its network where it is; those with a link's own IPv6 address
    alone, as each end of a container's cable has one, only if there are no others."""
    up = [one for one in host.interfaces if _is_up(one) and not one.is_point_to_point]
    return [one for one in up if one.ipv4 or not all(map(_is_of_link, one.ipv6))] or up


def _is_up(interface: Interface) -> bool:
    return interface.is_up and not interface.is_loopback and bool(interface.addresses)


def _is_of_link(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_link_local
