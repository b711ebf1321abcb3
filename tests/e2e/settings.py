"""Writes the configuration files of the daemons under test."""

import json
from collections.abc import Mapping
from pathlib import Path

Value = str | int | float | bool | list[str]
Tables = Mapping[str, Mapping[str, Value]]

SIM = "sim"
"""The name of the model that most tests talk to."""


def sim_tables(
    *,
    server: Mapping[str, Value] | None = None,
    engine: Mapping[str, Value] | None = None,
    **options: Value,
) -> dict[str, Mapping[str, Value]]:
    """One model without weights; `options` are those of the backend `sim`."""
    return {
        "server": server or {},
        "engine": {"backend": "sim", **(engine or {})},
        "engine.options": options,
        f"models.{SIM}": {"path": "none"},
    }


def write_config(path: Path, tables: Tables) -> Path:
    """JSON's strings, numbers, booleans and lists are TOML's too."""
    lines: list[str] = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    path.write_text("\n".join(lines) + "\n")
    return path
