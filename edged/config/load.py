"""Makes the effective settings out of flags, environment, file and defaults, or says what is wrong.

Theory of operation: the sources are merged, stronger over weaker, into one table (`layers`); what
is left out on purpose (a model, the default model, a model's own [engine]) is filled in; then the
models in `settings` check the whole. Every error is reported at once, each with the source, the
key, the value and the rule.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edged import places
from edged.config import layers
from edged.config.layers import Key, Leaf, Node, Origin, SourceKind, Table, show_key, show_value
from edged.config.server import ServerSettings
from edged.config.settings import (
    EngineSettings,
    ModelSettings,
    SchedulerSettings,
    Settings,
    TiersSettings,
    default_tables,
)
from edged.config.sources import find_file, read_environment, read_file
from edged.embedded import EMBEDDED
from edged.errors import ConfigError

_OWN_MODEL_KEYS = ("path", "preload")


@dataclass(frozen=True, slots=True)
class Flag:
    """A setting given on the command line; `option` is what the user typed, as "--kv-type"."""

    key: Key
    value: object
    option: str


@dataclass(frozen=True, slots=True)
class Loaded:
    settings: Settings
    origins: Mapping[Key, Origin]
    """Of every setting, in the order of the reference. A model's inherited [engine] keys are here
    too, with the origin of the value they inherit."""
    file: Path | None
    """The configuration file that was read."""


def load_settings(
    flags: Sequence[Flag],
    environ: Mapping[str, str],
    config_file: Path | None = None,
    *,
    candidates: Sequence[Path] | None = None,
) -> Loaded:
    """Find, read, merge and check the configuration.

    `config_file` None looks for one: $EDGED_CONFIG, else the first of `candidates` that exists
    (the user's and the system's usual places). Of flags with one key, the last wins.

    Raises:
        ConfigError: one line for each thing that is wrong.
    """
    usual = places.config_files(environ) if candidates is None else candidates
    file = find_file(config_file, environ, usual)
    merged = Table(layers.DEFAULT)
    last_of_each = {flag.key: flag for flag in flags}
    for flag in last_of_each.values():
        origin = Origin(SourceKind.FLAG, flag.option)
        merged = layers.merge(merged, layers.single(flag.key, flag.value, origin))
    lower = read_environment(environ, _section_of())
    if file is not None:
        # A variable about the file's second model does not make it the first.
        lower = layers.merge(lower, read_file(file), strong_first=False)
    merged = layers.merge(merged, lower)
    merged = layers.merge(merged, layers.table(default_tables(), layers.DEFAULT))
    complete = _complete(merged, environ)
    try:
        settings = Settings.model_validate(layers.plain(complete))
    except ValidationError as error:
        problems = (_problems(details, complete) for details in error.errors())
        raise ConfigError("\n".join(dict.fromkeys(chain.from_iterable(problems)))) from None
    origins = {
        key: layers.nearest(complete, _inner(key))[0].origin for key in setting_keys(settings)
    }
    return Loaded(settings, origins, file)


def value_at(settings: Settings, key: Key) -> object:
    """The effective value of a key of `Loaded.origins`."""
    node: object = settings
    for name in _inner(key):
        node = node[name] if isinstance(node, Mapping) else getattr(node, name)
    return node


def _inner(key: Key) -> Key:
    """models.NAME.kv_type as the operator writes it stands in models.NAME.engine.kv_type here."""
    is_engine_key = len(key) > 2 and key[0] == "models" and key[2] not in _OWN_MODEL_KEYS
    return (*key[:2], "engine", *key[2:]) if is_engine_key else key


def _outer(key: Key) -> Key:
    is_engine_key = len(key) > 3 and key[0] == "models" and key[2] == "engine"
    return (*key[:2], *key[3:]) if is_engine_key else key


def _section_of() -> Mapping[str, str]:
    sections: Mapping[str, type[BaseModel]] = {
        "server": ServerSettings,
        "engine": EngineSettings,
        "scheduler": SchedulerSettings,
    }
    return {name: section for section, kind in sections.items() for name in kind.model_fields}


def setting_keys(settings: Settings) -> Iterator[Key]:
    yield ("default_model",)
    for section in ("server", "engine", "scheduler"):
        yield from ((section, name) for name in type(getattr(settings, section)).model_fields)
    for tier in TiersSettings.model_fields:
        fields = type(getattr(settings.tiers, tier)).model_fields
        yield from (("tiers", tier, name) for name in fields)
    for model in settings.models:
        own = (*_OWN_MODEL_KEYS, *EngineSettings.model_fields)
        yield from (("models", model, name) for name in own)


# ── Filling in what may be left out ──────────────────────────────────────────────────────────────


def _complete(merged: Table, environ: Mapping[str, str]) -> Table:
    entries = dict(merged.entries)
    models = entries.get("models", Table(layers.DEFAULT))
    if isinstance(models, Table):
        if not models.entries:
            embedded = {EMBEDDED: {"path": EMBEDDED}}
            models = layers.table(embedded, layers.DEFAULT)
        first = next(iter(models.entries))
        entries.setdefault("default_model", Leaf(first, layers.DEFAULT))
        engine = entries["engine"]
        assert isinstance(engine, Table), "the default engine is a table, and merge kept it one"
        completed = {name: _model(node, engine, environ) for name, node in models.entries.items()}
        entries["models"] = Table(models.origin, completed)
    return Table(merged.origin, entries)


def _model(node: Node, engine: Table, environ: Mapping[str, str]) -> Node:
    if isinstance(node, Leaf):
        return node
    own = {name: entry for name, entry in node.entries.items() if name in _OWN_MODEL_KEYS}
    rest = {name: entry for name, entry in node.entries.items() if name not in _OWN_MODEL_KEYS}
    own.setdefault("preload", Leaf(ModelSettings.model_fields["preload"].default, layers.DEFAULT))
    if isinstance(path := own.get("path"), Leaf):
        own["path"] = _resolve_path(path, environ)
    own["engine"] = layers.overlay(Table(node.origin, rest), engine)
    return Table(node.origin, own)


def _resolve_path(path: Leaf, environ: Mapping[str, str]) -> Leaf:
    text = path.value
    if not isinstance(text, str) or text in ("", EMBEDDED):
        return path
    if text.startswith("~/") and environ.get("HOME"):
        return Leaf(environ["HOME"] + text[1:], path.origin)
    if path.origin.kind is SourceKind.FILE and not os.path.isabs(text):
        beside = os.path.join(os.path.dirname(path.origin.name), text)
        return Leaf(os.path.normpath(os.path.abspath(beside)), path.origin)
    return path


# ── Saying what is wrong ─────────────────────────────────────────────────────────────────────────


def _problems(details: ErrorDetails, root: Table) -> Iterator[str]:
    # pydantic marks an error in a mapping's key with a step of its own.
    inner = tuple(str(step) for step in details["loc"] if step != "[key]")
    rule_keys: tuple[str, ...] = details.get("ctx", {}).get("keys", ())
    if rule_keys:
        about = [(*inner, *name.split(".")) for name in rule_keys]
        if not all(_is_inherited(key, root) for key in about):
            yield f"{', '.join(_party(key, root) for key in about)}: {details['msg']}"
        return
    if _is_inherited(inner, root):
        return
    node, exact = layers.nearest(root, inner)
    name = show_key(_outer(inner))
    match details["type"]:
        case "extra_forbidden":
            yield f"{node.origin}: {name}: unknown key{_did_you_mean(_outer(inner))}"
        case "missing":
            yield f"{node.origin}: {name} is missing"
        case _ if isinstance(node, Table):
            yield f"{node.origin}: {name}: {_expected(details)}"
        case _ if exact:
            yield f"{node.origin}: {name} = {show_value(node.value)}: {_expected(details)}"
        case _:
            # An item of a list has no origin of its own, so the list is named and shown.
            name, place = show_key(_outer(inner[:-1])), int(inner[-1]) + 1
            shown = f"{name} = {show_value(node.value)}"
            yield f"{node.origin}: {shown}: item {place}: {_expected(details)}"


def _is_inherited(inner: Key, root: Table) -> bool:
    """Whether a model has this from [engine], where the same problem has been told already."""
    if len(inner) < 4 or inner[0] != "models":
        return False
    own, _ = layers.nearest(root, inner)
    general, _ = layers.nearest(root, inner[2:])
    return own is general


def _party(inner: Key, root: Table) -> str:
    node, _ = layers.nearest(root, inner)
    value = show_value(layers.plain(node))
    return f"{show_key(_outer(inner))} = {value} ({node.origin})"


_EXPECTED: Mapping[str, str] = {
    "string_type": "expected text, in quotes",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "tuple_type": "expected a list, as [1, 2]",
    "finite_number": "expected a finite number",
    "model_type": "expected a section",
    "model_attributes_type": "expected a section",
    "mapping_type": "expected a section",
    "string_too_short": "expected at least one character",
    "too_short": "expected at least one",
}


def _expected(details: ErrorDetails) -> str:
    if details["type"] in _EXPECTED:
        return _EXPECTED[details["type"]]
    message = details["msg"]
    if not message.startswith("Input should be "):
        return message
    message = message.replace("Input should be ", "expected ")
    message = message.replace("greater than or equal to", "at least")
    message = message.replace("less than or equal to", "at most")
    return message.replace("greater than", "more than")


def _did_you_mean(key: Key) -> str:
    """A hint that names the nearest known key, first in the same section, then anywhere."""
    siblings = _known_names(key[:-1])
    close = get_close_matches(key[-1], siblings, n=1)
    if close:
        return f"; did you mean {show_key((*key[:-1], close[0]))}?"
    for section in (("server",), ("engine",), ("scheduler",)):
        if key[-1] in _known_names(section):
            return f"; did you mean {show_key((*section, key[-1]))}?"
    return f"; known here are {', '.join(siblings)}"


def _known_names(section: Key) -> tuple[str, ...]:
    if section[:1] == ("models",):
        return (*_OWN_MODEL_KEYS, *EngineSettings.model_fields)
    model: type[BaseModel] = Settings
    for name in section:
        annotation = model.model_fields[name].annotation
        assert isinstance(annotation, type), f"{name} is a section"
        assert issubclass(annotation, BaseModel), f"{name} is a section"
        model = annotation
    return tuple(model.model_fields)
