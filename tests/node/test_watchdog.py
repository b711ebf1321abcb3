"""Each row of the rule by which the daemon counts as well, and how the watchdog is fed by it."""

from dataclasses import dataclass, field, replace

import pytest

from edged.clock import ManualClock
from edged.node.service.watchdog import LONGEST_LOOK_S, MARGIN_S, Watchdog, interval_s
from edged.supervise.model import ModelProgress, ModelState

STALL_S, LOAD_S = 30.0, 600.0
AT_WORK = ModelProgress(
    name="chat",
    state=ModelState.READY,
    num_in_flight=1,
    engine_pid=100,
    has_ready_engine=True,
    num_steps_ended=7,
    is_executing=True,
    tokenizing_until_s=0.0,
    stall_s=STALL_S,
    load_timeout_s=LOAD_S,
)
IN_A_BLINK = 1.5


@dataclass
class Watched:
    """A watchdog over models that a test sets, on a clock that it moves."""

    models: list[ModelProgress]
    interval_s: float = 30.0
    clock: ManualClock = field(default_factory=lambda: ManualClock(1000.0))
    fed_s: list[float] = field(default_factory=list)

    num_lost: int = 0
    """How many times of feeding find no room from now on."""

    def __post_init__(self) -> None:
        self.watchdog = Watchdog(self.interval_s, lambda: self.models, self.feed, self.clock)

    def feed(self) -> bool:
        if self.num_lost:
            self.num_lost -= 1
            return False
        self.fed_s.append(self.at_s)
        return True

    @property
    def at_s(self) -> float:
        return self.clock.now_s() - 1000.0

    def look(self, seconds: float, every_s: float = 1.0) -> None:
        """Look for so long."""
        until_s = self.clock.now_s() + seconds
        while self.clock.now_s() < until_s:
            self.watchdog.look()
            self.clock.advance(every_s)

    def unwell_at_s(self, within_s: float) -> float | None:
        """When it is found not to be well any more; None if it is not."""
        while self.at_s < within_s:
            self.watchdog.look()
            if not self.watchdog.is_well:
                return self.at_s
            self.clock.advance(1.0)
        return None


def test_what_could_not_be_told_is_told_at_the_next_look() -> None:
    watched = Watched([AT_WORK])
    watched.look(1.0)
    watched.num_lost = 3
    watched.look(30.0)
    assert watched.fed_s == [0.0, 18.0]


@pytest.mark.parametrize(
    ("model", "limit_s"),
    [
        (AT_WORK, STALL_S + MARGIN_S),
        (replace(AT_WORK, state=ModelState.UNLOADING), STALL_S + MARGIN_S),
        (
            replace(AT_WORK, state=ModelState.UNLOADING, has_ready_engine=False),
            LOAD_S + MARGIN_S,
        ),
        (
            replace(AT_WORK, state=ModelState.RESTARTING, has_ready_engine=False),
            LOAD_S + MARGIN_S,
        ),
    ],
    ids=["ready", "unloading", "unloading_and_restarting", "restarting"],
)
def test_model_that_has_requests_and_does_not_move_is_stuck(
    model: ModelProgress, limit_s: float
) -> None:
    found_s = Watched([model]).unwell_at_s(within_s=2 * limit_s)
    assert found_s is not None
    assert limit_s < found_s <= limit_s + IN_A_BLINK


@pytest.mark.parametrize(
    "model",
    [
        replace(AT_WORK, num_in_flight=0),
        *(
            replace(AT_WORK, state=state, has_ready_engine=False)
            for state in (ModelState.LOADING, ModelState.UNLOADED, ModelState.FAILED)
        ),
    ],
    ids=["idle", "loading", "unloaded", "failed"],
)
def test_model_that_owes_nothing_is_well_for_ever(model: ModelProgress) -> None:
    assert Watched([model]).unwell_at_s(within_s=3 * LOAD_S) is None


