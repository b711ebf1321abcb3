"""Tells what is configured and what can be: the effective settings as TOML, and the reference.

Theory of operation: both are made from the models' own descriptions and defaults, so neither can
differ from what is checked.
"""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from edged.config.layers import Key, Origin, show_key, show_value
from edged.config.load import Loaded, load_settings, value_at
from edged.config.server import ServerSettings
from edged.config.settings import (
    DEFAULT_TIERS,
    EngineSettings,
    ModelSettings,
    SchedulerSettings,
    Settings,
    TierSettings,
    TiersSettings,
)
from edged.core.types import SloTier


@dataclass(frozen=True, slots=True)
class Setting:
    """One effective setting."""

    key: Key
    value: object
    origin: Origin
    description: str


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """One setting that exists. `default` is as TOML writes it, or a word where there is none."""

    key: str
    default: str
    description: str


def effective(loaded: Loaded) -> tuple[Setting, ...]:
    """Every setting, but for what models merely inherit from [engine]."""
    found = []
    for key, origin in loaded.origins.items():
        value = value_at(loaded.settings, key)
        if _is_engine_key_of_model(key):
            general = ("engine", *key[2:])
            same_value = value_at(loaded.settings, general) == value
            if same_value and loaded.origins[general] == origin:
                continue
        found.append(Setting(key, value, origin, _describe(key)))
    return tuple(found)


def as_toml(loaded: Loaded, *, with_origin: bool) -> str:
    """The effective settings as a file that gives the same settings when it is read."""
    lines: list[str] = []
    section: Key = ()
    for setting in effective(loaded):
        if setting.key[:-1] != section:
            section = setting.key[:-1]
            lines += ["", f"[{show_key(section)}]"]
        value = show_value(setting.value, max_characters=None)
        origin = f"  # {_one_line(str(setting.origin))}" if with_origin else ""
        lines.append(f"{show_key(setting.key[-1:])} = {value}{origin}")
    return "\n".join(lines) + "\n"


def reference() -> tuple[ReferenceRow, ...]:
    """Every setting that exists, in the order of the file."""
    return tuple(_reference_rows())


def reference_markdown() -> str:
    """The reference as a Markdown table."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for row in reference():
        cells = (f"`{row.key}`", row.default, row.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def commented_file() -> str:
    """A configuration file that sets nothing: each setting at its default, commented out by "#".

    Its sections stand, so that a setting needs one character taken away to be in the right one;
    but not those of models, which have no defaults of their own.
    """
    lines = ["# Every setting is at its default; to change one, take away the # before it.", ""]
    section: Key = ()
    for setting in effective(load_settings((), {}, candidates=())):
        if setting.key[:-1] != section:
            section = setting.key[:-1]
            sign = "#" if section[0] == "models" else ""
            lines += ["", f"{sign}[{show_key(section)}]"]
        lines += (f"# {line}" for line in textwrap.wrap(setting.description, 96))
        lines.append(f"#{show_key(setting.key[-1:])} = {show_value(setting.value, None)}")
    return "\n".join(lines) + "\n"


def _reference_rows() -> Iterator[ReferenceRow]:
    fields = Settings.model_fields
    yield ReferenceRow("default_model", "the first", _text(fields["default_model"]))
    sections: Mapping[str, type[BaseModel]] = {
        "server": ServerSettings,
        "engine": EngineSettings,
        "scheduler": SchedulerSettings,
    }
    for section, model in sections.items():
        for name, field in model.model_fields.items():
            default = field.get_default(call_default_factory=True)
            yield ReferenceRow(f"{section}.{name}", f"`{show_value(default)}`", _text(field))
    own = ModelSettings.model_fields
    yield ReferenceRow("models.NAME.path", "required", _text(own["path"]))
    yield ReferenceRow("models.NAME.preload", "`true`", _text(own["preload"]))
    yield ReferenceRow("models.NAME.*", "as [engine]", "Any key of [engine], for this model alone.")
    for name, field in TierSettings.model_fields.items():
        defaults = (show_value(getattr(DEFAULT_TIERS[tier], name)) for tier in SloTier)
        shown = ", ".join(f"`{default}`" for default in defaults)
        yield ReferenceRow(f"tiers.{{{','.join(SloTier)}}}.{name}", shown, _text(field))


def _describe(key: Key) -> str:
    match key:
        case ("models", _, "path" | "preload" as name):
            return _text(ModelSettings.model_fields[name])
        case ("models", _, name):
            return _text(EngineSettings.model_fields[name])
        case ("tiers", tier, name):
            assert tier in TiersSettings.model_fields, f"{tier} is a tier"
            return _text(TierSettings.model_fields[name])
        case ("server", name):
            return _text(ServerSettings.model_fields[name])
        case ("engine", name):
            return _text(EngineSettings.model_fields[name])
        case ("scheduler", name):
            return _text(SchedulerSettings.model_fields[name])
        case _:
            return _text(Settings.model_fields[key[0]])


def _is_engine_key_of_model(key: Key) -> bool:
    return key[0] == "models" and key[-1] in EngineSettings.model_fields


def _text(field: FieldInfo) -> str:
    assert field.description, "every setting has a description"
    return field.description


def _one_line(text: str) -> str:
    """A file's name may hold line breaks, which would end the comment."""
    return " ".join(text.split())
