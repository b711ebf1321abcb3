"""What a command does not need, it does not import: a shell waits for each of them."""

import subprocess
import sys

import pytest

from tests.cli.program import WAIT_S

_HEAVY = ("grpc", "google.protobuf", "cryptography", "msgspec", "rich", "ssl")
_PRINTS_IMPORTED = """
import sys
from edged.cli.edgectl import app
sys.argv = ["edgectl", *sys.argv[1:]]
try:
    app()
finally:
    print(*sys.modules, sep="\\n", file=sys.stderr)
"""


def imported(arguments: tuple[str, ...], environ: dict[str, str]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _PRINTS_IMPORTED, *arguments],
        capture_output=True,
        env=environ,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    return {name for name in _HEAVY if name in done.stderr.splitlines()}


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("token", "--help"), ("pair", "--help"), ("token", "create", "--help")],
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...], environ: dict[str, str]) -> None:
    assert imported(arguments, environ) == set()


def test_what_is_in_files_needs_no_grpc(environ: dict[str, str]) -> None:
    assert imported(("pair", "--list"), environ) == {"msgspec"}
    assert "grpc" not in imported(("token", "list", "--file", "/nowhere"), environ)
