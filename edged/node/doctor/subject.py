"""What is examined: a machine, the configuration that a daemon would have, and one that runs.

Theory of operation: the daemon may be a service of the system while the one who asks is a user. So
where the service is installed, and who asks has no configuration of their own, "auto" means the
service's directories, not those of the user.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edged import places
from edged.config import ModelSettings, Settings, load_settings
from edged.config.sources import find_file
from edged.config.values import AUTO, listen_addresses
from edged.errors import ConfigError
from edged.node.doctor.host import Host, User
from edged.node.doctor.unit import UNIT, Unit, system_unit

UNIT_FOLDERS = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
SERVICE_ENVIRON: Mapping[str, str] = {
    "RUNTIME_DIRECTORY": "/run/edged",
    "STATE_DIRECTORY": "/var/lib/edged",
    "CACHE_DIRECTORY": "/var/cache/edged",
}
"""What systemd tells the service."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """As a running daemon tells of it."""

    name: str
    state: str
    failure: str = ""
    num_engine_losses: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Silent:
    """No daemon answered."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A daemon answered, and told nothing."""

    at: str
    why: str


@dataclass(frozen=True, slots=True)
class Running:
    """A daemon answered."""

    at: str
    version: str
    state: str
    listeners: tuple[str, ...] = ()
    models: tuple[ModelSeen, ...] = ()
    warnings: tuple[str, ...] = ()
    is_local: bool = True
    """It runs on this machine: what another's listens on and has is as if it were nothing here."""


Answer = Silent | Refused | Running


@dataclass(frozen=True, slots=True)
class Subject:
    host: Host
    version: str
    """Of this edged."""
    settings: Settings | None
    """None: the configuration is unusable, or hidden."""
    file: Path | None
    """The configuration file that was read, or could not be."""
    config_problems: tuple[str, ...]
    environ: Mapping[str, str]
    """Of the daemon, as far as it is known."""
    wants_lan: bool
    """Asked for by the user, whatever is configured."""
    ask_usual: Callable[[], Answer]
    """Ask the daemon that edgectl would talk to."""
    ask_at: Callable[[str], Answer]
    """Ask what listens on HOST:PORT or unix:PATH, without TLS."""
    ask_unit: Callable[[], Unit]
    """Ask systemd what it makes of the service's unit."""
    is_hidden: bool = False
    """The service's configuration is, from who asks: it says nothing about the service."""

    @property
    def is_service(self) -> bool:
        return "STATE_DIRECTORY" in self.environ

    @property
    def unit(self) -> Unit | None:
        """None: the daemon is started by hand, or by what does not confine it."""
        return self.ask_unit() if self.is_service else None

    @property
    def user(self) -> User:
        """Whom the daemon runs as."""
        unit = self.unit
        return self.host.user if unit is None else self.host.user_named(unit.user, unit.groups)

    def outside(self, path: str | Path) -> Path:
        """Where a file that the daemon names is on the host."""
        unit = self.unit
        return Path(path) if unit is None else unit.outside(Path(path))

    @property
    def local_daemon(self) -> Running | None:
        """The one that answers, if what it does is proof about this machine."""
        answer = self.ask_usual()
        return answer if isinstance(answer, Running) and answer.is_local else None

    def has_ready(self, model: str) -> bool:
        """Whether this daemon runs, and that model in it."""
        running = self.local_daemon
        own = {f"unix:{self.socket}", *self.listens}
        return (
            running is not None
            and not own.isdisjoint((running.at, *running.listeners))
            and any(one.name == model and one.state == "ready" for one in running.models)
        )

    @property
    def listens(self) -> tuple[str, ...]:
        return () if self.settings is None else listen_addresses(self.settings.server.listen)

    @property
    def network_listens(self) -> tuple[str, ...]:
        """Those that other hosts can reach."""
        return tuple(one for one in self.listens if not places.is_loopback(one.rpartition(":")[0]))

    @property
    def uses_lan(self) -> bool:
        is_discovered = self.settings is not None and self.settings.server.discovery
        return self.wants_lan or is_discovered or bool(self.network_listens)

    @property
    def state_directory(self) -> Path | None:
        if self.settings is None:
            return None
        given = self.settings.server.state_directory
        return places.state_directory(self.environ) if given == AUTO else Path(given)

    @property
    def socket(self) -> Path | None:
        if self.settings is None or not self.settings.server.socket:
            return None
        given = self.settings.server.socket
        return places.daemon_socket(self.environ) if given == AUTO else Path(given)

    @property
    def models(self) -> Mapping[str, ModelSettings]:
        return {} if self.settings is None else self.settings.models

    def backend_of(self, model: ModelSettings) -> str:
        """As the daemon chooses it."""
        if model.engine.backend != AUTO:
            return model.engine.backend
        return "mlx" if self.host.is_dir(self.outside(model.path)) else "llama_cpp"

    @property
    def backends(self) -> frozenset[str]:
        """Those that the configured models need; without a configuration, the usual one."""
        if self.settings is None:
            return frozenset({"llama_cpp"})
        return frozenset(self.backend_of(model) for model in self.models.values())


def examined(
    host: Host,
    version: str,
    *,
    config_file: Path | None,
    wants_lan: bool,
    ask_usual: Callable[[], Answer],
    ask_at: Callable[[str], Answer],
) -> Subject:
    """Read the configuration as `edged serve` would; what is wrong with it is kept to be told."""
    settings: Settings | None = None
    file, problems = config_file, tuple[str, ...]()
    system_file = host.path(places.SYSTEM_CONFIG_FILE)
    is_service = is_hidden = False
    try:
        file = find_file(config_file, host.environ, _candidates(host))
        # Without a file both would have the defaults, and it is the service that was installed.
        is_service = file in (None, system_file) and _has_unit(host)
        is_hidden = is_service and _hides_configuration(host)
        if is_hidden:
            file = system_file
        else:
            settings = load_settings((), host.environ, file, candidates=()).settings
    except ConfigError as error:
        problems = tuple(error.detail.splitlines())
    return Subject(
        host=host,
        version=version,
        settings=settings,
        file=file,
        config_problems=problems,
        environ={**host.environ, **(SERVICE_ENVIRON if is_service else {})},
        wants_lan=wants_lan,
        ask_usual=ask_usual,
        ask_at=ask_at,
        ask_unit=once(lambda: system_unit(host)),
        is_hidden=is_hidden,
    )


def once(ask: Callable[[], _Answer]) -> Callable[[], _Answer]:
    """Ask when the first check wants to know; the others, in their threads, get the same answer."""
    lock = threading.Lock()
    answers: list[_Answer] = []

    def answer() -> _Answer:
        with lock:
            if not answers:
                answers.append(ask())
        return answers[0]

    return answer


def _candidates(host: Host) -> tuple[Path, ...]:
    return tuple(host.path(path) for path in places.config_files(host.environ))


def _hides_configuration(host: Host) -> bool:
    """The system's file, or the directory that it is in, from who asks."""
    file = places.SYSTEM_CONFIG_FILE
    if host.is_dir(file.parent) and not host.may("enter", host.path(file.parent)):
        return True
    return host.exists(file) and not host.may("read", host.path(file))


def _has_unit(host: Host) -> bool:
    return any(host.exists(f"{folder}/{UNIT}") for folder in UNIT_FOLDERS)
