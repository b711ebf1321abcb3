"""The daemon: builds its parts, wires them, runs them, drains them.

Theory of operation: one asyncio loop owns everything here. The daemon listens before any model is
loaded, so that clients see progress instead of a refused connection. It never imports a runtime:
every model lives in a process of its own.

| state | while | health | new work |
|---|---|---|---|
| LOADING | no model serves, one is loading | SERVING | held for its model |
| READY | a model serves | SERVING | taken |
| READY | none serves, one waits for LoadModel | NOT_SERVING | refused: MODEL_UNLOADED |
| FAILED | every model has failed | NOT_SERVING | refused, with the reason |
| DRAINING | SIGTERM, SIGINT or Drain came | NOT_SERVING | refused |

DRAINING is final: running work has `drain_s` to finish, is then cancelled, and the process exits
with 0. A second signal cancels at once. SIGHUP reads the configuration again (`edged.reload`), but
that of a terminal which was closed: the daemon in it drains.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from edged import __version__
from edged.clock import Clock, MonotonicClock
from edged.config import Settings
from edged.core.types import SloTier
from edged.log import configure_logging, get_logger
from edged.node.service.host import Host
from edged.node.service.manager import take_from
from edged.reload import Parts, Reloader
from edged.rpc.convert import Tiers
from edged.rpc.server import RpcServer
from edged.rpc.view import DaemonState, DaemonView, ReloadReport
from edged.startup import model_specs, rpc_settings, service_name, tier_specs, trust
from edged.supervise.fleet import Fleet
from edged.supervise.model import ModelState, ModelStatus

if TYPE_CHECKING:
    from edged.node.lan.advertise import Advertiser

STOP_GRACE_S = 2.0
"""For calls that are still open when every request has ended."""

_SERVES = frozenset({ModelState.READY, ModelState.RESTARTING})
_TAKES_WORK = _SERVES | {ModelState.LOADING}
_MAY_SERVE = frozenset({ModelState.UNLOADED, ModelState.UNLOADING})


def run(settings: Settings, read: Callable[[], Settings]) -> int:
    """Serve until a signal or a Drain call, then drain; the process's exit code. `read` is called
    for the settings of a reload.

    Raises:
        EdgedError: the daemon cannot start: an address is taken.
    """
    configure_logging(settings.server.log_level, settings.server.log_format)
    return asyncio.run(Daemon(settings, read, MonotonicClock()).serve())


class Daemon:
    """Made and served once."""

    def __init__(self, settings: Settings, read: Callable[[], Settings], clock: Clock) -> None:
        self._settings = settings
        """Those of the start; the reloader has those of now."""
        self._read = read
        self._clock = clock
        self._log = get_logger("daemon")
        self._started_s = clock.now_s()
        self._is_draining = False
        self._asked_drain_s: float | None = None
        """None: as configured."""
        self._drain_requested = asyncio.Event()
        self._drain_hurried = asyncio.Event()
        self._service_variables = take_from(os.environ)
        self._advertiser: Advertiser | None = None

    async def serve(self) -> int:
        """The whole life of the daemon. Raises EdgedError if it cannot start."""
        reloader = Reloader(self._settings, self._read)
        self._watch_signals(reloader)
        specs = model_specs(self._settings, os.environ)
        fleet = Fleet(specs, self._settings.default_model, self._clock)
        host = Host(self._service_variables, fleet, self._clock)
        server = self._server(fleet, reloader.reload)
        await server.start()
        self._log.info("listening", version=__version__, listeners=list(server.listeners))
        health = asyncio.create_task(self._keep_health(fleet, server), name="health")
        advertiser = self._advertiser = self._started_advertiser(server)
        try:
            for name, model in self._settings.models.items():
                if model.preload and not self._is_draining:
                    await fleet.load(name)
            host.listening()
            reloader.begin(Parts(fleet, server, host))
            host.inhibit_suspend(inhibits=self._settings.server.inhibit_suspend)
            await self._drain_requested.wait()
            server.set_serving(False)
            asked_s, usual_s = self._asked_drain_s, reloader.settings.server.drain_s
            drain_s = usual_s if asked_s is None else asked_s
            host.draining(drain_s)
            if advertiser is not None:
                # Before anything is refused: who looks for a daemon now shall not find this one.
                await advertiser.stop()
            await self._drain(fleet, drain_s)
        finally:
            health.cancel()
            if advertiser is not None:
                await advertiser.stop()
            await server.stop(STOP_GRACE_S)
            await host.close()
        self._log.info("stopped")
        return 0

    def request_drain(self, drain_s: float | None = None) -> None:
        """Begin to drain, within `drain_s` (None: as configured); a second time, hurry."""
        if self._is_draining:
            self._drain_hurried.set()
            return
        self._is_draining = True
        self._asked_drain_s = drain_s
        self._drain_requested.set()

    def _server(self, fleet: Fleet, reload: Callable[[], Awaitable[ReloadReport]]) -> RpcServer:
        view = DaemonView(
            version=__version__,
            policy=self._settings.scheduler.policy,
            started_s=self._started_s,
            state=lambda: daemon_state(fleet.status(), is_draining=self._is_draining),
            listeners=lambda: server.listeners,
            request_drain=self.request_drain,
            reload=reload,
            name=self._name,
            is_advertised=self._is_advertised,
            warnings=lambda: server.warnings,
        )
        tiers = Tiers(tier_specs(self._settings), SloTier(self._settings.server.default_tier))
        server = RpcServer(
            rpc_settings(self._settings, os.environ),
            fleet,
            tiers,
            view,
            self._clock,
            trust=trust(self._settings, os.environ),
        )
        return server

    def _started_advertiser(self, server: RpcServer) -> "Advertiser | None":
        """None where the local network is not to be told."""
        if not self._settings.server.discovery:
            return None
        # Multicast DNS is imported by those who want it.
        from edged.node.lan.advertise import Advertiser  # noqa: PLC0415
        from edged.node.lan.dns_sd import Auth, ServiceText  # noqa: PLC0415

        def text() -> ServiceText:
            auth = Auth.NONE if self._settings.server.insecure else Auth.TOKEN
            identity = server.identity
            return ServiceText(__version__, auth, "" if identity is None else identity.fingerprint)

        name = service_name(self._settings)
        advertiser = Advertiser(name, server.network_listeners, text, self._clock)
        advertiser.start()
        return advertiser

    def _name(self) -> str:
        """The one that others are told, which may have had to give way, or the configured one."""
        told = None if self._advertiser is None else self._advertiser.told
        return service_name(self._settings) if told is None else told.name

    def _is_advertised(self) -> bool:
        return self._advertiser is not None and self._advertiser.told is not None

    def _watch_signals(self, reloader: Reloader) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request_drain)
        terminals = [fd for fd in (0, 1, 2) if os.isatty(fd)]

        def hang_up() -> None:
            if all(os.isatty(fd) for fd in terminals):
                reloader.ask()
            else:
                self.request_drain()

        loop.add_signal_handler(signal.SIGHUP, hang_up)

    async def _keep_health(self, fleet: Fleet, server: RpcServer) -> None:
        """Health follows the models until the daemon drains: it says whether a Generate is taken,
        which waits for a model that is loading or restarting."""
        known: DaemonState | None = None
        while not self._is_draining:
            models = fleet.status()
            state = daemon_state(models, is_draining=False)
            if state is not known:
                known = state
                self._log.info("daemon state", state=state.value)
            server.set_serving(any(model.state in _TAKES_WORK for model in models))
            await fleet.wait_for_change()

    async def _drain(self, fleet: Fleet, drain_s: float) -> None:
        """Let running work finish; a second request to drain cancels it."""
        self._log.info("draining", drain_s=drain_s, requests=fleet.num_in_flight)
        draining = asyncio.create_task(fleet.drain(drain_s), name="drain")
        hurried = asyncio.create_task(self._drain_hurried.wait(), name="hurry")
        await asyncio.wait((draining, hurried), return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            self._log.warning("asked to stop again: cancelling what runs")
            await fleet.drain(0.0)
        hurried.cancel()
        await draining


def daemon_state(models: Sequence[ModelStatus], *, is_draining: bool) -> DaemonState:
    """The table above, as a function."""
    states = {model.state for model in models}
    if is_draining:
        return DaemonState.DRAINING
    if states & _SERVES:
        return DaemonState.READY
    if ModelState.LOADING in states:
        return DaemonState.LOADING
    return DaemonState.READY if states & _MAY_SERVE else DaemonState.FAILED
