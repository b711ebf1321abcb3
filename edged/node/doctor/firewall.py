"""Does a firewall of this host let in what the LAN needs, as far as its rules can be read?

A filter has more forms than can be understood here. What is certain is told: a firewall's own tool
says that a port is closed, or a chain drops by default and no rule names the port.
"""

import re
from collections.abc import Iterator
from typing import Literal

from edged.node.doctor.finding import Finding, note, ok, warning
from edged.node.doctor.host import Host
from edged.node.doctor.subject import Subject

Protocol = Literal["tcp", "udp"]
_MDNS_PORT = 5353
_ENDS_IN_DROP = re.compile(r"type filter hook input [^}]*?policy drop", re.DOTALL)


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
    if host.which("nft"):
        return f"sudo nft insert rule inet filter input {protocol} dport {port} accept"
    if host.which("iptables"):
        return f"sudo iptables -I INPUT -p {protocol} --dport {port} -j ACCEPT"
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
        rule = rf"^{port}(/{protocol})?\s.*\bALLOW\b"
        is_open = re.search(rule, told.output, re.MULTILINE) is not None
        # ufw lets multicast DNS in by rules that stand before these.
        is_open = is_open or (port == _MDNS_PORT and _ufw_has_mdns(host))
        yield _told(host, "ufw", protocol, port, is_open=is_open)


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
    nft, iptables = host.run("nft", "list", "ruleset"), host.run("iptables", "-S", "INPUT")
    drops = []
    if nft is not None and nft.code == 0 and _ENDS_IN_DROP.search(nft.output):
        drops.append(("nftables", nft.output))
    if iptables is not None and iptables.code == 0 and "-P INPUT DROP" in iptables.output:
        drops.append(("iptables", iptables.output))
    if not drops:
        seen = [one for one in (nft, iptables) if one is not None and one.code == 0]
        text = "no firewall of this host drops by default" if seen else "no firewall was found here"
        yield ok("lan.firewall", text)
    for name, rules in drops:
        for protocol, port in ports:
            named = re.search(rf"\b(dport|dports)\b[^\n]*\b{port}\b", rules) is not None
            yield _told(host, name, protocol, port, is_open=named)


def _told(host: Host, firewall: str, protocol: Protocol, port: int, *, is_open: bool) -> Finding:
    shown = f"{protocol.upper()} port {port}"
    if is_open:
        return ok("lan.firewall", f"{firewall} lets {shown} in")
    return warning(
        "lan.firewall",
        f"{firewall} does not let {shown} in, as far as its rules can be understood here",
        open_command(host, protocol, port),
    )
