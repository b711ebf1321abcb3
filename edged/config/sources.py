"""Reads the two sources that edged does not control itself: the TOML file and the environment."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from edged.config.layers import Origin, SourceKind, Table, merge, single, table
from edged.errors import ConfigError

PREFIX = "EDGED_"
SEPARATOR = "__"
FILE_VARIABLE = "EDGED_CONFIG"
TOP_LEVEL_VARIABLES = frozenset({"EDGED_DEFAULT_MODEL"})
"""Settings that stand in no section. Any other variable without `__` is none of ours."""

MAX_FILE_BYTES = 1024 * 1024


def find_file(
    named: Path | None, environ: Mapping[str, str], candidates: Sequence[Path]
) -> Path | None:
    """The file to read: the one named, else $EDGED_CONFIG, else the first candidate that exists.

    Raises:
        ConfigError: a file that was named, by argument or variable, does not exist.
    """
    by_variable = environ.get(FILE_VARIABLE, "")
    chosen = named or (Path(by_variable) if by_variable else None)
    if chosen is None:
        return next((path for path in candidates if _is_there(path)), None)
    if not _is_there(chosen):
        who = "" if named else f"variable {FILE_VARIABLE}: "
        raise ConfigError(f"{who}there is no file {str(chosen)!r} that this user can reach")
    return chosen


def _is_there(path: Path) -> bool:
    """Not so in a directory that this user may not enter."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def read_file(path: Path) -> Table:
    """The settings of one TOML file.

    Raises:
        ConfigError: unreadable, larger than 1 MiB, not UTF-8 or not TOML, with line and column.
    """
    origin = Origin(SourceKind.FILE, str(path))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{origin}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{origin}: is larger than {MAX_FILE_BYTES} bytes")
    try:
        return table(tomllib.loads(content.decode()), origin)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{origin}: is not UTF-8, at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: is not TOML: {error}") from error


def read_environment(environ: Mapping[str, str], section_of: Mapping[str, str]) -> Table:
    """The settings in `EDGED_SECTION__KEY` variables, names in lower case. `section_of` has the
    section of each key that is in one.

    Raises:
        ConfigError: two variables give one key as a section and as a single value, or one is named
            as a key without its section.
    """
    found = Table(Origin(SourceKind.ENVIRONMENT))
    for variable, text in sorted(environ.items()):
        rest = variable.removeprefix(PREFIX)
        if rest == variable:
            continue
        if SEPARATOR not in rest and variable not in TOP_LEVEL_VARIABLES:
            _check_has_section(variable, rest.lower(), section_of)
            continue
        key = tuple(rest.lower().split(SEPARATOR))
        origin = Origin(SourceKind.ENVIRONMENT, variable)
        found = merge(found, single(key, parse_value(text), origin))
    return found


def _check_has_section(variable: str, name: str, section_of: Mapping[str, str]) -> None:
    """A variable without `__` is somebody else's, unless it is named as a setting."""
    if name in section_of:
        meant = f"{PREFIX}{section_of[name].upper()}{SEPARATOR}{name.upper()}"
        raise ConfigError(f"variable {variable}: a setting has its section first: {meant}")


def parse_value(text: str) -> object:
    """A TOML value where `text` is exactly one, else the text itself."""
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # A line break in the text could end the value and add keys of its own.
    return document["value"] if document.keys() == {"value"} else text
