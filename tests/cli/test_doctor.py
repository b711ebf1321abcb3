"""edgectl doctor on the machine that the tests run on, set up with what is wrong."""

import json
import re
import socket
import sys
import time
from pathlib import Path

import pytest

from edged.cli.doctor import _is_of, report
from edged.node.doctor.finding import Finding, ok, problem, warning
from edged.node.doctor.host import this_host
from edged.v1 import admin_pb2
from tests.cli.fake_daemon import FakeDaemon, model
from tests.cli.program import Program

MOST_S = 4.0
"""For a whole run, on a machine with other work."""
SIM = '[engine]\nbackend = "sim"\n[models.m]\npath = "m"\n[server]\nlisten = "127.0.0.1:0"\n'


def findings_of(output: str) -> dict[str, list[dict[str, str]]]:
    """By check."""
    by_check: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(output)["findings"]:
        by_check.setdefault(finding["check"], []).append(finding)
    return by_check


def alone(environ: dict[str, str], config: str = SIM) -> Program:
    """edgectl where no daemon is, with a configuration of the user's."""
    folder = Path(environ["XDG_CONFIG_HOME"]) / "edged"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(config)
    nowhere = f"unix:{environ['HOME']}/none.sock"
    return Program("edgectl", {**environ, "EDGED_HOST": nowhere})


def test_a_host_where_nothing_is_wrong_is_told_so(environ: dict[str, str]) -> None:
    began_s = time.monotonic()
    done = alone(environ).run("doctor", "--verbose")
    assert time.monotonic() - began_s < MOST_S
    assert (done.returncode, done.stderr) == (0, "")
    assert f"ok       Python {sys.version_info[0]}.{sys.version_info[1]}" in done.stdout
    assert re.search(r"^0 problems, .* in order$", done.stdout, re.MULTILINE)


def test_it_needs_no_configuration_and_no_daemon(environ: dict[str, str]) -> None:
    done = Program("edgectl", environ).run("doctor", "--json", "--lan")
    findings = findings_of(done.stdout)
    assert findings["configuration.read"][0]["level"] == "ok"
    crashed = [check for check in findings if check.endswith((".crashed", ".unfinished"))]
    assert not crashed, findings
    problems = [one for of in findings.values() for one in of if one["level"] == "problem"]
    assert (done.returncode == 0) is (not problems) is json.loads(done.stdout)["healthy"]


def test_what_is_wrong_is_told_with_its_fix(environ: dict[str, str], tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "key.pem").write_text("")
    (state / "key.pem").chmod(0o644)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = SIM.replace("127.0.0.1:0", address) + f'state_directory = "{state}"\n'
        began_s = time.monotonic()
        done = alone(environ, config).run("doctor")
        assert time.monotonic() - began_s < MOST_S
    assert done.returncode == 1
    assert f"problem  {address} is taken by" in done.stdout
    assert f"fix: chmod 0600 {state}/key.pem" in done.stdout
    assert "2 problems" in done.stdout


def test_each_mistake_of_a_broken_configuration_is_a_problem(environ: dict[str, str]) -> None:
    done = alone(environ, "[engine]\nkv_tpye = 1\nmax_sequences = 0\n").run("doctor", "--json")
    assert done.returncode == 1
    texts = [one["text"] for one in findings_of(done.stdout)["configuration.wrong"]]
    assert len(texts) == 2
    assert any("did you mean engine.kv_type?" in text for text in texts)


def test_a_file_that_is_named_is_the_one_that_is_read(
    environ: dict[str, str], tmp_path: Path
) -> None:
    done = alone(environ).run("doctor", "--config", str(tmp_path / "none.toml"), "--json")
    assert done.returncode == 1
    assert "there is no file" in findings_of(done.stdout)["configuration.wrong"][0]["text"]


def test_a_daemon_is_asked_what_is_wrong_with_it(edgectl: Program, daemon: FakeDaemon) -> None:
    failed = model("big", state=admin_pb2.MODEL_STATE_FAILED, failure="it does not fit")
    daemon.status.models.append(failed)
    done = edgectl.run("doctor", "--json")
    findings = findings_of(done.stdout)
    assert done.returncode == 1
    assert findings["daemon.version"][0]["text"].startswith("the daemon at ")
    assert findings["daemon.model"][0]["text"] == "model 'big' has failed: it does not fit"


@pytest.mark.parametrize("name", ["127.0.0.1", "127.1"])
def test_a_daemon_of_this_host_proves_what_it_listens_on(
    edgectl: Program, daemon: FakeDaemon, name: str
) -> None:
    """Also one that is asked by a name."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon.status.listeners[:] = [address]
        named = f"plaintext:{name}:{edgectl.environ['EDGED_HOST'].rpartition(':')[2]}"
        done = edgectl.run("doctor", "--json", EDGED_SERVER__LISTEN=address, EDGED_HOST=named)
        assert findings_of(done.stdout)["listen.served"][0]["level"] == "ok"


@pytest.mark.parametrize(
    ("addresses", "is_here"),
    [(["127.0.0.1"], True), (["127.0.0.1", "192.0.2.1"], False), ([], False)],
)
def test_a_name_is_of_this_host_if_all_its_addresses_are(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], is_here: bool
) -> None:
    def look_up(host: str, port: int, *, flags: int = 0, **_: object) -> list[object]:
        if flags & socket.AI_NUMERICHOST or not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, 0, 0, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert _is_of(this_host({}), "box.local:7411") is is_here


def test_a_host_that_nobody_knows_is_no_defect(environ: dict[str, str]) -> None:
    nowhere = "plaintext:nosuch.invalid:7411"
    findings = findings_of(alone(environ).run("doctor", "--json", EDGED_HOST=nowhere).stdout)
    assert not [check for check in findings if check.endswith((".crashed", ".unfinished"))]
    [told] = findings["daemon.silent"]
    assert "nosuch.invalid has no address here" in told["text"]


def test_a_daemon_that_hangs_holds_nothing_up(edgectl: Program, daemon: FakeDaemon) -> None:
    daemon.stalls_status = True
    began_s = time.monotonic()
    done = edgectl.run("doctor", "--json")
    assert time.monotonic() - began_s < MOST_S
    assert "did not answer within" in findings_of(done.stdout)["daemon.silent"][0]["text"]


FINDINGS = [
    ok("runtime.python", "Python 3.12"),
    warning("gpu.build", "built without it", "build it"),
    problem("gpu.access", "no access"),
]


def test_an_area_in_order_is_one_line_and_a_fix_stands_below_what_is_wrong() -> None:
    assert report(FINDINGS, verbose=False, colour=False) == (
        "runtime: ok\n"
        "gpu\n"
        "  warning  built without it\n"
        "           fix: build it\n"
        "  problem  no access\n"
        "\n"
        "1 problem, 1 warning, 0 notes, 1 in order\n"
    )


def test_verbose_tells_what_is_in_order_too() -> None:
    assert "runtime\n  ok       Python 3.12\n" in report(FINDINGS, verbose=True, colour=False)


def test_what_is_shown_cannot_move_a_cursor() -> None:
    finding = Finding("disk.model", FINDINGS[2].level, "\x1b[2Jgone", "\x1b[2Jfix")
    assert "\x1b[2J" not in report([finding], verbose=False, colour=True)
