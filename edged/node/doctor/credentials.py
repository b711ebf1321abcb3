"""What systemd hands to the service as credentials, and where that is from.

Theory of operation: `systemctl cat` shows the lines of the unit and its drop-ins, of which the last
one for a name counts. What is given encrypted, from a socket or in the unit itself is there, and
cannot be read before the service runs. Without systemd the unit is taken to be as it is shipped,
which has its credentials from the stores.
"""

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from edged.node.doctor.host import Host
from edged.node.doctor.unit import UNIT

_LINE = re.compile(
    r"^[ \t]*(?P<how>Load|Set|Import)Credential(?P<encrypted>Encrypted)?[ \t]*=[ \t]*"
    r"(?P<name>[^:\s]*)(?::(?P<rest>.*?))?[ \t]*$",
    re.MULTILINE,
)
_STORES = (
    "/run/credentials/@system",
    "/etc/credstore",
    "/run/credstore",
    "/usr/local/lib/credstore",
    "/usr/lib/credstore",
)
"""In systemd's order: first what the machine itself was given, as by a manager of containers."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the unit says of a credential."""

    places: Sequence[Path] = ()
    """Files that it may be in as it is; the first that there is counts."""
    is_hidden: bool = False
    """Whether it may be given otherwise too, so that a missing file says nothing."""

    def source(self, host: Host) -> Path | None:
        return next((path for path in self.places if host.exists(path)), None)


def credential_source(host: Host, name: str) -> Path | None:
    """The file that the service is given under a name; None if that cannot be found, or is none
    that could be read, as an encrypted one."""
    return credential(host, name).source(host)


def credential(host: Host, name: str) -> Given:
    told = host.run("systemctl", "--system", "cat", UNIT)
    if told is None or not told.output:
        return Given(_places(name, None))
    loaded, is_otherwise = Given(), False
    for line in _LINE.finditer(told.output):
        if line["how"] != "Load":
            # One without a name takes back all before.
            is_otherwise = bool(line["name"]) and (is_otherwise or fnmatchcase(name, line["name"]))
        elif not line["name"]:
            loaded = Given()
        elif line["name"] == name:
            is_encrypted = line["encrypted"] is not None
            loaded = Given(is_hidden=True) if is_encrypted else Given(_places(name, line["rest"]))
    if any(_is_socket(host, place) for place in loaded.places[:1]):
        return Given(is_hidden=True)
    return Given(loaded.places, loaded.is_hidden or is_otherwise)


def _is_socket(host: Host, path: Path) -> bool:
    found = host.stat(path)
    return found is not None and stat.S_ISSOCK(found.st_mode)


def _places(name: str, given: str | None) -> Sequence[Path]:
    if given and given.startswith("/"):
        return (Path(given.replace("%%", "%")),)
    return tuple(Path(store) / (given or name) for store in _STORES)
