"""What the library costs to import, and that it offers what it says."""

import subprocess
import sys

import pytest

import edged.client

HEAVY = ("pydantic", "zeroconf", "cryptography", "structlog", "jinja2", "psutil", "rich", "typer")
DAEMON = ("daemon", "startup", "rpc", "supervise", "engine", "config", "simulate", "cli", "log")
LOOK = """
import sys
{statement}
heavy = {heavy!r}
print(*sorted(name for name in sys.modules if name in heavy), sep=",")
"""


def imported_by(statement: str, names: tuple[str, ...]) -> list[str]:
    """Which of `names` a program has imported after it."""
    code = LOOK.format(statement=statement, heavy=names)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return [name for name in done.stdout.strip().split(",") if name]


@pytest.mark.parametrize(
    "statement",
    [
        "from edged.client import *",
        "from edged.client import Client; Client('127.0.0.1:1', retry=None).close()",
    ],
)
def test_a_program_pays_for_no_more_than_it_uses(statement: str) -> None:
    assert imported_by(statement, (*HEAVY, *(f"edged.{name}" for name in DAEMON))) == []


def test_the_package_alone_costs_nothing() -> None:
    assert imported_by("import edged.client", ("grpc", "asyncio", "google.protobuf")) == []


def test_a_plain_connection_needs_no_certificates() -> None:
    statement = (
        "from edged.client.connect.channel import open_channel\n"
        "from edged.client.connect.target import Plaintext, Target\n"
        "open_channel(Target('x', '127.0.0.1:1', Plaintext())).close()"
    )
    assert imported_by(statement, HEAVY) == []


def test_everything_that_is_offered_is_there() -> None:
    for name in edged.client.__all__:
        assert getattr(edged.client, name) is not None
        assert name in dir(edged.client)
    offered = {name for names in edged.client._MODULES.values() for name in names}
    assert offered == set(edged.client.__all__)


def test_what_is_not_offered_is_told() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Manager'"):
        getattr(edged.client, "Manager")  # noqa: B009  # mypy knows that it is not there
