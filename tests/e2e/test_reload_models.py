"""Models that are new, gone or otherwise after a reload."""

import os
import signal
from pathlib import Path

import grpc

from edged.v1 import admin_pb2
from tests.e2e.daemon import gone, serving
from tests.e2e.reloading import STEP_S, reload, with_model
from tests.e2e.settings import SIM, sim_tables
from tests.e2e.streams import WAIT_S, ask


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
