"""Merging nested tables that remember who gave each value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.config import layers
from edged.config.layers import Key, Leaf, Origin, SourceKind, Table
from edged.errors import ConfigError

FLAG = Origin(SourceKind.FLAG, "--x")
FILE = Origin(SourceKind.FILE, "a.toml")

_values = st.integers(0, 3)
_trees = st.recursive(
    st.dictionaries(st.sampled_from("ab"), _values, max_size=2),
    lambda nested: st.dictionaries(st.sampled_from("cd"), nested, max_size=2),
    max_leaves=6,
)


def flat(node: layers.Node) -> dict[Key, Leaf]:
    return dict(layers.leaves(node))


def test_the_stronger_table_wins_and_says_so() -> None:
    strong = layers.table({"a": {"x": 1}}, FLAG)
    weak = layers.table({"a": {"x": 2, "y": 3}}, FILE)
    merged = layers.merge(strong, weak)
    assert flat(merged) == {("a", "x"): Leaf(1, FLAG), ("a", "y"): Leaf(3, FILE)}


def test_entries_of_the_stronger_table_come_first() -> None:
    merged = layers.merge(layers.table({"z": 1}, FLAG), layers.table({"a": 1, "z": 2}, FILE))
    assert list(merged.entries) == ["z", "a"]


@given(_trees, _trees)
def test_a_merge_holds_every_key_of_both_and_prefers_the_strong(
    strong: dict[str, object], weak: dict[str, object]
) -> None:
    above, below = layers.table(strong, FLAG), layers.table(weak, FILE)
    merged = flat(layers.merge(above, below))
    assert merged == flat(below) | flat(above)


def test_a_value_where_the_defaults_have_a_section_is_told_with_its_value() -> None:
    with pytest.raises(ConfigError) as raised:
        layers.merge(
            layers.table({"server": 3}, FILE), layers.table({"server": {"a": 1}}, layers.DEFAULT)
        )
    assert raised.value.detail == "file a.toml: server = 3: expected a section"


def test_a_section_against_a_value_names_both_sources() -> None:
    with pytest.raises(ConfigError) as raised:
        layers.merge(layers.table({"m": {"a": 1}}, FLAG), layers.table({"m": 1}, FILE))
    assert raised.value.detail == (
        "file a.toml: m is a single value, but it is a section in flag --x"
    )


@pytest.mark.parametrize(
    ("own", "general", "winner"),
    [
        (SourceKind.FILE, SourceKind.FILE, "own"),
        (SourceKind.FILE, SourceKind.DEFAULT, "own"),
        (SourceKind.FILE, SourceKind.FLAG, "general"),
        (SourceKind.FILE, SourceKind.ENVIRONMENT, "general"),
        (SourceKind.FLAG, SourceKind.ENVIRONMENT, "own"),
    ],
)
def test_a_specific_value_yields_only_to_a_stronger_kind_of_source(
    own: SourceKind, general: SourceKind, winner: str
) -> None:
    specific = layers.table({"x": "own"}, Origin(own))
    shared = layers.table({"x": "general", "y": "kept"}, Origin(general))
    assert layers.plain(layers.overlay(specific, shared)) == {"x": winner, "y": "kept"}


def test_the_nearest_node_above_a_missing_key_is_found() -> None:
    root = layers.table({"a": {"b": 1}}, FILE)
    node, exact = layers.nearest(root, ("a", "z"))
    assert isinstance(node, Table)
    assert not exact
    assert layers.nearest(root, ("a", "b")) == (Leaf(1, FILE), True)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, '"none"'),
        (True, "true"),
        ('a"b\n\x7f', '"a\\"b\\n\\u007f"'),
        ((1.5, 2), "[1.5, 2]"),
        ({}, "{}"),
        ({"a b": False}, '{ "a b" = false }'),
    ],
)
def test_values_are_shown_as_toml_writes_them(value: object, shown: str) -> None:
    assert layers.show_value(value) == shown


def test_a_long_value_is_cut_to_the_limit_exactly() -> None:
    assert len(layers.show_value("x" * 500)) == 120
    assert layers.show_value("x" * 118) == '"' + "x" * 118 + '"'


def test_names_that_toml_cannot_write_bare_are_quoted() -> None:
    assert layers.show_key(("models", "Qwen2.5", "path")) == 'models."Qwen2.5".path'
