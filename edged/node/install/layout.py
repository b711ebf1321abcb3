"""Where an installed edged has its files, as a service of the system or of one user."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edged import places

USER = "edged"
"""Of the service, and its group."""
UNIT = "edged.service"
AGENT = "org.edged.edged"
TREE_MARK = ".made-by-scripts-install"
"""A file in a virtual environment that is removed with the service."""
INSTALLED_FILES = "installed-*"
"""Pattern of files in an environment that scripts/install or scripts/bootstrap has completed."""
SYSTEM_TREE = Path("/opt/edged")
"""The environment of a service of the system."""


@dataclass(frozen=True, slots=True)
class Layout:
    """All of it on the root directory that it was made for."""

    unit: Path
    """The unit of systemd, or the agent of launchd."""
    programs: Path
    """Where links to the programs lie, so that a shell finds them."""
    config: Path
    tree: Path
    """The virtual environment that `scripts/install` makes."""
    state: tuple[Path, ...]
    """What the running service makes: state, cache, runtime, log."""
    kept: tuple[Path, ...]
    """What people made; they are told that it stays."""
    own_directories: tuple[Path, ...]
    """Removed when they are empty, in this order."""
    sysusers: Path | None = None


def system_layout(root: Path) -> Layout:
    etc = root / "etc"
    config = _on(root, places.SYSTEM_CONFIG_FILE)
    private = (root / "var/lib/private/edged", root / "var/cache/private/edged")
    return Layout(
        unit=etc / "systemd/system" / UNIT,
        programs=root / "usr/local/bin",
        config=config,
        tree=_on(root, SYSTEM_TREE),
        # With DynamicUser= the state is in a private directory, and a link in the usual place.
        state=(root / "var/lib/edged", root / "var/cache/edged", *private, root / "run/edged"),
        kept=(etc / f"systemd/system/{UNIT}.d", etc / "credstore/edged.tokens"),
        own_directories=(config.parent, etc / "sysusers.d"),
        sysusers=etc / "sysusers.d/edged.conf",
    )


def user_layout(root: Path, environ: Mapping[str, str], *, is_macos: bool) -> Layout:
    """Of the user whose HOME and XDG_… variables these are."""
    home = Path(environ["HOME"])
    config = places.config_files(environ)[0]
    units = config.parents[1] / "systemd" / "user"
    unit = home / "Library/LaunchAgents" / f"{AGENT}.plist" if is_macos else units / UNIT
    state = places.state_directory({**environ, "STATE_DIRECTORY": ""})
    cache = places.kv_directory({**environ, "CACHE_DIRECTORY": ""}).parent
    log = (agent_log(home),) if is_macos else ()
    runtime = places.user_socket(environ).parent
    dropins = () if is_macos else (units / f"{UNIT}.d",)
    return Layout(
        unit=_on(root, unit),
        programs=_on(root, home / ".local/bin"),
        config=_on(root, config),
        tree=_on(root, home / ".local/share/edged"),
        state=tuple(_on(root, path) for path in (state, cache, runtime, *log)),
        kept=tuple(_on(root, path) for path in (*dropins, places.peers_file(environ))),
        own_directories=(
            _on(root, config.parent),
            *(() if is_macos else (_on(root, units), _on(root, units.parent))),
        ),
    )


def agent_log(home: Path) -> Path:
    """Where launchd writes the log of an agent."""
    return home / "Library/Logs/edged.log"


def _on(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")
