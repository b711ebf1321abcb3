"""A network of three hosts, and daemons on them."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from tests.e2e.daemon import Daemon, serving
from tests.e2e.settings import Value, sim_tables
from tests.lan.network import Host, Network, local_network


class Advertise(Protocol):
    def __call__(
        self,
        host: Host,
        name: str,
        listen: str = "[::]:7411",
        *,
        options: Mapping[str, Value] | None = None,
        **server: Value,
    ) -> AbstractAsyncContextManager[Daemon]: ...


@pytest.fixture
def network() -> Iterator[Network]:
    with local_network(3) as made:
        yield made


@pytest.fixture
def advertise(tmp_path: Path) -> Advertise:
    """A daemon on a host, with `options` of the model without weights; handed over when it has told
    the network of itself."""

    @asynccontextmanager
    async def start(
        host: Host,
        name: str,
        listen: str = "[::]:7411",
        *,
        options: Mapping[str, Value] | None = None,
        **server: Value,
    ) -> AsyncIterator[Daemon]:
        folder = tmp_path / f"{host.number}-{listen.rpartition(':')[2]}"
        folder.mkdir()
        settings: Mapping[str, Value] = {
            "discovery": True,
            "name": name,
            "insecure": True,
            **server,
        }
        tables = sim_tables(server=settings, **(options or {}))
        async with serving(folder, tables, "--listen", listen, within=host.within) as daemon:
            await daemon.logged("advertised")
            yield daemon

    return start
