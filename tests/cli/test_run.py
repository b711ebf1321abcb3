"""`edgectl run`: one answer, streamed."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from edged.cli.talk import MAX_PROMPT_BYTES
from edged.errors import EdgedError, Reason
from edged.v1 import admin_pb2, inference_pb2
from tests.cli.fake_daemon import REQUEST_ID, WAIT_S, FakeDaemon, admitted, delta, finished, model
from tests.cli.program import Program


def test_the_answer_goes_to_stdout_and_nothing_else(edgectl: Program, daemon: FakeDaemon) -> None:
    done = edgectl.run("run", "Hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello world\n", "")
    (asked,) = daemon.asked
    messages = [(turn.role, turn.content) for turn in asked.prompt.chat.messages]
    assert messages == [("user", "Hi")]
    assert (asked.client, asked.tier) == ("edgectl", inference_pb2.TIER_UNSPECIFIED)
    assert not asked.sampling.HasField("temperature")


def test_every_option_reaches_the_server(edgectl: Program, daemon: FakeDaemon) -> None:
    done = edgectl.run(
        *("run", "Hi", "--model", "tiny", "--tier", "batch", "--max-tokens", "9", "--seed", "5"),
        *("--temperature", "0", "--top-k", "3", "--top-p", "0.5", "--min-p", "0.25"),
        *("--stop", "END", "--stop", "###", "--system", "Be brief", "--client", "app"),
        *("--timeout", "30"),
    )
    assert done.returncode == 0
    (asked,) = daemon.asked
    sampling = asked.sampling
    assert (asked.model, asked.tier, asked.client) == ("tiny", inference_pb2.TIER_BATCH, "app")
    assert (sampling.max_tokens, sampling.seed, sampling.top_k) == (9, 5, 3)
    assert (sampling.temperature, sampling.top_p, sampling.min_p) == (0.0, 0.5, 0.25)
    assert list(sampling.stop) == ["END", "###"]
    assert asked.prompt.chat.messages[0].role == "system"
    (limit_s,) = daemon.limits_s
    assert limit_s is not None
    assert 0 < limit_s <= 30


def test_targets_reach_the_server(edgectl: Program, daemon: FakeDaemon) -> None:
    done = edgectl.run(
        *("run", "Hi", "--ttft", "0.5", "--tpot", "0.05", "--ttlt", "60"),
        *("--expected-tokens", "100", "--or-reject"),
    )
    assert done.returncode == 0
    (asked,) = daemon.asked
    targets = asked.targets
    assert (targets.ttft_s, targets.tpot_s, targets.ttlt_s) == (0.5, 0.05, 60)
    assert asked.expected_tokens == 100
    assert asked.on_unattainable == inference_pb2.ON_UNATTAINABLE_REJECT


def test_targets_that_are_not_given_are_left_to_the_tier(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    edgectl.run("run", "Hi")
    (asked,) = daemon.asked
    assert not any(asked.targets.HasField(name) for name in ("ttft_s", "tpot_s", "ttlt_s"))
    assert not asked.HasField("expected_tokens")
    assert asked.on_unattainable == inference_pb2.ON_UNATTAINABLE_BEST_EFFORT


@pytest.mark.parametrize("option", ["--ttft", "--tpot", "--ttlt", "--expected-tokens"])
def test_a_target_of_nothing_is_a_usage_error(edgectl: Program, option: str) -> None:
    done = edgectl.run("run", "Hi", option, "0")
    assert done.returncode == 2
    assert option in done.stderr


def test_who_would_rather_be_refused_is_told_when_to_come_again(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    daemon.answers = []
    daemon.error = EdgedError(Reason.UNATTAINABLE, "cannot be promised now", retry_after_s=2.5)
    done = edgectl.run("run", "Hi", "--or-reject")
    assert (done.returncode, done.stdout) == (4, "")
    assert "cannot be promised now" in done.stderr
    assert "2.5 s" in done.stderr


def test_a_raw_prompt_goes_past_the_template(edgectl: Program, daemon: FakeDaemon) -> None:
    edgectl.run("run", "--raw", "Once upon")
    assert daemon.asked[0].prompt.text == "Once upon"


def test_a_dash_reads_the_prompt_from_stdin(edgectl: Program, daemon: FakeDaemon) -> None:
    edgectl.run("run", "-", stdin="Über\nzwei Zeilen")
    assert daemon.asked[0].prompt.chat.messages[0].content == "Über\nzwei Zeilen"


def test_a_prompt_that_is_not_utf8_is_an_error(edgectl: Program) -> None:
    done = edgectl.run("run", "-", stdin=b"caf\xe9")
    assert (done.returncode, done.stderr) == (
        1,
        "edgectl: the prompt is not UTF-8, at byte 3\n",
    )


def test_a_prompt_longer_than_the_limit_is_an_error(edgectl: Program) -> None:
    done = edgectl.run("run", "-", stdin=b"x" * (MAX_PROMPT_BYTES + 1))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"edgectl: the prompt is longer than {MAX_PROMPT_BYTES} bytes\n"


def test_json_gives_a_line_for_each_event(edgectl: Program) -> None:
    lines = [json.loads(line) for line in edgectl.run("run", "Hi", "--json").stdout.splitlines()]
    assert [line["event"] for line in lines] == ["admitted", "token", "token", "finished"]
    assert lines[0]["request_id"] == REQUEST_ID
    assert "".join(line["text"] for line in lines if line["event"] == "token") == "Hello world"
    assert lines[-1]["reason"] == "stop"
    assert lines[-1]["timings"]["met_ttft"] is None


def test_verbose_tells_the_events_on_stderr(edgectl: Program, daemon: FakeDaemon) -> None:
    daemon.answers = [
        admitted(),
        inference_pb2.GenerateResponse(
            preempted=inference_pb2.Preempted(cause=inference_pb2.PREEMPTION_CAUSE_SWAP)
        ),
        inference_pb2.GenerateResponse(resumed=inference_pb2.Resumed(paused_s=1.5)),
        inference_pb2.GenerateResponse(heartbeat=inference_pb2.Heartbeat()),
        delta(0, "Hi"),
        finished(),
    ]
    done = edgectl.run("run", "Hi", "--verbose")
    assert done.stdout == "Hi\n"
    assert done.stderr.splitlines() == [
        f"request {REQUEST_ID}: 7 prompt tokens, position 2, first token expected after 0.50 s",
        "preempted (swap)",
        "resumed after 1.50 s",
        "finished (stop): 2 tokens in 0.30 s, queue 0.100 s, TTFT 0.200 s, TPOT 0.0500 s, "
        "1 preemptions, 0 engine losses",
    ]


def test_verbose_tells_what_was_promised_and_held(edgectl: Program, daemon: FakeDaemon) -> None:
    first, last = admitted(), finished()
    first.admitted.promised = True
    last.finished.outcome.promised = True
    last.finished.outcome.held = True
    daemon.answers = [
        first,
        inference_pb2.GenerateResponse(queued=inference_pb2.Queued(position=3, eta_s=4)),
        inference_pb2.GenerateResponse(
            queued=inference_pb2.Queued(position=1, eta_s=1.5, eta_bound_s=2.25)
        ),
        delta(0, "Hi"),
        last,
    ]
    told = edgectl.run("run", "Hi", "--verbose").stderr.splitlines()
    assert told[0].endswith("first token expected after 0.50 s, targets promised")
    assert told[1:3] == [
        "waiting at position 3, first token expected in 4.0 s",
        "waiting at position 1, first token expected in 1.5 s, at most 2.2 s",
    ]
    assert told[-1] == "targets held"


@pytest.mark.parametrize(
    ("promised", "cause", "met", "said"),
    [
        (True, "ESTIMATE", (False, True, None), "TTFT missed, though promised: estimate"),
        (False, "RELEGATED", (False, False, None), "TTFT and TPOT missed: relegated"),
        (None, "ENGINE_LOST", (None, None, False), "TTLT missed: engine_lost"),
        (False, "TARGETS", (True, None, None), "deadline missed: targets"),
    ],
)
def test_verbose_tells_why_targets_were_missed(
    edgectl: Program,
    daemon: FakeDaemon,
    *,
    promised: bool | None,
    cause: str,
    met: tuple[bool | None, ...],
    said: str,
) -> None:
    last = finished()
    missed = inference_pb2.MissCause.Value(f"MISS_CAUSE_{cause}")
    last.finished.outcome.CopyFrom(inference_pb2.Outcome(promised=promised, miss_cause=missed))
    for name, is_met in zip(("met_ttft", "met_tpot", "met_ttlt"), met, strict=True):
        if is_met is not None:
            setattr(last.finished.timings, name, is_met)
    daemon.answers = [admitted(), delta(0, "Hi"), last]
    assert edgectl.run("run", "Hi", "--verbose").stderr.splitlines()[-1] == said


def test_a_model_that_is_loading_is_waited_for(edgectl: Program, daemon: FakeDaemon) -> None:
    loading = admin_pb2.Status(models=[model(state=admin_pb2.MODEL_STATE_LOADING)])
    daemon.watched = [loading, daemon.status]
    daemon.status = loading
    done = edgectl.run("run", "Hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello world\n", "loading tiny\n")


def test_a_model_that_is_loading_is_asked_though_its_progress_is_not_told(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    loading = admin_pb2.Status(models=[model(state=admin_pb2.MODEL_STATE_LOADING)])
    daemon.watched = []
    daemon.status = loading
    daemon.watch_error = EdgedError(Reason.QUEUE_FULL, "64 calls watch already")
    done = edgectl.run("run", "Hi")
    assert (done.returncode, done.stdout) == (0, "Hello world\n")


def test_an_answer_without_an_end_is_an_error(edgectl: Program, daemon: FakeDaemon) -> None:
    daemon.answers = [admitted(), delta(0, "Hel")]
    done = edgectl.run("run", "Hi")
    assert (done.returncode, done.stdout) == (1, "Hel\n")
    assert done.stderr == "edgectl: the daemon ended the answer without saying why\n"


def test_control_characters_reach_a_pipe_unchanged(edgectl: Program, daemon: FakeDaemon) -> None:
    daemon.answers = [admitted(), delta(0, "\x1b[2J"), finished()]
    assert edgectl.run("run", "Hi").stdout == "\x1b[2J\n"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_interrupt_cancels_the_request_on_the_server(
    edgectl: Program, daemon: FakeDaemon, options: tuple[str, ...]
) -> None:
    daemon.holds = True
    daemon.answers = [admitted(), delta(0, "Hello")]
    running = edgectl.start("run", "Hi", *options)
    with running:
        assert running.stdout is not None
        running.stdout.read(5)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=WAIT_S)
    assert running.returncode == 130
    assert errors == b""
    assert daemon.cancelled.wait(WAIT_S)
    assert daemon.cancel_ids == [REQUEST_ID]


def test_an_interrupt_before_the_first_event_cancels_too(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    daemon.holds = True
    daemon.answers = []
    running = edgectl.start("run", "Hi")
    with running, ThreadPoolExecutor(1) as pool:

        def interrupt() -> None:
            # The call has arrived when the server begins to answer it.
            while not daemon.asked and running.poll() is None:
                daemon.cancelled.wait(0.01)
            running.send_signal(signal.SIGINT)

        pool.submit(interrupt).result(WAIT_S)
        running.communicate(timeout=WAIT_S)
    assert running.returncode == 130
    assert daemon.cancelled.wait(WAIT_S)


def test_a_closed_output_cancels_the_request_quietly(edgectl: Program, daemon: FakeDaemon) -> None:
    daemon.holds = True
    daemon.answers = [admitted(), delta(0, "Hello")]
    running = edgectl.start("run", "Hi")
    with running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.read(5)
        running.stdout.close()
        daemon.released.set()
        assert running.stderr.read() == b""
        assert running.wait(WAIT_S) == 0
    assert daemon.cancelled.wait(WAIT_S)
    assert daemon.cancel_ids == [REQUEST_ID]
