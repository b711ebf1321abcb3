"""A daemon that reads its configuration again: what changes at once, what waits, what is wrong."""

import asyncio
import json
import os
import signal
from pathlib import Path

import grpc
import psutil
import pytest

from edged.v1 import admin_pb2
from edged.v1 import inference_pb2 as pb
from tests.e2e.daemon import Daemon, serving
from tests.e2e.reloading import (
    PROBLEMS,
    RELOADED,
    STEP_S,
    hang_up,
    reload,
    rewrite,
    with_model,
)
from tests.e2e.settings import SIM, Tables, sim_tables, write_config
from tests.e2e.streams import WAIT_S, ask
from tests.node.service_socket import service_socket

# ── Nothing is dropped ───────────────────────────────────────────────────────────────────────────


async def test_streams_lose_no_token_over_twenty_reloads(tmp_path: Path) -> None:
    num_tokens, num_reloads = 250, 20
    tables = sim_tables(step_s=STEP_S)
    async with serving(tmp_path, tables) as daemon:
        await daemon.ready()
        asked = ask("undisturbed", max_tokens=num_tokens, ignore_eos=True)
        alone = (await daemon.generate(asked).end()).token_ids
        streams = [daemon.generate(asked) for _ in range(3)]
        for stream in streams:
            await stream.tokens(3)
        for number in range(num_reloads):
            tiers = {"max_waiting": 10 + number, "ttft_target_s": 1.0 + number, "min_share": 0.2}
            rewrite(daemon, {**tables, "tiers.standard": tiers})
            await hang_up(daemon)
        assert not any(stream.answer.count("finished") for stream in streams), "they ran all along"
        for stream in streams:
            answer = await stream.end()
            assert answer.token_ids == alone
            assert answer.finished.timings.num_engine_losses == 0
            assert not answer.count("preempted")
        assert len(daemon.engine_pids) == 1


async def test_two_signals_in_quick_succession_are_one_reload_or_two(tmp_path: Path) -> None:
    tables = sim_tables()
    async with serving(tmp_path, tables) as daemon:
        rewrite(daemon, {**tables, "tiers.batch": {"max_waiting": 7}})
        for _ in range(10):
            daemon.signal(signal.SIGHUP)
        await daemon.logged(RELOADED)
        assert await waiting_limit(daemon) == 7
        told = await reload(daemon, {**tables, "tiers.batch": {"max_waiting": 7}})
        assert (list(told.changes), list(told.problems)) == ([], []), "it is as configured already"
        assert len(daemon.lines(RELOADED)) <= 11


async def waiting_limit(daemon: Daemon) -> int:
    """That of the tier batch."""
    answer = await daemon.admin.ListTiers(admin_pb2.ListTiersRequest(), timeout=WAIT_S)
    return next(tier.max_waiting for tier in answer.tiers if tier.tier == pb.TIER_BATCH)


# ── What changes at once ─────────────────────────────────────────────────────────────────────────


async def test_tiers_change_in_the_front_and_in_the_engine_that_runs(tmp_path: Path) -> None:
    tables = sim_tables(engine={"max_sequences": 1}, step_s=STEP_S)
    async with serving(tmp_path, tables) as daemon:
        await daemon.ready()
        runs = daemon.generate(ask("runs", max_tokens=None, tier=pb.TIER_BATCH))
        await runs.tokens(3)
        waits = daemon.generate(ask("waits", max_tokens=2, tier=pb.TIER_BATCH))
        await waits.until(lambda answer: answer.count("admitted") == 1)
        told = await reload(
            daemon,
            {**tables, "tiers.batch": {"max_waiting": 1, "ttft_target_s": 3.0}},
        )
        assert "tiers.batch.max_waiting = 1 (was 4096)" in told.changes
        assert await waiting_limit(daemon) == 1
        refused = await daemon.generate(ask("refused", tier=pb.TIER_BATCH)).end()
        assert refused.reason == "QUEUE_FULL", "the engine has the new limit"
        interactive = daemon.generate(ask("another tier", max_tokens=2, tier=pb.TIER_INTERACTIVE))
        assert (await interactive.end()).finished
        told = await reload(daemon, tables)
        assert "tiers.batch.max_waiting = 4096 (was 1)" in told.changes
        admitted = daemon.generate(ask("admitted", max_tokens=2, tier=pb.TIER_BATCH))
        await admitted.until(lambda answer: answer.count("admitted") == 1)
        await runs.leave()
        for stream in (waits, admitted):
            assert (await stream.end()).finished


async def test_tiers_that_change_while_the_model_loads_reach_its_engine(tmp_path: Path) -> None:
    tables = sim_tables(engine={"max_sequences": 1}, load_s=1.5, step_s=STEP_S)
    async with serving(tmp_path, tables) as daemon:
        await daemon.logged("engine started")
        await reload(daemon, {**tables, "tiers.batch": {"max_waiting": 1}})
        assert (await daemon.model()).state == admin_pb2.MODEL_STATE_LOADING
        await daemon.ready()
        runs = daemon.generate(ask("runs", max_tokens=None, tier=pb.TIER_BATCH))
        await runs.tokens(3)
        waits = daemon.generate(ask("waits", tier=pb.TIER_BATCH))
        await waits.until(lambda answer: answer.count("admitted") == 1)
        refused = await daemon.generate(ask("refused", tier=pb.TIER_BATCH)).end()
        assert refused.reason == "QUEUE_FULL"
        await runs.leave()
        await waits.leave()


