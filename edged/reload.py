"""Reading the configuration again while the daemon runs: what changes at once, what waits.

Theory of operation: SIGHUP and `AdminService.Reload` do the same, one at a time. The configuration
is read as it was at the start, from the same flags, variables and file, and checked as a whole;
tokens and certificate are read with it. If anything is wrong nothing changes. What the daemon runs
with is then that configuration, but for what it cannot change while it runs, which stays as it was
and is told again at each reload.

| setting | a new value holds |
|---|---|
| tiers, `default_model`, of the server those in `LIVE` | at once |
| a model that is new | at once: it is there, and loads if it is to be preloaded |
| a model that is gone | at once: it takes no new work, and ends what it has within `drain_s` |
| of a model `max_held`, `preload` | at once |
| anything else of a model | when it is loaded next |
| everything else | after a restart |
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from edged.config import Settings
from edged.config.changes import changes
from edged.config.layers import show_key, show_value
from edged.core.types import SloTier
from edged.errors import ConfigError, EdgedError, Reason
from edged.log import configure_logging, get_logger
from edged.node.service.host import Host
from edged.node.service.status import counted
from edged.rpc.convert import Tiers
from edged.rpc.convert_admin import waiting_warning
from edged.rpc.server import RpcServer
from edged.rpc.view import ReloadReport
from edged.startup import model_specs, tier_specs
from edged.supervise.fleet import SHUTTING_DOWN, Fleet
from edged.supervise.model import ModelStatus

LIVE = frozenset(
    {
        "default_tier",
        "drain_s",
        "inhibit_suspend",
        "log_format",
        "log_level",
        "max_backlog_tokens",
    }
)
"""Settings of [server] that can change while the daemon runs."""

ReadSettings = Callable[[], Settings]
"""Raises ConfigError: one line for each thing that is wrong."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a new configuration reaches."""

    fleet: Fleet
    server: RpcServer
    host: Host


class Reloader:
    """Belongs to the event loop."""

    def __init__(self, settings: Settings, read: ReadSettings) -> None:
        """Must be made on a running event loop."""
        self.settings = settings
        """What the daemon runs with."""
        self._read = read
        self._parts: asyncio.Future[Parts] = asyncio.get_running_loop().create_future()
        self._log = get_logger("reload")
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[ReloadReport]] = set()
        self._is_asked = False

    def begin(self, parts: Parts) -> None:
        """The daemon has started; what was asked for before is done now."""
        self._parts.set_result(parts)

    def ask(self) -> None:
        """Reload soon. Asked again before that has begun, it is done once."""
        if not self._is_asked:
            self._is_asked = True
            self._begin()

    async def reload(self) -> ReloadReport:
        """Goes on though the caller is cancelled.

        Raises:
            EdgedError: DRAINING.
        """
        if self._parts.done() and self._parts.result().fleet.is_draining:
            raise EdgedError(Reason.DRAINING, SHUTTING_DOWN)
        return await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[ReloadReport]:
        task = asyncio.create_task(self._reload(), name="reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _reload(self) -> ReloadReport:
        parts = await asyncio.shield(self._parts)
        async with self._turn:
            self._is_asked = False
            parts.host.reloading()
            report = await self._reloaded(parts)
            self._tell(report, parts.host)
            return report

    async def _reloaded(self, parts: Parts) -> ReloadReport:
        try:
            read = await asyncio.to_thread(self._read)
            if parts.fleet.is_draining:
                return ReloadReport(problems=(SHUTTING_DOWN,))
            # Before anything else, since it may be what is wrong.
            trust = parts.server.reload_trust()
            report = self._take_over(read, parts)
            return replace(report, changes=(*report.changes, *trust))
        except ConfigError as error:
            return ReloadReport(problems=tuple(error.detail.splitlines()))
        except Exception as error:  # a defect must not end a daemon that serves
            self._log.exception("reload failed")
            return ReloadReport(problems=(f"internal error: {type(error).__name__}",))

    def _tell(self, report: ReloadReport, host: Host) -> None:
        for waiting in report.waiting:
            self._log.warning("a setting waits", detail=waiting)
        if report.problems:
            self._log.error("reload met problems", problems=list(report.problems))
            number = counted(len(report.problems), "problem")
            host.reloaded(f"the last reload met {number}: see the log")
        else:
            self._log.info("configuration reloaded", changes=list(report.changes))
            host.reloaded()

    def _take_over(self, read: Settings, parts: Parts) -> ReloadReport:
        before = self.settings
        after = self.settings = with_live_of(read, before)
        server = after.server
        configure_logging(server.log_level, server.log_format)
        parts.server.replace_tiers(Tiers(tier_specs(after), SloTier(server.default_tier)))
        parts.fleet.configure(model_specs(after, os.environ), after.default_model)
        parts.host.inhibit_suspend(inhibits=server.inhibit_suspend)
        for name, model in after.models.items():
            if model.preload and name not in before.models:
                parts.fleet.load_soon(name)
        told = [str(change) for change in changes(before, after)]
        told += _changes_of_models(before, after)
        waiting = (*_restarts(after, read), *_waiting_models(parts.fleet.status()))
        return ReloadReport(tuple(told), waiting)


def with_live_of(read: Settings, running: Settings) -> Settings:
    """What was read, but for what cannot change while the daemon runs."""
    live = {name: getattr(read.server, name) for name in LIVE}
    server = running.server.model_copy(update=live)
    return read.model_copy(update={"server": server, "scheduler": running.scheduler})


def _restarts(after: Settings, read: Settings) -> Iterator[str]:
    """What was read and does not hold."""
    for change in changes(after, read):
        key, value = show_key(change.key), show_value(change.after)
        yield f"{key} = {value} holds after a restart; now it is {show_value(change.before)}"


def _changes_of_models(before: Settings, after: Settings) -> Iterator[str]:
    for name, model in after.models.items():
        if name not in before.models:
            yield f"model {name!r} is new" + (", and loads" if model.preload else "")
        elif model != before.models[name]:
            yield f"model {name!r} is configured otherwise"
    for name in (name for name in before.models if name not in after.models):
        yield (
            f"model {name!r} is removed: it takes no new requests, and what it has may take "
            f"{after.server.drain_s:g} s"
        )


def _waiting_models(models: Iterable[ModelStatus]) -> Iterator[str]:
    for status in models:
        if status.waiting_settings:
            yield f"model {status.name!r}: {waiting_warning(status)}"
