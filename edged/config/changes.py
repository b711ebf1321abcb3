"""What two configurations have different, but for their models, which are compared as they run."""

from collections.abc import Iterator
from typing import NamedTuple

from edged.config.layers import Key, show_key, show_value
from edged.config.load import setting_keys, value_at
from edged.config.settings import Settings

_OF_MODELS = frozenset({"engine", "models"})


class Change(NamedTuple):
    key: Key
    before: object
    after: object

    def __str__(self) -> str:
        before, after = show_value(self.before), show_value(self.after)
        return f"{show_key(self.key)} = {after} (was {before})"


def changes(before: Settings, after: Settings) -> Iterator[Change]:
    """In the order of the reference."""
    for key in setting_keys(after):
        if key[0] in _OF_MODELS:
            continue
        change = Change(key, value_at(before, key), value_at(after, key))
        if change.before != change.after:
            yield change