@pytest.mark.parametrize(
    "moved",
    [
        replace(AT_WORK, num_steps_ended=8),
        replace(AT_WORK, state=ModelState.UNLOADING),
        replace(AT_WORK, engine_pid=101),
        replace(AT_WORK, num_in_flight=0),
    ],
    ids=["step", "state", "engine", "idle"],
)
def test_whatever_moves_begins_the_wait_anew(moved: ModelProgress) -> None:
    watched = Watched([AT_WORK])
    watched.look(STALL_S + MARGIN_S - 1)
    watched.models = [moved]
    watched.look(1)
    watched.models = [replace(moved, num_in_flight=1)]
    since_s = watched.at_s
    found_s = watched.unwell_at_s(within_s=1000.0)
    assert found_s is not None
    assert found_s - since_s > STALL_S + MARGIN_S - IN_A_BLINK


@pytest.mark.parametrize("num_steps_ended", [None, 7], ids=["unreadable", "unchanged"])
def test_page_that_cannot_be_read_is_no_step(num_steps_ended: int | None) -> None:
    watched = Watched([AT_WORK])
    watched.look(20)
    watched.models = [replace(AT_WORK, num_steps_ended=num_steps_ended)]
    found_s = watched.unwell_at_s(within_s=1000.0)
    assert found_s is not None
    assert found_s <= STALL_S + MARGIN_S + IN_A_BLINK


def test_time_that_nobody_watched_does_not_count() -> None:
    watched = Watched([AT_WORK])
    watched.look(10)
    watched.clock.advance(5000.0)  # the host slept
    watched.watchdog.look()
    assert watched.watchdog.is_well
    found_s = watched.unwell_at_s(within_s=10_000.0)
    assert found_s is not None
    counted_s = found_s - 5000.0
    assert STALL_S + MARGIN_S - LONGEST_LOOK_S < counted_s <= STALL_S + MARGIN_S + IN_A_BLINK


def test_time_to_tokenize_counts_only_while_a_step_runs() -> None:
    texts = replace(AT_WORK, is_executing=False, tokenizing_until_s=1000.0 + 200.0)
    found_s = Watched([texts]).unwell_at_s(within_s=1000.0)
    assert found_s is not None
    assert found_s > 200.0 + STALL_S + MARGIN_S
    hangs = replace(texts, is_executing=True)
    assert Watched([hangs]).unwell_at_s(within_s=STALL_S + MARGIN_S + IN_A_BLINK) is not None


def test_one_stuck_model_is_enough() -> None:
    idle = replace(AT_WORK, name="idle", engine_pid=200, num_in_flight=0)
    assert Watched([idle, AT_WORK]).unwell_at_s(within_s=100.0) is not None


def test_it_is_fed_at_half_the_interval_while_all_is_well() -> None:
    watched = Watched([replace(AT_WORK, num_in_flight=0)], interval_s=30.0)
    watched.look(100)
    assert watched.fed_s == [0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0]


def test_short_interval_is_fed_often_enough() -> None:
    watched = Watched([replace(AT_WORK, num_in_flight=0)], interval_s=0.5)
    watched.look(2, every_s=0.25)
    assert max(b - a for a, b in zip(watched.fed_s, watched.fed_s[1:], strict=False)) <= 0.25


def test_it_is_not_fed_while_supervision_has_failed_and_is_again_when_something_moves() -> None:
    watched = Watched([AT_WORK], interval_s=10.0)
    watched.look(STALL_S + MARGIN_S + 2)
    assert watched.fed_s, "it was fed until then"
    num_fed = len(watched.fed_s)
    watched.look(60)
    assert len(watched.fed_s) == num_fed
    watched.models = [replace(AT_WORK, num_steps_ended=8)]
    watched.look(6)
    assert len(watched.fed_s) > num_fed


@pytest.mark.parametrize(
    ("variables", "expected_s"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 30.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "41"}, None),
        ({"WATCHDOG_USEC": "0", "WATCHDOG_PID": "42"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_interval_is_meant_for_one_process(
    variables: dict[str, str], expected_s: float | None
) -> None:
    assert interval_s(variables, pid=42) == expected_s
