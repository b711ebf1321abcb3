"""Nested tables in which every value remembers who gave it, and how they are merged.

Theory of operation: each source of settings becomes one `Table`. Tables are merged pairwise,
stronger over weaker, value by value; a value that loses is forgotten, so what is left knows exactly
one origin for every key. Nothing here knows which keys exist: `edged.config.settings` does.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from edged.errors import ConfigError

Key = tuple[str, ...]
"""A setting's place: ("tiers", "batch", "min_share")."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MAX_SHOWN_CHARACTERS = 120


class SourceKind(StrEnum):
    """Kinds of source, strongest first."""

    FLAG = "flag"
    ENVIRONMENT = "variable"
    FILE = "file"
    DEFAULT = "default"


_STRENGTH: Mapping[SourceKind, int] = {kind: -place for place, kind in enumerate(SourceKind)}


@dataclass(frozen=True, slots=True)
class Origin:
    """Who gave a value."""

    kind: SourceKind
    name: str = ""
    """The flag, the variable or the file; empty for a default."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else str(self.kind)


DEFAULT = Origin(SourceKind.DEFAULT)


@dataclass(frozen=True, slots=True)
class Leaf:
    value: object
    origin: Origin


@dataclass(frozen=True, slots=True)
class Table:
    """A section. `origin` is the strongest source that mentions it."""

    origin: Origin
    entries: Mapping[str, "Node"] = field(default_factory=dict)


Node = Leaf | Table


def table(values: Mapping[str, object], origin: Origin) -> Table:
    """Every nested mapping becomes a table; everything else is a value, lists included."""
    entries: dict[str, Node] = {}
    for name, value in values.items():
        entries[name] = _node(value, origin)
    return Table(origin, entries)


def _node(value: object, origin: Origin) -> Node:
    return table(value, origin) if isinstance(value, Mapping) else Leaf(value, origin)


def single(key: Key, value: object, origin: Origin) -> Table:
    """A table that holds one value at `key`."""
    node = _node(value, origin)
    for name in reversed(key):
        node = Table(origin, {name: node})
    assert isinstance(node, Table), "a key has at least one step"
    return node


def merge(strong: Table, weak: Table, at: Key = (), *, strong_first: bool = True) -> Table:
    """`strong` over `weak`; entries of `strong` come first, or those of `weak`, each in its order.

    Raises:
        ConfigError: one has a section where the other has a single value.
    """
    entries = dict(strong.entries) if strong_first else {**weak.entries, **strong.entries}
    for name, below in weak.entries.items():
        above = strong.entries.get(name)
        if above is None:
            entries[name] = below
        elif isinstance(above, Table) and isinstance(below, Table):
            entries[name] = merge(above, below, (*at, name), strong_first=strong_first)
        elif isinstance(above, Table) or isinstance(below, Table):
            raise ConfigError(_clash((*at, name), above, below))
    return Table(strong.origin, entries)


def _clash(key: Key, above: Node, below: Node) -> str:
    if below.origin.kind is SourceKind.DEFAULT:
        expected = "a section" if isinstance(below, Table) else "a single value"
        shown = f" = {show_value(above.value)}" if isinstance(above, Leaf) else ""
        return f"{above.origin}: {show_key(key)}{shown}: expected {expected}"
    section, value = (above, below) if isinstance(above, Table) else (below, above)
    return (
        f"{value.origin}: {show_key(key)} is a single value, "
        f"but it is a section in {section.origin}"
    )


def overlay(specific: Table, general: Table) -> Table:
    """What holds for one thing when something is also said about all things of its kind.

    A stronger source wins even where it speaks of all: a flag beats what the file says about one
    model. Within one kind of source, and for shapes that differ, the specific one wins.
    """
    entries: dict[str, Node] = dict(general.entries)
    for name, own in specific.entries.items():
        shared = entries.get(name)
        if isinstance(own, Table) and isinstance(shared, Table):
            entries[name] = overlay(own, shared)
        elif isinstance(own, Leaf) and isinstance(shared, Leaf):
            own_wins = _STRENGTH[own.origin.kind] >= _STRENGTH[shared.origin.kind]
            entries[name] = own if own_wins else shared
        else:
            entries[name] = own
    return Table(specific.origin, entries)


def plain(node: Node) -> object:
    """The values without their origins."""
    if isinstance(node, Leaf):
        return node.value
    return {name: plain(entry) for name, entry in node.entries.items()}


def nearest(root: Table, key: Key) -> tuple[Node, bool]:
    """The node at `key`, or the deepest one above it; and whether it is the one at `key`."""
    node: Node = root
    for name in key:
        if isinstance(node, Leaf) or name not in node.entries:
            return node, False
        node = node.entries[name]
    return node, True


def leaves(node: Node, at: Key = ()) -> Iterator[tuple[Key, Leaf]]:
    if isinstance(node, Leaf):
        yield at, node
        return
    for name, entry in node.entries.items():
        yield from leaves(entry, (*at, name))


def show_key(key: Key) -> str:
    """A key as TOML writes it: names with other than letters, digits, _ and - are quoted."""
    return ".".join(name if _BARE_KEY.fullmatch(name) else json.dumps(name) for name in key)


def show_value(value: object, max_characters: int | None = _MAX_SHOWN_CHARACTERS) -> str:
    """A value as TOML writes it; "none" for an absent one; cut to `max_characters` if given."""
    text = _toml(value)
    if max_characters is None or len(text) <= max_characters:
        return text
    return text[: max_characters - 1] + "…"


def _toml(value: object) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are a subset of those of TOML's basic strings, but for U+007F.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{show_key((str(k),))} = {_toml(v)}" for k, v in value.items())
        return "{" + (f" {pairs} " if pairs else "") + "}"
    return str(value)
