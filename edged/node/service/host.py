"""The daemon as a guest of its host: what it tells the service manager, when it keeps the host
awake.

| the daemon | the service manager is told |
|---|---|
| starts | STATUS, EXTEND_TIMEOUT_USEC |
| listens | READY |
| loads a model | EXTEND_TIMEOUT_USEC, again and again, while it is well |
| reads its configuration again | RELOADING, then READY |
| drains | STOPPING, EXTEND_TIMEOUT_USEC of the time it may take |
| at any time | STATUS when it has changed, WATCHDOG while it is well |
"""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Protocol

from edged.clock import Clock
from edged.log import get_logger
from edged.node.service.inhibitor import Demand, SuspendInhibitor, ways
from edged.node.service.manager import ServiceNotifier, microseconds
from edged.node.service.open_files import ENOUGH, few_open_files, raise_open_files
from edged.node.service.status import describe, load
from edged.node.service.watchdog import Watchdog, interval_s
from edged.supervise.model import ModelProgress, ModelState, ModelStatus

REPORT_S = 1.0
"""Least time between two lines of status that tell no change of state."""
EXTEND_S = 15.0
"""How much longer the service manager waits, counted from when it is told."""
EXTEND_EVERY_S = 5.0
DRAIN_MARGIN_S = 30.0
"""What stopping takes beside the running work: engines that put KV on disk, open calls."""

_Work = Callable[[], Coroutine[None, None, None]]


class Work(Demand, Protocol):
    """The daemon's models."""

    def status(self) -> tuple[ModelStatus, ...]: ...

    def progress(self) -> tuple[ModelProgress, ...]: ...


class Host:
    """Made on the daemon's event loop; its tasks run from `listening` to `close`."""

    def __init__(self, variables: Mapping[str, str], work: Work, clock: Clock) -> None:
        """`variables`: those of the service manager (`service_manager.take_from`)."""
        self._work = work
        self._clock = clock
        self._log = get_logger("host")
        self._notifier = ServiceNotifier(variables.get("NOTIFY_SOCKET", ""))
        self._watchdog: Watchdog | None = None
        every_s = interval_s(variables, os.getpid())
        if every_s is not None and self._notifier.is_heard:
            self._watchdog = Watchdog(every_s, work.progress, self._feed, clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._inhibiting: asyncio.Task[None] | None = None
        self._note = ""
        self._is_draining = False
        self._told_status = ""
        self._extended_at_s = 0.0
        self._notifier.tell_state(STATUS="starting", EXTEND_TIMEOUT_USEC=microseconds(EXTEND_S))
        raise_open_files()
        limit = few_open_files()
        if limit is not None:
            detail = f"connections will be refused beyond about so many; {ENOUGH} are enough"
            self._log.warning("few files may be open", limit=limit, detail=detail)

    def listening(self) -> None:
        """Clients are answered from now on."""
        self._notifier.tell_state(READY="1", STATUS=self._status())
        if self._notifier.is_heard:
            self._begin(self._report, "report")
        if self._watchdog is not None:
            self._begin(self._watchdog.keep, "watchdog")

    def inhibit_suspend(self, *, inhibits: bool) -> None:
        """Whether the host is kept awake while requests run."""
        if not inhibits and self._inhibiting is not None:
            self._inhibiting.cancel()
            self._inhibiting = None
        elif inhibits and self._inhibiting is None:
            inhibitor = SuspendInhibitor(self._work, ways(sys.platform))
            self._inhibiting = self._begin(inhibitor.keep, "suspend inhibitor")

    def reloading(self) -> None:
        """Until `reloaded`."""
        if self._is_draining:
            return
        now_usec = microseconds(self._clock.now_s())
        self._notifier.tell_state(RELOADING="1", MONOTONIC_USEC=now_usec)

    def reloaded(self, note: str = "") -> None:
        """`note`: what an operator is to know of it, until the next time."""
        self._note = note
        if self._is_draining:
            return
        self._notifier.tell_state(READY="1", STATUS=self._status())

    def draining(self, drain_s: float) -> None:
        """It takes no new work, and ends within about so many seconds."""
        self._is_draining = True
        extended = microseconds(drain_s + DRAIN_MARGIN_S)
        self._notifier.tell_state(STOPPING="1", EXTEND_TIMEOUT_USEC=extended, STATUS=self._status())

    async def close(self) -> None:
        """Nothing is told, and the host not kept awake, any more."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._notifier.close()

    # ── Inside ───────────────────────────────────────────────────────────────────────────────────

    def _begin(self, work: _Work, name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._kept(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _kept(self, work: _Work, name: str) -> None:
        """A defect here must not end the daemon; that of the watchdog ends its feeding."""
        try:
            await work()
        except Exception:
            self._log.exception(f"the {name} has failed")

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            status = self._status()
            told = self._extension()
            if status != self._told_status:
                told["STATUS"] = status
            if told and self._notifier.tell(**told):
                self._told_status = status

    def _feed(self) -> bool:
        return self._notifier.tell(WATCHDOG="1")

    def _status(self) -> str:
        models = self._work.status()
        if self._is_draining:
            return f"draining: {load(models)}"
        return describe(models, note=self._note)

    def _extension(self) -> dict[str, str]:
        """Loading may take minutes. Who is not well is given no more time: it would be as good as
        feeding the watchdog."""
        now_s = self._clock.now_s()
        is_loading = any(model.state is ModelState.LOADING for model in self._work.status())
        is_well = self._watchdog is None or self._watchdog.is_well
        is_due = now_s - self._extended_at_s >= EXTEND_EVERY_S
        if not (is_loading and is_well and is_due) or self._is_draining:
            return {}
        self._extended_at_s = now_s
        return {"EXTEND_TIMEOUT_USEC": microseconds(EXTEND_S)}
