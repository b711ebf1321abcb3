"""Does a firewall of this host let in what the LAN needs, as far as its rules can be read?

A filter has more forms than can be understood here. What is certain is told: a firewall's own tool
says that a port is closed, or a chain drops by default and no rule names the port.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import Literal

from edged.node.doctor.finding import Finding, note, ok, warning
from edged.node.doctor.host import Host
from edged.node.doctor.lan import network_interfaces
from edged.node.doctor.subject import Subject

Protocol = Literal["tcp", "udp"]
_MDNS_PORT = 5353
_TABLE_OR_CHAIN = re.compile(
    r"^table (?P<table>\w+ \S+) \{|^\s*chain (?P<chain>\S+) \{\s*"
    r"type filter hook input [^;]*;\s*policy (?P<policy>\w+)",
    re.MULTILINE,
)

_UFW_RULE = re.compile(
    r"^(?P<to>\S.*?)( on (?P<interface>\S+))?\s+(?P<action>ALLOW|LIMIT|DENY|REJECT)( IN)?\s+"
    r"(?!OUT\b|FWD\b)(?P<whom>\S.*)$",
    re.MULTILINE,
)
_UFW_PORTS = re.compile(r"\d+(:\d+)?(,\d+(:\d+)?)*")


def check(subject: Subject) -> Iterator[Finding]:
    if not subject.uses_lan or subject.host.system != "linux":
        return
    ports: list[tuple[Protocol, int]] = [("udp", _MDNS_PORT)]
    listened = {int(one.rpartition(":")[2]) for one in subject.network_listens} - {0}
    ports += [("tcp", port) for port in sorted(listened)]
    host = subject.host
    if _has_ufw(host):
        yield from _ufw(host, ports)
    elif (state := host.run("firewall-cmd", "--state")) is not None and state.code == 0:
        yield from _firewalld(host, ports)
    elif not host.user.is_root:
        yield note(
            "lan.firewall",
            f"user {host.user.name} may not see the rules of the firewall, if there are any",
            "sudo edgectl doctor --lan",
        )
    else:
        yield from _rules(host, ports)


def open_command(host: Host, protocol: Protocol, port: int) -> str:
    """How a port is opened with the firewall that is here."""
    if _has_ufw(host):
        return f"sudo ufw allow {port}/{protocol}"
    if host.which("firewall-cmd"):
        add = f"sudo firewall-cmd --add-port={port}/{protocol}"
        return f"{add} && sudo firewall-cmd --runtime-to-permanent"
    if _iptables_drops(host):
        return f"sudo iptables -I INPUT -p {protocol} --dport {port} -j ACCEPT"
    for chain in _input_chains(host):
        return f"sudo nft insert rule {chain} {protocol} dport {port} accept"
    return f"let the firewall accept {protocol.upper()} port {port}"


def _has_ufw(host: Host) -> bool:
    """Its configuration may be read by everybody; its rules may not."""
    return "ENABLED=yes" in (host.read("/etc/ufw/ufw.conf") or "")


def _ufw(host: Host, ports: list[tuple[Protocol, int]]) -> Iterator[Finding]:
    told = host.run("ufw", "status")
    if told is None or not told.output.startswith("Status: active"):
        yield note(
            "lan.firewall", "ufw is on, and its rules cannot be seen", "sudo edgectl doctor --lan"
        )
        return
    for protocol, port in ports:
        is_open = _ufw_lets_in(host, told.output, protocol, port)
        # ufw lets multicast DNS in by rules that stand before these.
        is_open = is_open or (port == _MDNS_PORT and _ufw_has_mdns(host))
        yield _told(host, "ufw", protocol, port, is_open=is_open)


def _ufw_lets_in(host: Host, status: str, protocol: Protocol, port: int) -> bool:
    """By the first rule that decides. One that lets some hosts in is enough, as for those of the
    local network; one that keeps some out decides nothing."""
    interfaces = {None, *(one.name for one in network_interfaces(host))}
    for rule in _UFW_RULE.finditer(status):
        if rule["interface"] not in interfaces or not _ufw_is_for(rule["to"], protocol, port):
            continue
        if rule["action"] in ("ALLOW", "LIMIT"):
            return True
        if rule["interface"] is None and rule["whom"].startswith("Anywhere"):
            return False
    defaults = host.read("/etc/default/ufw") or ""
    return re.search(r'^DEFAULT_INPUT_POLICY="?ACCEPT', defaults, re.MULTILINE) is not None


def _ufw_is_for(to: str, protocol: Protocol, port: int) -> bool:
    """Whether a rule's "192.168.1.5 7400:7500,80/tcp (v6)", or "Anywhere", is about a port."""
    *address, last = to.removesuffix(" (v6)").split()
    what, _, of = last.rpartition("/") if last.endswith(("/tcp", "/udp")) else (last, "", protocol)
    if of != protocol:
        return False
    if not _UFW_PORTS.fullmatch(what):
        return not address and (what == "Anywhere" or _is_address(what))
    ranges = (one.partition(":") for one in what.split(","))
    return any(int(first) <= port <= int(last or first) for first, _, last in ranges)


