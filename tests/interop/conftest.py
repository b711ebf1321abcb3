"""Node.js, and a daemon that a client in it talks to."""

import pytest

from tests.interop.node import Node, install


@pytest.fixture(scope="session")
def node() -> Node:
    return install()
