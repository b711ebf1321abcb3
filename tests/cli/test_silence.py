"""A daemon that goes silent, as one that is stopped or has lost its power, is not waited for."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from edged.cli.exits import CommandError, ExitCode
from edged.cli.generate import Answer, Asker, Asking
from edged.cli.patience import SECOND_LOOK_S, Patience
from edged.cli.remote import Connection
from edged.client.connect.channel import Pings
from edged.client.connect.target import Plaintext, Target
from edged.clock import ManualClock
from edged.v1 import admin_pb2, inference_pb2
from tests.cli.cable import cable_to
from tests.cli.fake_daemon import WAIT_S, FakeDaemon, Served, admitted, delta

SHORT_S = 0.1
NUM_PINGS = 3
"""More than gRPC sends if it is not told otherwise."""


def connect(address: str, pings: Pings) -> Connection:
    return Connection(Target(address, address, Plaintext()), None, pings)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        pytest.param([], "", id="at once"),
        pytest.param([admitted(), delta(0, "Hello")], "Hello", id="in the middle"),
    ],
)
def test_an_answer_that_has_gone_silent_ends_and_keeps_its_text(
    told: list[inference_pb2.GenerateResponse],
    text: str,
    daemon: FakeDaemon,
    served: Served,
    capsys: pytest.CaptureFixture[str],
) -> None:
    daemon.holds = True
    daemon.answers = told
    answer = Answer()
    with connect(served.address, Pings()) as connection:
        asker = Asker(connection, Asking(idle_s=SHORT_S))
        with pytest.raises(CommandError) as raised, ThreadPoolExecutor(1) as pool:
            pool.submit(asker.ask, "Hi", answer).result(WAIT_S)
    assert raised.value.exit_code is ExitCode.UNREACHABLE
    assert raised.value.sentence == (
        f"the daemon at {served.address} has said nothing for 0.1 s, not even that it is alive"
    )
    assert (answer.text, capsys.readouterr().out.rstrip("\n")) == (text, text)
    assert daemon.cancelled.wait(WAIT_S)


def test_a_stream_without_heartbeats_ends_with_its_connection(
    daemon: FakeDaemon, served: Served
) -> None:
    daemon.watched = [daemon.status]
    daemon.holds_watch = True
    with (
        cable_to(served.address) as cable,
        connect(cable.address, Pings(SHORT_S, SHORT_S)) as connection,
    ):
        watch = connection.admin.WatchStatus(admin_pb2.WatchStatusRequest(), timeout=WAIT_S)
        states = connection.each(watch)
        assert next(states).status == daemon.status
        while cable.sent.acquire(blocking=False):
            pass
        for _ in range(NUM_PINGS):
            assert cable.sent.acquire(timeout=WAIT_S)
        cable.cut.set()
        with pytest.raises(CommandError) as raised:
            next(states)
    assert raised.value.exit_code is ExitCode.UNREACHABLE
    assert raised.value.sentence == f"the connection to the daemon at {cable.address} was lost"


class Call:
    """One that nothing comes of."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> bool:
        self.cancelled.set()
        return True


class Turns:
    """What happens before the watcher looks, each time."""

    def __init__(self, *turns: Callable[[], object]) -> None:
        self._turns = list(turns)
        self.waited_s: list[float] = []

    def wait(self, left_s: float) -> bool:
        self.waited_s.append(left_s)
        if not self._turns:
            return True
        self._turns.pop(0)()
        return False


@pytest.mark.parametrize("has_arrived", [True, False])
def test_what_arrived_while_the_program_was_stopped_is_read_first(has_arrived: bool) -> None:
    call, clock = Call(), ManualClock()
    patience = Patience(call, 30.0, clock)  # type: ignore[arg-type]  # what it uses of one

    def awake() -> None:
        clock.advance(0.5)
        patience._waiting_since_s = clock.now_s() if has_arrived else 0.0

    patience._waiting_since_s = 0.0
    patience._left = turns = Turns(lambda: clock.advance(100.0), awake)  # type: ignore[assignment]
    patience._watch(30.0)
    assert call.cancelled.is_set() is not has_arrived
    assert turns.waited_s[:2] == [30.0, SECOND_LOOK_S]


def test_the_time_between_two_waits_is_no_silence() -> None:
    call, clock = Call(), ManualClock()
    patience = Patience(call, SHORT_S, clock)  # type: ignore[arg-type]  # what it uses of one
    with patience.watching():
        with patience.waiting():
            clock.advance(SHORT_S / 2)
        clock.advance(1000.0)
        assert not call.cancelled.wait(2 * SHORT_S)
        with patience.waiting():
            clock.advance(SHORT_S / 2)
            assert not call.cancelled.wait(2 * SHORT_S)
            clock.advance(SHORT_S)
            assert call.cancelled.wait(WAIT_S)
    assert patience.lost_s == SHORT_S
