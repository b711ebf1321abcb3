"""When an engine stalls, and how often it is replaced."""

from edged.engine.wire import TextPrompt
from edged.supervise.restarts import RestartBudget
from edged.supervise.stall import TOKENIZE_CHARACTER_S, EngineWork, StallWatch


def work(since_s: float, num_characters: int = 0) -> EngineWork:
    given = EngineWork()
    given.add(TextPrompt("a" * num_characters), since_s)
    return given


def look_until_stall(
    watch: StallWatch,
    *,
    from_s: float,
    work: EngineWork,
    until_s: float,
    is_executing: bool = False,
) -> float | None:
    """Look each second; when it stalls, if it does."""
    now_s = from_s
    while now_s < until_s:
        now_s += 1.0
        if watch.look(now_s, 0, work, is_executing=is_executing):
            return now_s
    return None


def test_stall_is_work_without_a_step_for_the_whole_time() -> None:
    watch = StallWatch(10.0, 2.0, now_s=100.0)
    assert look_until_stall(watch, from_s=100.0, work=work(100.0), until_s=200.0) == 110.0


def test_engine_without_work_never_stalls() -> None:
    watch = StallWatch(10.0, 2.0, now_s=100.0)
    assert look_until_stall(watch, from_s=100.0, work=EngineWork(), until_s=200.0) is None


def test_time_before_the_work_came_does_not_count() -> None:
    watch = StallWatch(10.0, 2.0, now_s=100.0)
    look_until_stall(watch, from_s=100.0, work=EngineWork(), until_s=150.0)
    assert look_until_stall(watch, from_s=150.0, work=work(150.5), until_s=200.0) == 161.0


def test_finished_step_begins_the_count_anew() -> None:
    watch = StallWatch(10.0, 2.0, now_s=0.0)
    for second in range(1, 100):
        assert not watch.look(float(second), second // 9, work(0.0), is_executing=True)


def test_page_that_cannot_be_read_is_no_progress() -> None:
    watch = StallWatch(3.0, 2.0, now_s=0.0)
    looks = [watch.look(second, None, work(0.0), is_executing=False) for second in (1.0, 2.0, 3.0)]
    assert looks == [False, False, True]


def test_time_in_which_nobody_looked_does_not_make_a_stall() -> None:
    watch = StallWatch(10.0, 2.0, now_s=0.0)
    assert not watch.look(1.0, 0, work(0.0), is_executing=True)
    assert not watch.look(5000.0, 0, work(0.0), is_executing=True), "the host slept"
    assert look_until_stall(watch, from_s=5000.0, work=work(0.0), until_s=6000.0) == 5007.0


def test_time_to_tokenize_a_large_prompt_does_not_count() -> None:
    watch = StallWatch(10.0, 2.0, now_s=0.0)
    large = work(0.0, num_characters=round(30.5 / TOKENIZE_CHARACTER_S))
    assert look_until_stall(watch, from_s=0.0, work=large, until_s=100.0) == 41.0


def test_step_that_hangs_is_a_stall_though_a_large_prompt_is_tokenized() -> None:
    watch = StallWatch(10.0, 2.0, now_s=0.0)
    large = work(0.0, num_characters=round(30 / TOKENIZE_CHARACTER_S))
    stalled_s = look_until_stall(watch, from_s=0.0, work=large, until_s=100.0, is_executing=True)
    assert stalled_s == 10.0


def test_work_that_has_ended_leaves_no_time_to_tokenize_behind() -> None:
    watch = StallWatch(10.0, 2.0, now_s=0.0)
    ended = work(0.0, num_characters=round(30 / TOKENIZE_CHARACTER_S))
    ended.end()
    ended.add(TextPrompt(""), 0.0)
    assert look_until_stall(watch, from_s=0.0, work=ended, until_s=100.0) == 10.0


def test_first_restart_is_at_once_and_later_ones_wait_longer_and_longer() -> None:
    budget = RestartBudget(max_restarts=9)
    delays = [budget.lose(has_progressed=False) for _ in range(10)]
    assert delays == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, None]


def test_progress_makes_the_next_loss_the_first_again() -> None:
    budget = RestartBudget(max_restarts=2)
    assert [budget.lose(has_progressed=False) for _ in range(2)] == [0.0, 0.25]
    assert [budget.lose(has_progressed=True), budget.lose(has_progressed=False)] == [0.0, 0.25]
    assert budget.lose(has_progressed=False) is None


def test_no_restarts_at_all_can_be_asked_for() -> None:
    assert RestartBudget(max_restarts=0).lose(has_progressed=True) is None


def test_delay_stays_bounded_after_thousands_of_losses() -> None:
    budget = RestartBudget(max_restarts=5000)
    assert [budget.lose(has_progressed=False) for _ in range(5000)][-1] == 10.0
