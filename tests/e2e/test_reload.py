"""A daemon that reads its configuration again: what changes at once, what waits, what is wrong."""

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest

from edged.v1 import admin_pb2
from edged.v1 import inference_pb2 as pb
from tests.e2e.daemon import Daemon, gone, serving
from tests.e2e.settings import SIM, Tables, Value, sim_tables, write_config
from tests.e2e.streams import WAIT_S, ask
from tests.node.service_socket import service_socket

STEP_S = 0.02
RELOADED, PROBLEMS = "configuration reloaded", "reload met problems"


def with_model(tables: Tables, name: str, **settings: Value) -> dict[str, Mapping[str, Value]]:
    return {**tables, f"models.{name}": {"path": "none", **settings}}


def rewrite(daemon: Daemon, tables: Tables) -> None:
    write_config(daemon.folder / "config.toml", tables)


async def hang_up(daemon: Daemon, event: str = RELOADED) -> dict[str, object]:
    """SIGHUP, and the line that says what came of it."""
    count = len(daemon.lines(event)) + 1
    daemon.signal(signal.SIGHUP)
    return await daemon.logged(event, count)


async def reload(daemon: Daemon, tables: Tables) -> admin_pb2.ReloadResponse:
    rewrite(daemon, tables)
    return await daemon.admin.Reload(admin_pb2.ReloadRequest(), timeout=WAIT_S)


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


# ── Models ───────────────────────────────────────────────────────────────────────────────────────


async def test_model_that_is_new_loads_and_serves(tmp_path: Path) -> None:
    tables = sim_tables()
    async with serving(tmp_path, tables) as daemon:
        added = with_model(with_model(tables, "new"), "later", preload=False)
        told = await reload(daemon, added)
        assert list(told.changes) == ["model 'new' is new, and loads", "model 'later' is new"]
        await daemon.ready("new")
        assert (await daemon.generate(ask("hello", model="new", max_tokens=3)).end()).finished
        assert (await daemon.model("later")).state == admin_pb2.MODEL_STATE_UNLOADED
        assert [model.name for model in (await daemon.status()).models] == [SIM, "new", "later"]


async def test_model_that_is_gone_ends_what_it_has_and_takes_no_more(tmp_path: Path) -> None:
    tables = sim_tables(step_s=STEP_S)
    async with serving(tmp_path, with_model(tables, "old")) as daemon:
        await daemon.ready("old")
        running = daemon.generate(ask("running", model="old", max_tokens=100, ignore_eos=True))
        await running.tokens(3)
        pid = (await daemon.model("old")).engine_pid
        told = await reload(daemon, tables)
        assert [line for line in told.changes if line.startswith("model 'old' is removed")]
        assert (await daemon.model("old")).state == admin_pb2.MODEL_STATE_UNLOADING
        refused = await daemon.generate(ask("late", model="old")).end()
        assert refused.reason == "UNKNOWN_MODEL"
        assert not running.answer.count("finished"), "the refusal came while it was running"
        assert len((await running.end()).token_ids) == 100
        await gone(pid)
        watch = daemon.admin.WatchStatus(
            admin_pb2.WatchStatusRequest(interval_s=0.1), timeout=WAIT_S
        )
        async for answer in watch:
            if [model.name for model in answer.status.models] == [SIM]:
                break
        watch.cancel()


async def test_what_outlasts_the_removal_is_cancelled(tmp_path: Path) -> None:
    tables = sim_tables(server={"drain_s": 0.3}, step_s=STEP_S)
    async with serving(tmp_path, with_model(tables, "old")) as daemon:
        endless = daemon.generate(ask("endless", model="old", max_tokens=None))
        await endless.tokens(3)
        await reload(daemon, tables)
        answer = await endless.end()
        assert (answer.code, answer.reason) == (grpc.StatusCode.CANCELLED, "CANCELLED")
        assert "removed from the configuration" in answer.detail


async def test_model_that_comes_back_before_it_has_gone_is_loaded_anew(tmp_path: Path) -> None:
    tables = sim_tables(step_s=STEP_S)
    both = with_model(tables, "old")
    async with serving(tmp_path, both) as daemon:
        await daemon.ready("old")
        pid = (await daemon.model("old")).engine_pid
        running = daemon.generate(ask("running", model="old", max_tokens=100, ignore_eos=True))
        await running.tokens(3)
        await reload(daemon, tables)
        await reload(daemon, both)
        states = [model.state for model in (await daemon.status()).models if model.name == "old"]
        assert states == [admin_pb2.MODEL_STATE_UNLOADED, admin_pb2.MODEL_STATE_UNLOADING]
        done = await daemon.edgectl("models", "load", "old")
        assert "another model 'old' is being unloaded" in done.stderr
        assert len((await running.end()).token_ids) == 100
        await daemon.ready("old")
        assert (await daemon.model("old")).engine_pid != pid
        assert (await daemon.generate(ask("again", model="old", max_tokens=3)).end()).finished


async def test_model_that_changed_goes_on_and_is_new_when_it_is_loaded_next(tmp_path: Path) -> None:
    tables = sim_tables(step_s=STEP_S)
    async with serving(tmp_path, tables) as daemon:
        await daemon.ready()
        running = daemon.generate(ask("running", max_tokens=60, ignore_eos=True))
        await running.tokens(3)
        changed = {**tables, f"models.{SIM}": {"path": "none", "max_sequences": 3}}
        told = await reload(daemon, changed)
        (waiting,) = told.waiting
        assert "max_sequences has changed" in waiting
        assert f"edgectl models unload {SIM}, then edgectl models load {SIM}" in waiting
        (warning,) = (await daemon.model()).warnings
        assert warning in waiting
        assert waiting in [line["detail"] for line in daemon.lines("a setting waits")]
        assert len((await running.end()).token_ids) == 60
        again = await reload(daemon, changed)
        assert (list(again.changes), list(again.waiting)) == ([], [waiting]), "it still waits"
        os.kill((await daemon.model()).engine_pid, signal.SIGKILL)
        await daemon.model_until(lambda model: model.num_engine_losses == 1)
        assert (await daemon.ready()).kv.num_slots == 16, "what replaces an engine is like it"
        for words in (("unload", SIM), ("load", SIM)):
            assert (await daemon.edgectl("models", *words)).returncode == 0
        model = await daemon.ready()
        assert model.kv.num_slots == 3
        assert not model.warnings


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
