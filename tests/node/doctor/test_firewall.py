"""What firewalls let in, as their own tools say it."""

import pytest

from edged.node.doctor.firewall import check, open_command
from edged.node.doctor.host import Interface, User
from edged.node.doctor.subject import Subject
from tests.node.doctor.machine import ROOT, Machine, found, levels

CONFIG = '[server]\nlisten = "0.0.0.0:7411"\n'
CLOSED = {"lan.firewall": "warning"}
OPEN = {"lan.firewall": "ok"}


def subject(machine: Machine, user: User = ROOT) -> Subject:
    interfaces = (Interface("lan0", True, False, True, ("192.168.1.5",)),)
    return machine.subject(CONFIG, user=user, interfaces=interfaces)


def test_without_a_firewall_all_is_in_order(machine: Machine) -> None:
    assert levels(check, subject(machine)) == OPEN


def test_a_user_who_may_not_see_the_rules_is_told_so(machine: Machine) -> None:
    finding = found(check, machine.subject(CONFIG))["lan.firewall"]
    assert (finding.level, finding.fix) == ("note", "sudo edgectl doctor --lan")


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("7411/tcp ALLOW Anywhere\n5353/udp ALLOW Anywhere", OPEN),
        ("7411/tcp ALLOW Anywhere", CLOSED),
        ("7411/tcp DENY Anywhere\n5353/udp ALLOW Anywhere", CLOSED),
        ("Anywhere   ALLOW   192.168.1.0/24", OPEN),
        ("Anywhere on lan0   ALLOW   Anywhere", OPEN),
        ("Anywhere (v6) on lan0   ALLOW   Anywhere (v6)", OPEN),
        ("Anywhere on tun0   ALLOW   Anywhere", CLOSED),
        ("7411 on lan0   DENY   Anywhere\nAnywhere   ALLOW   Anywhere", OPEN),
        ("192.168.1.0/24   ALLOW   192.168.1.0/24", OPEN),
        ("192.168.1.5/udp   ALLOW   Anywhere", CLOSED),
        ("Anywhere (v6)   ALLOW   fd00::/64", OPEN),
        ("192.168.1.5   ALLOW   Anywhere", OPEN),
        ("Anywhere   ALLOW OUT   Anywhere", CLOSED),
        ("Anywhere/tcp   ALLOW   192.168.1.0/24", CLOSED),
        ("7400:7500/tcp   ALLOW   Anywhere\n5353/udp   ALLOW IN   Anywhere", OPEN),
        ("80,7411,5353 (v6)   LIMIT   Anywhere (v6)", OPEN),
        ("80,5000:8000   ALLOW   10.0.0.0/8", OPEN),
        ("5000:7410/tcp   ALLOW   Anywhere\n5353   ALLOW   Anywhere", CLOSED),
        ("192.168.1.5 7411/tcp   ALLOW   Anywhere\n5353   ALLOW   Anywhere", OPEN),
        ("7411   DENY   10.0.0.9\nAnywhere   ALLOW   10.0.0.0/8", OPEN),
        ("7411   REJECT   Anywhere\nAnywhere   ALLOW   10.0.0.0/8", CLOSED),
        ("Nginx Full   ALLOW   Anywhere", CLOSED),
    ],
)
def test_ufw_is_asked_for_each_port(machine: Machine, rules: str, expected: dict[str, str]) -> None:
    machine.write("/etc/ufw/ufw.conf", "ENABLED=yes\n")
    machine.command("ufw", f"printf 'Status: active\n\n{rules}\n'")
    assert levels(check, subject(machine)) == expected
    assert open_command(machine.host(), "tcp", 7411) == "sudo ufw allow 7411/tcp"


def test_ufw_that_lets_in_by_default_is_in_order(machine: Machine) -> None:
    machine.write("/etc/ufw/ufw.conf", "ENABLED=yes\n")
    machine.command("ufw", "echo 'Status: active'")
    assert levels(check, subject(machine)) == CLOSED
    machine.write("/etc/default/ufw", 'IPV6=yes\nDEFAULT_INPUT_POLICY="ACCEPT"\n')
    assert levels(check, subject(machine)) == OPEN


def test_the_rules_that_ufw_has_for_multicast_dns_count(machine: Machine) -> None:
    machine.write("/etc/ufw/ufw.conf", "ENABLED=yes\n")
    rule = "-A ufw-before-input -p udp -d 224.0.0.251 --dport 5353 -j ACCEPT\n"
    machine.write("/etc/ufw/before.rules", rule)
    machine.command("ufw", "printf 'Status: active\n\n7411 ALLOW Anywhere\n'")
    assert levels(check, subject(machine)) == OPEN


def test_ufw_that_does_not_show_its_rules_is_a_note(machine: Machine) -> None:
    machine.write("/etc/ufw/ufw.conf", "ENABLED=yes\n")
    machine.command("ufw", "echo 'ERROR: You need to be root' >&2; exit 1")
    assert levels(check, machine.subject(CONFIG)) == {"lan.firewall": "note"}


@pytest.mark.parametrize(
    ("open_ones", "expected"),
    [
        ("*7411/tcp|*service=mdns", OPEN),
        ("*7411/tcp|*5353/udp", OPEN),
        ("*service=mdns", CLOSED),
        ("*7411/tcp", CLOSED),
    ],
)
def test_firewalld_is_asked_for_each_port(
    machine: Machine, open_ones: str, expected: dict[str, str]
) -> None:
    machine.command(
        "firewall-cmd",
        f"case $1 in --state) echo running;; {open_ones}) echo yes;; *) echo no; exit 1;; esac",
    )
    assert levels(check, subject(machine)) == expected


def test_firewalld_that_does_not_answer_is_a_note(machine: Machine) -> None:
    machine.command("firewall-cmd", "[ $1 = --state ]")
    assert levels(check, subject(machine)) == {"lan.firewall": "note"}


@pytest.mark.parametrize(
    ("policy", "rules", "expected"),
    [
        ("accept", "", OPEN),
        ("drop", "tcp dport 7411 accept", CLOSED),
        ("drop", "tcp dport { 22, 7411 } accept\nudp dport 5353 accept", OPEN),
    ],
)
def test_a_chain_of_nftables_that_drops_has_to_name_the_ports(
    machine: Machine, policy: str, rules: str, expected: dict[str, str]
) -> None:
    chain = f"type filter hook input priority filter; policy {policy};\n{rules}"
    machine.command("nft", f"printf 'table inet filter {{\nchain input {{\n{chain}\n}}\n}}\n'")
    assert levels(check, subject(machine)) == expected


def test_the_command_for_nftables_names_the_chain_that_there_is(machine: Machine) -> None:
    head = "type filter hook input priority filter; policy drop;"
    chain = f"table inet mine {{\n\tchain in {{\n\t\t{head}\n\t}}\n}}"
    machine.command("nft", f"printf '%s' '{chain}'")
    assert open_command(machine.host(), "udp", 5353) == (
        "sudo nft insert rule inet mine in udp dport 5353 accept"
    )


def test_iptables_that_drops_has_to_name_the_ports(machine: Machine) -> None:
    machine.command("iptables", "printf '%s\n' '-P INPUT DROP'")
    finding = found(check, subject(machine))["lan.firewall"]
    assert finding.level == "warning"
    assert finding.fix.startswith("sudo iptables -I INPUT -p ")