async def test_default_tier_and_default_model_change(tmp_path: Path) -> None:
    tables = with_model(sim_tables(), "other")
    async with serving(tmp_path, tables) as daemon:
        await daemon.ready("other")
        changed = {**tables, "server": {"default_tier": "batch"}}
        text = f'default_model = "other"\n{rendered(tmp_path, changed)}'
        (tmp_path / "config.toml").write_text(text)
        line = await hang_up(daemon)
        assert f'default_model = "other" (was "{SIM}")' in str(line["changes"])
        status = await daemon.status()
        assert [model.name for model in status.models if model.is_default] == ["other"]
        tiers = await daemon.admin.ListTiers(admin_pb2.ListTiersRequest(), timeout=WAIT_S)
        assert [tier.tier for tier in tiers.tiers if tier.is_default] == [pb.TIER_BATCH]


def rendered(folder: Path, tables: Tables) -> str:
    return write_config(folder / "rendered.toml", tables).read_text()


async def test_log_level_changes_for_every_part(tmp_path: Path) -> None:
    """Also for those that have spoken already."""
    tables = sim_tables()
    async with serving(tmp_path, tables) as daemon:
        await daemon.ready()
        await reload(daemon, {**tables, "server": {"log_level": "error"}})
        await reload(daemon, {**tables, "server": {"log_level": "error"}})
        silent = len(daemon.log)
        assert (await daemon.generate(ask("unseen", max_tokens=2)).end()).finished
        os.kill(daemon.engine_pids[0], signal.SIGKILL)
        await daemon.model_until(lambda model: model.num_engine_losses == 1)
        await daemon.ready()
        await reload(daemon, {**tables, "server": {"log_level": "info"}})
        await daemon.logged(RELOADED, 1)
        said = [line["event"] for line in daemon.log[silent:]]
        assert set(said) <= {RELOADED}, "a lost engine is a warning, a request a line of info"
        assert (await daemon.generate(ask("seen", max_tokens=2)).end()).finished
        await daemon.logged("request finished")
        engine_pid = (await daemon.model()).engine_pid
        os.kill(engine_pid, signal.SIGKILL)
        assert (await daemon.logged("engine lost"))["pid"] == engine_pid
        await daemon.logged("engine ready", 2)


async def test_time_to_drain_changes(tmp_path: Path) -> None:
    tables = sim_tables(server={"drain_s": 3600.0}, step_s=STEP_S)
    async with serving(tmp_path, tables) as daemon:
        endless = daemon.generate(ask("endless", max_tokens=None))
        await endless.tokens(3)
        await reload(daemon, {**tables, "server": {"drain_s": 0.2}})
        daemon.signal(signal.SIGTERM)
        assert (await endless.end()).code == grpc.StatusCode.CANCELLED
        assert await daemon.exit_code() == 0


# ── What is refused, and what needs a restart ────────────────────────────────────────────────────


async def test_configuration_that_is_wrong_changes_nothing(tmp_path: Path) -> None:
    tables = sim_tables(step_s=STEP_S)
    with service_socket(tmp_path / "notify") as manager:
        async with serving(tmp_path, tables, NOTIFY_SOCKET=manager.address) as daemon:
            await daemon.ready()
            running = daemon.generate(ask("running", max_tokens=80, ignore_eos=True))
            await running.tokens(3)
            wrong = {
                **tables,
                "server": {"log_level": "loud"},
                "tiers.batch": {"max_waiting": 0, "max_waiting_per_client": 1},
            }
            rewrite(daemon, with_model(wrong, "new"))
            line = await hang_up(daemon, PROBLEMS)
            problems = line["problems"]
            assert isinstance(problems, list)
            assert len(problems) == 2
            assert any("server.log_level" in problem for problem in problems)
            assert any("tiers.batch.max_waiting = 0" in problem for problem in problems)
            await manager.until_told(
                "STATUS", "the last reload met 2 problems: see the log; serving"
            )
            assert await waiting_limit(daemon) == 4096
            assert [model.name for model in (await daemon.status()).models] == [SIM]
            done = await daemon.edgectl("reload")
            assert done.returncode == 1
            assert "server.log_level" in done.stderr
            assert len((await running.end()).token_ids) == 80
            (daemon.folder / "config.toml").unlink()
            line = await hang_up(daemon, PROBLEMS)
            assert "there is no file" in str(line["problems"])
            rewrite(daemon, tables)
            await hang_up(daemon)
            good = await manager.until(lambda heard: heard.get("READY") == "1")
            while "problem" in good["STATUS"]:
                good = await manager.until(lambda heard: heard.get("READY") == "1")
            assert good["STATUS"].startswith("serving 1 model")


