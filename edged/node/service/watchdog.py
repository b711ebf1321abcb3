"""Whether the daemon is well, and the service manager's watchdog, fed while it is.

Theory of operation: an event loop that answers proves nothing: the models may stand still all the
same. So what is looked at is the work. Supervision replaces an engine that stalls; if a model that
has requests does not move for longer than that can take, supervision itself has failed, and only
starting anew helps.

| state | has requests, and for longer than this nothing moved | the daemon is |
|---|---|---|
| READY | `stall_s` and `MARGIN_S` | not well |
| UNLOADING | the same; as RESTARTING while its engine is being replaced | not well |
| RESTARTING | `load_timeout_s` and `MARGIN_S` | not well |
| LOADING, UNLOADED, FAILED | | well |
| any, without requests | | well |

What moves: a step ends, the state changes, the engine is another one. Only time that was watched
counts, as in `edged.supervise.stall`, and not that in which prompts may be being tokenized.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edged.clock import Clock
from edged.log import get_logger
from edged.supervise.model import ModelProgress, ModelState

MARGIN_S = 15.0
"""What supervision may take to act on a stall: to look, to kill, to say so."""
LOOK_S = 1.0
LONGEST_LOOK_S = 2.0

Engine = tuple[str, int | None]
"""A model and the process that runs it."""


@dataclass(frozen=True, slots=True)
class Standstill:
    """Since when one engine has not moved."""

    state: ModelState
    num_steps_ended: int | None
    waited_s: float = 0.0


Standstills = Mapping[Engine, Standstill]


def judge(
    before: Standstills, models: Sequence[ModelProgress], looked_at_s: float, now_s: float
) -> Standstills:
    """How long each engine with work has not moved by now, by what was found at `looked_at_s`."""
    return {
        (model.name, model.engine_pid): _stand(
            before.get((model.name, model.engine_pid)), model, looked_at_s, now_s
        )
        for model in models
        if model.num_in_flight
    }


def _stand(
    before: Standstill | None, model: ModelProgress, looked_at_s: float, now_s: float
) -> Standstill:
    here = Standstill(model.state, model.num_steps_ended)
    if before is None or before.state is not here.state:
        return here
    if before.num_steps_ended != here.num_steps_ended and here.num_steps_ended is not None:
        return here
    unwatched_s = looked_at_s
    if not model.is_executing:
        unwatched_s = max(unwatched_s, model.tokenizing_until_s)
    watched_s = min(max(now_s - unwatched_s, 0.0), LONGEST_LOOK_S)
    return Standstill(here.state, before.num_steps_ended, before.waited_s + watched_s)


def limit_s(model: ModelProgress) -> float | None:
    """The table above; None where there is no limit."""
    match model.state:
        case ModelState.READY:
            return model.stall_s + MARGIN_S
        case ModelState.UNLOADING if model.has_ready_engine:
            return model.stall_s + MARGIN_S
        case ModelState.UNLOADING | ModelState.RESTARTING:
            return model.load_timeout_s + MARGIN_S
        case ModelState.LOADING | ModelState.UNLOADED | ModelState.FAILED:
            return None


def stuck(standstills: Standstills, models: Sequence[ModelProgress]) -> tuple[str, ...]:
    """The models that nobody gets to move any more."""
    found = []
    for model in models:
        standstill = standstills.get((model.name, model.engine_pid))
        most_s = limit_s(model)
        if standstill is not None and most_s is not None and standstill.waited_s > most_s:
            found.append(model.name)
    return tuple(found)


def interval_s(variables: Mapping[str, str], pid: int) -> float | None:
    """Within how many seconds the service manager wants to hear from process `pid`; None if it
    does not."""
    text, meant = variables.get("WATCHDOG_USEC", ""), variables.get("WATCHDOG_PID", str(pid))
    if not text.isdecimal() or int(text) == 0 or meant != str(pid):
        return None
    return int(text) / 1e6


class Watchdog:
    """Feeds at half the interval. Belongs to the event loop."""

    def __init__(
        self,
        interval_s: float,
        progress: Callable[[], Sequence[ModelProgress]],
        feed: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """`feed` says whether that was told; what was not is tried at the next look."""
        self._feed_every_s = interval_s / 2
        self._progress = progress
        self._feed = feed
        self._clock = clock
        self._log = get_logger("watchdog")
        self._look_s = min(LOOK_S, self._feed_every_s)
        self._standstills: Standstills = {}
        self._looked_at_s = clock.now_s()
        self._fed_at_s: float | None = None
        self._stuck: tuple[str, ...] = ()

    @property
    def is_well(self) -> bool:
        """As of the last look."""
        return not self._stuck

    async def keep(self) -> None:
        """Look, and feed when it is time and all is well, for ever."""
        while True:
            self.look()
            await asyncio.sleep(self._look_s)

    def look(self) -> None:
        now_s, models = self._clock.now_s(), self._progress()
        self._standstills = judge(self._standstills, models, self._looked_at_s, now_s)
        self._looked_at_s = now_s
        found = stuck(self._standstills, models)
        if found != self._stuck:
            self._stuck = found
            if found:
                detail = "they stand still and nobody acts: the watchdog is not fed any more"
                self._log.error("supervision has failed", models=list(found), detail=detail)
            else:
                self._log.info("supervision has recovered")
        is_due = self._fed_at_s is None or (
            now_s - self._fed_at_s > self._feed_every_s - self._look_s / 2
        )
        if self.is_well and is_due:
            self._fed_at_s = now_s if self._feed() else self._fed_at_s
