"""How the tests have a daemon read its configuration again."""

import signal
from collections.abc import Mapping

from edged.v1 import admin_pb2
from tests.e2e.daemon import Daemon
from tests.e2e.settings import Tables, Value, write_config
from tests.e2e.streams import WAIT_S

STEP_S = 0.02
RELOADED, PROBLEMS = "configuration reloaded", "reload met problems"


def with_model(tables: Tables, name: str, **settings: Value) -> dict[str, Mapping[str, Value]]:
    return {**tables, f"models.{name}": {"path": "none", **settings}}


def rewrite(daemon: Daemon, tables: Tables) -> None:
    write_config(daemon.folder / "config.toml", tables)


async def hang_up(daemon: Daemon, event: str = RELOADED) -> dict[str, object]:
    """SIGHUP, and the line that says what came of it."""
    count = len(daemon.lines(event)) + 1
    daemon.signal(signal.SIGHUP)
    return await daemon.logged(event, count)


async def reload(daemon: Daemon, tables: Tables) -> admin_pb2.ReloadResponse:
    rewrite(daemon, tables)
    return await daemon.admin.Reload(admin_pb2.ReloadRequest(), timeout=WAIT_S)