async def test_service_manager_hears_of_each_reload(tmp_path: Path) -> None:
    with service_socket(tmp_path / "notify") as manager:
        async with serving(tmp_path, sim_tables(), NOTIFY_SOCKET=manager.address) as daemon:
            await manager.until_told("READY")
            before_s = asyncio.get_running_loop().time()
            daemon.signal(signal.SIGHUP)
            reloading = await manager.until_told("RELOADING")
            at_s = int(reloading["MONOTONIC_USEC"]) / 1e6
            assert before_s <= at_s <= asyncio.get_running_loop().time()
            await manager.until_told("READY")


async def test_what_needs_a_restart_is_named_and_stays_as_it_was(tmp_path: Path) -> None:
    tables = sim_tables()
    async with serving(tmp_path, tables) as daemon:
        await daemon.ready()
        changed = {
            **tables,
            "server": {"heartbeat_s": 5.0, "name": "elsewhere"},
            "scheduler": {"policy": "fcfs", "max_step_s": 0.25},
        }
        told = await reload(daemon, with_model(changed, "new"))
        assert list(told.waiting) == [
            'server.name = "elsewhere" holds after a restart; now it is "auto"',
            "server.heartbeat_s = 5.0 holds after a restart; now it is 10.0",
            'scheduler.policy = "fcfs" holds after a restart; now it is "slo"',
            "scheduler.max_step_s = 0.25 holds after a restart; now it is 0.5",
        ]
        assert list(told.changes) == ["model 'new' is new, and loads"]
        assert (await daemon.status()).policy == "slo"
        again = await reload(daemon, with_model(changed, "new"))
        assert list(again.waiting) == list(told.waiting), "that is so until it is restarted"


async def test_reload_command_tells_what_came_of_it(tmp_path: Path) -> None:
    tables = sim_tables()
    async with serving(tmp_path, tables) as daemon:
        done = await daemon.edgectl("reload")
        assert (done.returncode, done.stdout) == (0, "nothing has changed\n")
        rewrite(daemon, {**tables, "server": {"drain_s": 7.0, "heartbeat_s": 5.0}})
        done = await daemon.edgectl("reload")
        assert done.stdout.splitlines() == [
            "server.drain_s = 7.0 (was 30.0)",
            "waits: server.heartbeat_s = 5.0 holds after a restart; now it is 10.0",
        ]
        told = json.loads((await daemon.edgectl("reload", "--json")).stdout)
        assert told["changes"] == []
        assert len(told["waiting"]) == 1


async def test_daemon_that_drains_does_not_reload(tmp_path: Path) -> None:
    tables = sim_tables(step_s=STEP_S)
    with service_socket(tmp_path / "notify") as manager:
        async with serving(tmp_path, tables, NOTIFY_SOCKET=manager.address) as daemon:
            running = daemon.generate(ask("running", max_tokens=100, ignore_eos=True))
            await running.tokens(3)
            daemon.signal(signal.SIGTERM)
            await daemon.logged("draining")
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await daemon.admin.Reload(admin_pb2.ReloadRequest(), timeout=WAIT_S)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            daemon.signal(signal.SIGHUP)
            line = await daemon.logged(PROBLEMS)
            assert line["problems"] == ["the server is shutting down"]
            assert len((await running.end()).token_ids) == 100
            assert await daemon.exit_code() == 0
        manager.rest()
        assert not manager.told("RELOADING")
        assert len(manager.told("READY")) == 1


async def test_terminal_that_is_closed_ends_its_daemon(tmp_path: Path) -> None:
    """It sends the same signal; a daemon that served on would be forgotten."""
    terminal, its_end = os.openpty()
    try:
        async with serving(tmp_path, sim_tables(), stdin=its_end) as daemon:
            await hang_up(daemon)
            os.close(its_end)
            os.close(terminal)
            terminal = its_end = -1
            daemon.signal(signal.SIGHUP)
            assert await daemon.exit_code() == 0
            assert len(daemon.lines(RELOADED)) == 1
    finally:
        for fd in (terminal, its_end):
            if fd >= 0:
                os.close(fd)


async def test_signal_during_the_start_is_heeded_after_it(tmp_path: Path) -> None:
    with service_socket(tmp_path / "notify") as manager:
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
            told = group.create_task(manager.until_told("STATUS", "starting"))

            async def live() -> None:
                tables = sim_tables()
                async with serving(tmp_path, tables, NOTIFY_SOCKET=manager.address) as daemon:
                    await daemon.logged(RELOADED)
                    await daemon.ready()

            living = group.create_task(live())
            await told
            (process,) = [one for one in psutil.Process().children() if "serve" in one.cmdline()]
            process.send_signal(signal.SIGHUP)
            await living
        manager.rest()
    states = [name for one in manager.heard for name in ("READY", "RELOADING") if name in one]
    assert states == ["READY", "RELOADING", "READY"]
