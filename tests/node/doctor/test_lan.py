"""Whether others can find the daemon; multicast with real sockets, on loopback."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edged.node.doctor.host import Interface
from edged.node.doctor.lan import check_interfaces, check_settings
from edged.node.doctor.multicast import check as check_multicast
from edged.node.doctor.multicast import hears, probe
from edged.node.trust.grant import Grant
from edged.node.trust.tokens import CREDENTIAL, TOKENS_FILE, TokenStore
from tests.node.doctor.machine import ME, NOW_S, ROOT, Machine, found, levels

CONFIG = '[server]\nlisten = "0.0.0.0:7411"\nstate_directory = "/state"\n'


def interface(**changes: object) -> Interface:
    usual: dict[str, object] = {
        "name": "lan0",
        "is_up": True,
        "is_loopback": False,
        "has_multicast": True,
        "ipv4": ("127.0.0.1",),
    }
    return Interface(**{**usual, **changes})  # type: ignore[arg-type]  # fields by name


@contextmanager
def udp_port(*, shared: bool) -> Iterator[tuple[socket.socket, int]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("", 0))
        yield made, made.getsockname()[1]


def test_discovery_on_loopback_alone_tells_nobody(machine: Machine) -> None:
    subject = machine.subject("[server]\ndiscovery = true\n")
    assert levels(check_settings, subject) == {"lan.unreachable": "warning"}


def test_a_network_listener_without_tokens_is_a_problem(machine: Machine) -> None:
    finding = found(check_settings, machine.subject(CONFIG))["lan.tokens"]
    assert (finding.level, finding.fix) == (
        "problem",
        "edgectl token create NAME --file /state/tokens.json",
    )


def test_a_token_counts_until_it_is_revoked(machine: Machine) -> None:
    store = TokenStore(machine.folder("/state", 0o700) / TOKENS_FILE)
    store.create(Grant("laptop"), NOW_S)
    subject = machine.subject(CONFIG, user=ME)
    assert levels(check_settings, subject) == {"lan.tokens": "ok"}
    store.revoke("laptop", NOW_S)
    assert levels(check_settings, subject) == {"lan.tokens": "problem"}


def test_tokens_that_this_user_may_not_read_are_a_note(machine: Machine) -> None:
    machine.write("/state/tokens.json", "{}", mode=0o600)
    assert levels(check_settings, machine.subject(CONFIG)) == {"lan.tokens": "note"}


def test_tokens_that_the_service_is_given_count_until_they_are_revoked(machine: Machine) -> None:
    machine.write("/etc/systemd/system/edged.service")
    given = TokenStore(machine.folder("/etc/credstore", 0o700) / CREDENTIAL)
    subject = machine.subject(CONFIG, user=ME)
    assert levels(check_settings, subject) == {"lan.tokens": "problem"}
    given.create(Grant("laptop"), NOW_S)
    assert levels(check_settings, subject) == {"lan.tokens": "ok"}
    path = machine.folder("/state", 0o700) / TOKENS_FILE
    TokenStore(path, given.path).revoke("laptop", NOW_S)
    assert levels(check_settings, subject) == {"lan.tokens": "problem"}


def giving(machine: Machine, *lines: str) -> None:
    """A unit with these lines."""
    machine.service({})
    text = "\\n".join(("[Service]", *lines))
    machine.command("systemctl", f'[ "$2" = cat ] && printf "{text}\\n"')


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("LoadCredential=edged.tokens:/srv/my tokens.json", "/srv/my tokens.json"),
        ("LoadCredential = edged.tokens:others", "/etc/credstore/others"),
        ("LoadCredential=\\nLoadCredential=edged.tokens:/srv/t", "/srv/t"),
        ("LoadCredential=edged.tokens:/srv/t\\nLoadCredentialEncrypted=x:/y", "/srv/t"),
        ("LoadCredential=edged.tokens", "/run/credstore/edged.tokens"),
        ("LoadCredential=edged.tokens", "/usr/lib/credstore/edged.tokens"),
        ("LoadCredential=edged.tokens", "/usr/local/lib/credstore/edged.tokens"),
        ("LoadCredential=edged.tokens", "/run/credentials/@system/edged.tokens"),
    ],
)
def test_tokens_are_looked_for_where_the_unit_has_them_from(
    machine: Machine, line: str, place: str
) -> None:
    giving(machine, "LoadCredential=edged.tokens", line)
    file = machine.root / place.lstrip("/")
    machine.folder(str(file.parent.relative_to(machine.root)), 0o700)
    assert levels(check_settings, machine.subject(CONFIG, user=ROOT)) == {"lan.tokens": "problem"}
    TokenStore(file).create(Grant("laptop"), NOW_S)
    assert levels(check_settings, machine.subject(CONFIG, user=ROOT)) == {"lan.tokens": "ok"}


def test_tokens_that_the_unit_does_not_hand_over_do_not_count(machine: Machine) -> None:
    giving(machine, "LoadCredential=edged.tokens", "LoadCredential=edged.tokens:/elsewhere")
    store = TokenStore(machine.folder("/etc/credstore", 0o700) / CREDENTIAL)
    store.create(Grant("laptop"), NOW_S)
    assert levels(check_settings, machine.subject(CONFIG, user=ROOT)) == {"lan.tokens": "problem"}


@pytest.mark.parametrize(
    "line",
    [
        "LoadCredentialEncrypted=edged.tokens:/etc/edged/tokens.cred",
        "SetCredentialEncrypted=edged.tokens: k6iUCUh0",
        "ImportCredential=edged.*",
        "LoadCredential=edged.tokens:/run/vault.sock",
    ],
)
def test_tokens_that_are_given_unreadably_are_a_note_until_the_service_runs(
    machine: Machine, line: str
) -> None:
    giving(machine, "LoadCredential=edged.tokens", line)
    machine.write("/etc/edged/tokens.cred", "k6iUCUh0RJCQyvL8k8q1UyAAAAABAAAA")
    with socket.socket(socket.AF_UNIX) as vault:
        vault.bind(str(machine.folder("/run") / "vault.sock"))
        finding = found(check_settings, machine.subject(CONFIG, user=ROOT))["lan.tokens"]
        assert (finding.level, finding.fix) == (
            "note",
            "sudo edgectl doctor, while the service runs",
        )
        running = machine.folder("/run/credentials/edged.service", 0o700)
        TokenStore(running / CREDENTIAL).create(Grant("laptop"), NOW_S)
        assert levels(check_settings, machine.subject(CONFIG, user=ROOT)) == {"lan.tokens": "ok"}


def test_a_credential_that_this_user_may_not_read_is_a_note(machine: Machine) -> None:
    machine.write("/etc/systemd/system/edged.service")
    machine.write("/etc/credstore/edged.tokens", mode=0o600)
    assert levels(check_settings, machine.subject(CONFIG)) == {"lan.tokens": "note"}


@pytest.mark.parametrize("content", ["text", "[]", '{"tokens": 5}', '{"tokens": [1]}', "{}"])
def test_a_file_that_has_no_tokens_is_a_problem(machine: Machine, content: str) -> None:
    machine.write("/state/tokens.json", content)
    finding = found(check_settings, machine.subject(CONFIG))["lan.tokens"]
    assert "is no file of tokens" in finding.text


def test_nothing_is_asked_of_a_host_that_uses_no_lan(machine: Machine) -> None:
    subject = machine.subject(interfaces=(interface(),))
    for check in (check_settings, check_interfaces, check_multicast):
        assert levels(check, subject) == {}


def test_a_host_without_a_network_is_a_problem(machine: Machine) -> None:
    down = (interface(is_up=False), interface(is_loopback=True), interface(ipv4=()))
    subject = machine.subject(lan=True, interfaces=down)
    assert levels(check_interfaces, subject) == {"lan.interfaces": "problem"}
    assert levels(check_multicast, subject) == {}


def test_a_host_with_ipv6_alone_is_in_order(machine: Machine) -> None:
    found_6 = interface(ipv4=(), ipv6=("fd00::7", "fe80::1%lan0"))
    of_a_container = interface(name="veth0", ipv4=(), ipv6=("fe80::2%veth0",), has_multicast=False)
    subject = machine.subject(lan=True, interfaces=(found_6, of_a_container))
    finding = found(check_interfaces, subject)["lan.interfaces"]
    assert (finding.level, finding.text) == ("ok", "up: lan0 (fd00::7, fe80::1%lan0)")
    assert levels(check_interfaces, subject) == {"lan.interfaces": "ok"}
    alone = machine.subject(lan=True, interfaces=(interface(ipv4=(), ipv6=("fe80::1%lan0",)),))
    assert levels(check_interfaces, alone) == {"lan.interfaces": "ok"}


def test_links_from_point_to_point_are_left_out(machine: Machine) -> None:
    tunnel = interface(name="wg0", is_point_to_point=True, has_multicast=False)
    both = machine.subject(lan=True, interfaces=(tunnel, interface()))
    assert levels(check_interfaces, both) == {"lan.interfaces": "ok"}
    assert "wg0" not in found(check_interfaces, both)["lan.interfaces"].text
    alone = machine.subject(lan=True, interfaces=(tunnel,))
    assert levels(check_interfaces, alone) == {"lan.interfaces": "note"}
    assert levels(check_multicast, alone) == {}


def test_an_interface_without_multicast_is_a_warning(machine: Machine) -> None:
    subject = machine.subject(lan=True, interfaces=(interface(has_multicast=False),))
    finding = found(check_interfaces, subject)["lan.flag"]
    assert (finding.level, finding.fix) == (
        "warning",
        "sudo ip link set dev lan0 multicast on",
    )


def test_multicast_that_comes_back_is_in_order(machine: Machine) -> None:
    with udp_port(shared=True) as (_other, port):
        [finding] = probe(machine.host(), [interface()], port)
    assert (finding.check, finding.level) == ("lan.multicast", "ok"), finding.text


def test_multicast_that_does_not_come_back_comes_with_the_firewall_s_command(
    machine: Machine,
) -> None:
    machine.command("firewall-cmd", "")
    with udp_port(shared=True) as (deaf, _), udp_port(shared=True) as (_, port):
        finding = hears(machine.host(), deaf, interface(), port)
    assert finding.level == "warning"
    assert "does not come back on lan0" in finding.text
    assert finding.fix.startswith(f"sudo firewall-cmd --add-port={port}/udp")


def test_a_port_that_is_not_shared_is_a_warning(machine: Machine) -> None:
    with udp_port(shared=False) as (_, port):
        [finding] = probe(machine.host(), [interface()], port)
    assert (finding.check, finding.level) == ("lan.port", "warning")
    assert f"UDP port {port} is held by" in finding.text


def test_an_address_that_went_away_is_a_warning(machine: Machine) -> None:
    with udp_port(shared=True) as (_, port):
        [finding] = probe(machine.host(), [interface(ipv4=("198.51.100.1",))], port)
    assert (finding.check, finding.level) == ("lan.multicast", "warning")
    assert "198.51.100.1" in finding.text
