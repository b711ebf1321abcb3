"""What the service manager hears, over a real socket, in the life of a real daemon and before."""

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edged.node.service.manager import (
    MAX_STATUS_CHARACTERS,
    MAX_UNSENT,
    ServiceNotifier,
    take_from,
)
from tests.e2e.daemon import serving
from tests.e2e.settings import sim_tables
from tests.e2e.streams import ask
from tests.node.service_socket import ServiceSocket, service_socket

ADDRESSES = pytest.mark.parametrize("is_abstract", [False, True], ids=["path", "abstract"])


def address_of(folder: Path, *, is_abstract: bool) -> str:
    return f"@edged-test-{folder.name}-{time.monotonic_ns()}" if is_abstract else f"{folder}/notify"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceSocket]:
    with service_socket(tmp_path / "notify") as listening:
        yield listening


@pytest.fixture
def notifier(manager: ServiceSocket) -> Iterator[ServiceNotifier]:
    made = ServiceNotifier(manager.address)
    yield made
    made.close()


# ── The protocol ─────────────────────────────────────────────────────────────────────────────────


@ADDRESSES
def test_what_is_told_arrives_as_assignments(is_abstract: bool, tmp_path: Path) -> None:
    with service_socket(address_of(tmp_path, is_abstract=is_abstract)) as manager:
        notifier = ServiceNotifier(manager.address)
        assert notifier.is_heard
        notifier.tell_state(READY="1", STATUS="two\nlines are\tone")
        assert notifier.tell(WATCHDOG="1")
        notifier.close()
        assert manager.rest() == [{"READY": "1", "STATUS": "two lines are one"}, {"WATCHDOG": "1"}]


@pytest.mark.parametrize("address", ["", "relative/path", "vsock:2:1234"])
def test_nobody_is_told_where_there_is_no_socket(address: str) -> None:
    notifier = ServiceNotifier(address)
    assert not notifier.is_heard
    notifier.tell_state(READY="1")
    notifier.tell(WATCHDOG="1")
    notifier.close()


def test_socket_that_is_gone_harms_nothing(tmp_path: Path) -> None:
    with service_socket(tmp_path / "notify") as manager:
        notifier = ServiceNotifier(manager.address)
    notifier.tell_state(READY="1")
    (tmp_path / "notify").unlink()
    notifier.tell_state(STOPPING="1")
    notifier.close()
    notifier.tell(WATCHDOG="1")


def test_status_has_a_limit(manager: ServiceSocket, notifier: ServiceNotifier) -> None:
    notifier.tell(STATUS="é" * 10_000)
    assert manager.rest() == [{"STATUS": "é" * MAX_STATUS_CHARACTERS}]


def fill(manager: ServiceSocket) -> None:
    """Until nobody can send to it any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"FILLER=1", manager.address)


def test_change_of_state_waits_for_room_and_the_rest_is_dropped(
    manager: ServiceSocket, notifier: ServiceNotifier
) -> None:
    fill(manager)
    notifier.tell_state(READY="1")
    assert not notifier.tell(STATUS="lost")
    notifier.tell_state(STOPPING="1")
    manager.rest()
    assert not manager.told("READY"), "there was no room for it"
    assert notifier.tell(WATCHDOG="1")
    told = [heard for heard in manager.rest() if "FILLER" not in heard]
    assert told == [{"READY": "1"}, {"STOPPING": "1"}, {"WATCHDOG": "1"}]


def test_changes_that_wait_are_limited(manager: ServiceSocket, notifier: ServiceNotifier) -> None:
    fill(manager)
    for number in range(MAX_UNSENT + 3):
        notifier.tell_state(STATUS=str(number))
    manager.rest()
    # The socket's own queue may be shorter than what waited.
    while not notifier.tell(WATCHDOG="1"):
        manager.rest()
    manager.rest()
    assert manager.told("STATUS") == [str(number) for number in range(3, MAX_UNSENT + 3)]


def test_variables_are_taken_from_the_environment() -> None:
    environ = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "2", "HOME": "/h"}
    assert take_from(environ) == {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "2"}
    assert environ == {"HOME": "/h"}
    assert take_from(environ) == {}


# ── The life of a daemon ─────────────────────────────────────────────────────────────────────────


@ADDRESSES
async def test_daemon_tells_its_life_in_order(is_abstract: bool, tmp_path: Path) -> None:
    address = address_of(tmp_path, is_abstract=is_abstract)
    tables = sim_tables(server={"drain_s": 20.0}, load_s=2.5, step_s=0.02)
    with service_socket(address) as manager:
        variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
        async with serving(tmp_path, tables, **variables) as daemon:
            await manager.until_told("READY")
            assert "listening" in [line["event"] for line in daemon.log]
            loading = await manager.until_told("STATUS", "loading sim, ")
            assert loading["STATUS"].endswith(" %")
            await manager.until_told("STATUS", "serving 1 model, 0 requests running, 0 waiting")
            running = daemon.generate(ask("running", max_tokens=150))
            await running.tokens(3)
            await manager.until_told("STATUS", "1 request running, 0 waiting")
            engine = psutil.Process(daemon.engine_pids[0])
            assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & engine.environ().keys()
            daemon.signal(signal.SIGTERM)
            stopping = await manager.until_told("STOPPING")
            assert stopping["EXTEND_TIMEOUT_USEC"] == "50000000"
            assert stopping["STATUS"].startswith("draining: 1 request running")
            assert len((await running.end()).token_ids) == 150
            assert await daemon.exit_code() == 0
        heard = manager.rest()
    states = [name for one in heard for name in ("READY", "STOPPING") if name in one]
    assert states == ["READY", "STOPPING"]
    first = heard[0]
    assert first == {"STATUS": "starting", "EXTEND_TIMEOUT_USEC": "15000000"}
    extended = [one for one in heard[1:] if "EXTEND_TIMEOUT_USEC" in one and "STOPPING" not in one]
    assert extended, "loading is given time"
    assert manager.told("WATCHDOG"), "it is fed"


async def test_daemon_without_a_service_manager_that_listens_serves(tmp_path: Path) -> None:
    variables = {"NOTIFY_SOCKET": f"{tmp_path}/nobody", "WATCHDOG_USEC": "1000000"}
    async with serving(tmp_path, sim_tables(), **variables) as daemon:
        assert (await daemon.generate(ask("served", max_tokens=3)).end()).finished
