"""The daemon's log: one line for each ended request, and never a word of what was said."""

import os
import signal
from pathlib import Path

from edged.v1 import inference_pb2 as pb
from tests.e2e.daemon import Daemon, serving
from tests.e2e.settings import sim_tables
from tests.e2e.streams import ask

SECRET = "xyzzy-plugh"
POISON = 255
FINISHED = "request finished"


async def check_one_line_each(daemon: Daemon, reasons: dict[str, str]) -> None:
    """Exactly one line for each request, with its reason; `reasons` has every request's id."""
    await daemon.logged(FINISHED, len(reasons))
    daemon.signal(signal.SIGINT)
    assert await daemon.exit_code() == 0
    logged = [(line["request_id"], line["reason"]) for line in daemon.lines(FINISHED)]
    assert sorted(logged) == sorted(reasons.items())


async def test_every_ended_request_has_exactly_one_line(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(step_s=0.01)) as daemon:
        await daemon.ready()
        whole = daemon.generate(ask(SECRET, max_tokens=5, client="notes", tier=pb.TIER_BATCH))
        stopped = daemon.generate(ask(SECRET, max_tokens=None, stop=["e"]))
        late = daemon.generate(
            ask(SECRET, max_tokens=None, targets=pb.Targets(deadline_s=0.4)),
        )
        left, lost = (daemon.generate(ask(SECRET, max_tokens=60)) for _ in range(2))
        await left.tokens(3)
        await left.leave()
        await lost.tokens(3)
        for stream in (whole, stopped):
            await stream.end()
        os.kill(daemon.engine_pids[0], signal.SIGKILL)
        for stream in (late, lost):
            await stream.end()
        reasons = {
            whole.answer.request_id: "length",
            stopped.answer.request_id: "stop",
            late.answer.request_id: "deadline",
            left.answer.request_id: "cancelled",
            lost.answer.request_id: "length",
        }
        await check_one_line_each(daemon, reasons)
        lines = {line["request_id"]: line for line in daemon.lines(FINISHED)}
        first = lines[whole.answer.request_id]
        assert (first["model"], first["tier"], first["client"]) == ("sim", "batch", "notes")
        usage = whole.answer.finished.usage
        assert first["prompt_tokens"] == usage.num_prompt_tokens
        assert first["generated_tokens"] == usage.num_generated_tokens == 5
        assert 0 <= first["queue_s"] <= first["ttft_s"] <= first["total_s"]
        assert (first["losses"], lines[lost.answer.request_id]["losses"]) == (0, 1)


async def test_poisoned_request_is_logged_as_an_error(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(abort_on_token=POISON)) as daemon:
        answer = await daemon.generate(ask([*SECRET.encode(), POISON])).end()
        assert answer.reason == "POISONED_REQUEST"
        line = await daemon.logged(FINISHED)
        assert (line["reason"], line["level"]) == ("error", "warning")
        assert line["detail"] == answer.detail
        await check_one_line_each(daemon, {line["request_id"]: "error"})


async def test_no_prompt_and_no_answer_is_logged_at_any_level(tmp_path: Path) -> None:
    tables = sim_tables(abort_on_token=POISON)
    async with serving(tmp_path, tables, "--log-level", "debug") as daemon:
        answers = await daemon.answers(
            [
                ask(f"tell {SECRET}", max_tokens=60),
                ask(SECRET, max_tokens=60, stop=[SECRET]),
                ask([*SECRET.encode(), POISON]),
                ask(SECRET, max_tokens=10**6, model="nobody"),
                ask(SECRET * 4000),
            ]
        )
        daemon.signal(signal.SIGINT)
        assert await daemon.exit_code() == 0
        assert [answer.reason for answer in answers] == [
            *("", "", "POISONED_REQUEST", "UNKNOWN_MODEL", "PROMPT_TOO_LONG")
        ]
        said = [SECRET, *(answer.text[:12] for answer in answers if answer.text)]
        ids = ", ".join(map(str, SECRET.encode()))
        for line in daemon.log:
            for text in (*said, ids):
                assert text not in str(line)