def _is_address(text: str) -> bool:
    """Or a network."""
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False  # the name of an application's profile
    return True


def _ufw_has_mdns(host: Host) -> bool:
    rules = host.read("/etc/ufw/before.rules")
    return rules is not None and re.search(r"^-A .*--dport 5353.*ACCEPT", rules, re.M) is not None


def _firewalld(host: Host, ports: list[tuple[Protocol, int]]) -> Iterator[Finding]:
    for protocol, port in ports:
        asked = [f"--query-port={port}/{protocol}"]
        asked += ["--query-service=mdns"] if port == _MDNS_PORT else []
        answers = [host.run("firewall-cmd", question) for question in asked]
        if all(answer is None or answer.output not in ("yes", "no") for answer in answers):
            yield note(
                "lan.firewall", "firewalld runs, and does not answer", "sudo edgectl doctor --lan"
            )
            return
        is_open = any(answer is not None and answer.output == "yes" for answer in answers)
        yield _told(host, "firewalld", protocol, port, is_open=is_open)


def _rules(host: Host, ports: list[tuple[Protocol, int]]) -> Iterator[Finding]:
    drops = []
    if rules := _iptables_drops(host):
        drops.append(("iptables", rules))
    elif any(policy == "drop" for policy in _input_chains(host).values()):
        # What iptables drops may be shown by nft too.
        drops.append(("nftables", _ruleset(host)))
    if not drops:
        yield ok("lan.firewall", "no firewall that drops by default was seen")
    for name, rules in drops:
        for protocol, port in ports:
            named = re.search(rf"\b(dport|dports)\b[^\n]*\b{port}\b", rules) is not None
            yield _told(host, name, protocol, port, is_open=named)


def _iptables_drops(host: Host) -> str:
    """The rules for what comes in, if what none of them names is dropped."""
    told = host.run("iptables", "-S", "INPUT")
    return told.output if told is not None and "-P INPUT DROP" in told.output else ""


def _ruleset(host: Host) -> str:
    told = host.run("nft", "list", "ruleset")
    return told.output if told is not None and told.code == 0 else ""


def _input_chains(host: Host) -> dict[str, str]:
    """The chains of nftables that all that comes in passes, as nft names them, and what is done
    with what none of their rules names."""
    chains, table = {}, ""
    for found in _TABLE_OR_CHAIN.finditer(_ruleset(host)):
        table = found["table"] or table
        if found["chain"]:
            chains[f"{table} {found['chain']}"] = found["policy"]
    return chains


def _told(host: Host, firewall: str, protocol: Protocol, port: int, *, is_open: bool) -> Finding:
    shown = f"{protocol.upper()} port {port}"
    if is_open:
        return ok("lan.firewall", f"{firewall} lets {shown} in")
    return warning(
        "lan.firewall",
        f"{firewall} does not let {shown} in, as far as its rules can be understood here",
        open_command(host, protocol, port),
    )
