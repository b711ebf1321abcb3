"""Runs the installed programs `edgectl` and `edged` as the user does."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

WAIT_S = 40.0
"""Longest life of a program; reached only by a test that fails."""


@dataclass(frozen=True, slots=True)
class Program:
    """One installed program with the environment it gets: nothing of the test's own."""

    name: str
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return str(Path(sys.executable).with_name(self.name))

    def run(
        self, *arguments: str, stdin: str | bytes = b"", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        given = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [self.path, *arguments],
            input=given,
            capture_output=True,
            env={**self.environ, **environ},
            timeout=WAIT_S,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [self.path, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(self.environ),
        )
