"""`edgectl chat` on a pipe; on a terminal see test_terminal."""

import json
import signal

from edged.errors import EdgedError, Reason
from edged.v1 import inference_pb2
from tests.cli.fake_daemon import REQUEST_ID, WAIT_S, FakeDaemon, admitted, delta
from tests.cli.program import Program


def turns(asked: inference_pb2.GenerateRequest) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in asked.prompt.chat.messages]


def test_each_turn_carries_the_conversation_so_far(edgectl: Program, daemon: FakeDaemon) -> None:
    done = edgectl.run("chat", "--system", "Be brief", stdin="One\n\nTwo")
    assert (done.returncode, done.stdout) == (0, "Hello world\nHello world\n")
    assert turns(daemon.asked[1]) == [
        ("system", "Be brief"),
        ("user", "One"),
        ("assistant", "Hello world"),
        ("user", "Two"),
    ]
    assert daemon.asked[0].tier == inference_pb2.TIER_INTERACTIVE


def test_clear_forgets_all_but_the_system_prompt(edgectl: Program, daemon: FakeDaemon) -> None:
    edgectl.run("chat", "--system", "Be brief", stdin="One\n/clear\nTwo\n")
    assert turns(daemon.asked[1]) == [("system", "Be brief"), ("user", "Two")]


def test_exit_ends_the_conversation_before_the_input_does(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    done = edgectl.run("chat", stdin="One\n/exit\nTwo\n")
    assert (done.returncode, len(daemon.asked)) == (0, 1)


def test_json_gives_the_events_of_every_turn(edgectl: Program) -> None:
    lines = edgectl.run("chat", "--json", stdin="One\nTwo\n").stdout.splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events == ["admitted", "token", "token", "finished"] * 2


def test_an_error_ends_a_piped_conversation_with_its_code(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    daemon.answers = []
    daemon.error = EdgedError(Reason.CLIENT_SHARE, "16 of yours wait", retry_after_s=1.0)
    done = edgectl.run("chat", stdin="One\nTwo\n")
    assert (done.returncode, len(daemon.asked)) == (4, 1)


def test_an_interrupt_cancels_the_turn_and_ends_a_piped_conversation(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    daemon.holds = True
    daemon.answers = [admitted(), delta(0, "Hello")]
    running = edgectl.start("chat")
    with running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(b"One\n")
        running.stdin.flush()
        running.stdout.read(5)
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=WAIT_S)
    assert running.returncode == 130
    assert daemon.cancelled.wait(WAIT_S)
    assert daemon.cancel_ids == [REQUEST_ID]
