"""The examples as they stand, against the installed daemon. The LAN picker is in tests/lan."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edged.core.types import SloTier
from tests.e2e.daemon import Daemon, serving
from tests.e2e.settings import sim_tables
from tests.e2e.streams import WAIT_S

EXAMPLES = Path(__file__).parents[2] / "examples"
NUM_DOCUMENTS = 40


async def start(name: str, *arguments: object, daemon: Daemon) -> asyncio.subprocess.Process:
    """An example in the environment of a user whose daemon it is."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**daemon.environ, "EDGED_HOST": f"unix:{daemon.socket}"},
    )


async def end(process: asyncio.subprocess.Process, stdin: str = "") -> str:
    """What it still wrote; it has succeeded, and warned of nothing."""
    output, errors = await asyncio.wait_for(process.communicate(stdin.encode()), WAIT_S)
    assert (process.returncode, errors.decode()) == (0, "")
    return output.decode(errors="replace")  # what was read before may have ended in a character


@pytest.mark.parametrize("name", ["batch.py", "lan_picker.py"])
def test_without_what_it_needs_an_example_says_how_it_is_used(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 1
    assert f"python examples/{name}" in done.stderr
    assert "Traceback" not in done.stderr


# ── chat.py ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_chat_remembers_what_was_said(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(draws_text=True)) as daemon:
        await daemon.ready()
        output = await end(await start("chat.py", daemon=daemon), "Hello\nAnd again\n\n")
        first, second = daemon.lines("request finished")
    assert len(output) > first["generated_tokens"] / 2
    assert first["client"] == "example-chat"
    assert first["tier"] == SloTier.INTERACTIVE
    both = first["prompt_tokens"] + first["generated_tokens"]
    assert second["prompt_tokens"] > both, "the second question came with the first answer"


async def test_ctrl_c_ends_an_answer_and_not_the_chat(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(draws_text=True, step_s=0.05)) as daemon:
        await daemon.ready()
        chat = await start("chat.py", daemon=daemon)
        assert chat.stdin is not None
        assert chat.stdout is not None
        chat.stdin.write(b"Hello\n")
        assert await asyncio.wait_for(chat.stdout.read(1), WAIT_S)
        chat.send_signal(signal.SIGINT)
        ended = await daemon.logged("request finished")
        assert ended["reason"] == "cancelled"
        chat.stdin.write(b"And again\n")
        await asyncio.wait_for(chat.stdout.readline(), WAIT_S)
        assert await asyncio.wait_for(chat.stdout.read(1), WAIT_S)
        chat.send_signal(signal.SIGINT)
        assert (await daemon.logged("request finished", 2))["client"] == "example-chat"
        await end(chat)


async def test_a_chat_goes_on_after_an_error(tmp_path: Path) -> None:
    tables = sim_tables(load_fail="BAD_MODEL_FILE")
    async with serving(tmp_path, tables) as daemon:
        chat = await start("chat.py", daemon=daemon)
        output, errors = await asyncio.wait_for(chat.communicate(b"Hello\nHello\n"), WAIT_S)
    assert (chat.returncode, output) == (0, b"\n\n")
    assert errors.decode().count("[model") == 2


# ── batch.py ─────────────────────────────────────────────────────────────────────────────────────


def documents(folder: Path) -> Path:
    path = folder / "documents.txt"
    path.write_text("".join(f"Document {n}\n" for n in range(1, NUM_DOCUMENTS + 1)))
    return path


def answered(path: Path) -> list[int]:
    """Which documents; none has an error."""
    results = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(result["summary"] for result in results)
    return sorted(result["document"] for result in results)


ALL = list(range(1, NUM_DOCUMENTS + 1))


async def test_a_batch_answers_every_line(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    async with serving(tmp_path, sim_tables(draws_text=True)) as daemon:
        await end(await start("batch.py", documents(tmp_path), answers, daemon=daemon))
        finished = daemon.lines("request finished")
    assert answered(answers) == ALL
    assert {line["tier"] for line in finished} == {SloTier.BATCH}
    assert {line["client"] for line in finished} == {"example-batch"}


async def test_a_batch_goes_on_where_it_was(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"document": 7, "summary": "x"}\n{"document": 8, "summary": "was cut sh')
    async with serving(tmp_path, sim_tables(draws_text=True)) as daemon:
        await end(await start("batch.py", documents(tmp_path), answers, daemon=daemon))
        assert len(daemon.lines("request finished")) == NUM_DOCUMENTS - 1
    assert answered(answers) == ALL
    assert answers.read_text().startswith('{"document": 7, "summary": "x"}\n')


async def test_a_batch_survives_a_daemon_that_drains_and_comes_back(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    tables = sim_tables(draws_text=True, step_s=0.02, server={"drain_s": 0.2})
    async with serving(tmp_path, tables) as first:
        await first.ready()
        batch = await start("batch.py", documents(tmp_path), answers, daemon=first)
        await first.logged("request finished", 3)
        first.signal(signal.SIGTERM)
        assert await first.exit_code() == 0
        reasons = [line["reason"] for line in first.lines("request finished")]
        assert "cancelled" in reasons, "some were half way"
    async with serving(tmp_path, tables) as second:
        await end(batch)
        assert second.lines("request finished")
    assert answered(answers) == ALL


async def test_what_is_wrong_with_every_document_ends_a_batch(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    async with serving(tmp_path, sim_tables(load_fail="BAD_MODEL_FILE")) as daemon:
        batch = await start("batch.py", documents(tmp_path), answers, daemon=daemon)
        _, errors = await asyncio.wait_for(batch.communicate(), WAIT_S)
    assert batch.returncode == 1
    assert "has failed" in errors.decode()
    assert errors.decode().count("\n") == 1
    assert answers.read_text() == "", "all are still to be asked"


async def test_what_is_wrong_with_one_document_is_written_for_it(tmp_path: Path) -> None:
    answers, papers = tmp_path / "answers.jsonl", documents(tmp_path)
    papers.write_text(f"{'long ' * 4000}\n{papers.read_text()}")
    async with serving(tmp_path, sim_tables(draws_text=True)) as daemon:
        await end(await start("batch.py", papers, answers, daemon=daemon))
    results = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(results) == NUM_DOCUMENTS + 1
    [wrong] = [result for result in results if "error" in result]
    assert wrong["document"] == 1
