"""The effective settings as a file, and the reference of all settings."""

import tomllib
from pathlib import Path

from edged.config import Flag, Loaded, load_settings
from edged.config.reference import as_toml, effective, reference, reference_markdown
from edged.config.settings import EngineSettings, default_tables

MODEL = Flag(("models", "Qwen2.5", "path"), "/m.gguf", "--model")
KV_TYPE = Flag(("models", "Qwen2.5", "kv_type"), "f16", "--model-kv-type")


def loaded(*flags: Flag) -> Loaded:
    return load_settings(flags, {}, candidates=())


def test_what_is_shown_gives_the_same_settings_when_it_is_read(tmp_path: Path) -> None:
    options = Flag(("engine", "options"), {"a b": 'x"\n'}, "--options")
    first = loaded(MODEL, KV_TYPE, options)
    file = tmp_path / "shown.toml"
    file.write_text(as_toml(first, with_origin=True))
    assert load_settings((), {}, file).settings == first.settings


def test_the_origin_stands_behind_each_value() -> None:
    lines = as_toml(loaded(MODEL, KV_TYPE), with_origin=True).splitlines()
    assert 'kv_type = "f16"  # flag --model-kv-type' in lines
    assert 'kv_type = "q8_0"  # default' in lines


def test_an_origin_with_a_line_break_stays_a_comment(tmp_path: Path) -> None:
    file = tmp_path / 'a\nlisten = "evil:1"'
    file.write_text("[server]\ndrain_s = 1\n")
    shown = as_toml(load_settings((), {}, file), with_origin=True)
    assert tomllib.loads(shown)["server"]["listen"] == "127.0.0.1:7411"


def test_what_a_model_merely_inherits_is_not_shown_again() -> None:
    keys = [setting.key[2] for setting in effective(loaded(MODEL, KV_TYPE)) if len(setting.key) > 2]
    assert keys.count("kv_type") == 1
    assert "stall_s" not in keys


def test_every_setting_is_in_the_reference_with_a_meaning() -> None:
    rows = {row.key: row for row in reference()}
    assert all(row.description.endswith(".") for row in rows.values())
    for name in EngineSettings.model_fields:
        assert f"engine.{name}" in rows
    assert rows["tiers.{interactive,standard,batch}.min_share"].default == "`0.0`, `0.1`, `0.05`"


def test_the_reference_knows_every_default_there_is() -> None:
    keys = {row.key for row in reference()}
    for section, fields in default_tables().items():
        assert isinstance(fields, dict)
        if section != "tiers":
            assert {f"{section}.{name}" for name in fields} <= keys


def test_the_markdown_table_has_three_cells_a_line() -> None:
    for line in reference_markdown().splitlines():
        assert line.replace("\\|", "").count("|") == 4
