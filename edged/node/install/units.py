"""Fills in what the shipped units and the launchd agent leave open: paths, and groups of the host.

Theory of operation: the files are complete as they stand, for a program in /opt/edged. What differs
on a host is replaced, and nothing else, so that they can be read and checked where they are.
"""

import plistlib
from collections.abc import Sequence
from pathlib import Path

PLACED_PROGRAM = "/opt/edged/bin/edged"
"""As the files have it."""
GPU_GROUPS = ("render", "video")
"""Own the device files of GPUs. A group that does not exist would fail the unit."""
_GROUPS_LINE = "#SupplementaryGroups=render video\n"


def filled_unit(text: str, program: Path, groups: Sequence[str] = ()) -> str:
    """A unit that starts `program`, with these groups beside its own."""
    command = f"ExecStart={PLACED_PROGRAM} "
    assert text.count(command) == 1, "a shipped unit starts the program once"
    text = text.replace(command, f"ExecStart={_escaped(program)} ")
    if groups:
        assert _GROUPS_LINE in text, "a shipped unit that takes groups has the place for them"
        text = text.replace(_GROUPS_LINE, f"SupplementaryGroups={' '.join(groups)}\n")
    return text


def filled_agent(content: bytes, program: Path, log: Path) -> str:
    """A launchd agent that runs `program` and logs to a file."""
    agent = plistlib.loads(content)
    agent["ProgramArguments"][0] = str(program)
    agent["StandardErrorPath"] = str(log)
    return plistlib.dumps(agent, sort_keys=False).decode()


def _escaped(program: Path) -> str:
    """A path as a word of a command: quoted, and without what systemd would replace."""
    text = str(program).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if any(character in text for character in " \t;'\"\\") else text
