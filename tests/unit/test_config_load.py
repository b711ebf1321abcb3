"""From flags, environment, file and defaults to settings with origins, or to errors."""

import os
from pathlib import Path

import pytest

from edged.config import Flag, Loaded, Origin, SourceKind, load_settings
from edged.config.sources import MAX_FILE_BYTES
from edged.core.policies import SERVING
from edged.errors import ConfigError, Reason

ANY_POLICY = " or ".join(f"'{name}'" for name in SERVING)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(file: Path, toml: str = "", environ: dict[str, str] | None = None, *flags: Flag) -> Loaded:
    file.write_text(toml)
    return load_settings(flags, environ or {}, file)


def problems(
    file: Path, toml: str = "", environ: dict[str, str] | None = None, *flags: Flag
) -> list[str]:
    """The lines of the error, with the file called FILE."""
    with pytest.raises(ConfigError) as raised:
        load(file, toml, environ, *flags)
    assert raised.value.reason is Reason.BAD_CONFIG
    return raised.value.detail.replace(str(file), "FILE").splitlines()


# ── Precedence and origins ───────────────────────────────────────────────────────────────────────


def test_flags_beat_environment_beats_file_beats_defaults(file: Path) -> None:
    toml = '[server]\nlisten = "a:1"\nsocket = "/file"\ndrain_s = 1\n'
    environ = {"EDGED_SERVER__LISTEN": "b:2", "EDGED_SERVER__SOCKET": "/variable"}
    loaded = load(file, toml, environ, Flag(("server", "listen"), "c:3", "--listen"))
    server = loaded.settings.server
    assert (server.listen, server.socket, server.drain_s) == ("c:3", "/variable", 1.0)
    assert server.heartbeat_s == 10.0
    assert [loaded.origins["server", name] for name in ("listen", "socket", "drain_s")] == [
        Origin(SourceKind.FLAG, "--listen"),
        Origin(SourceKind.ENVIRONMENT, "EDGED_SERVER__SOCKET"),
        Origin(SourceKind.FILE, str(file)),
    ]
    assert loaded.origins["server", "heartbeat_s"] == Origin(SourceKind.DEFAULT)


def test_the_last_of_two_equal_flags_wins(file: Path) -> None:
    key = ("engine", "max_sequences")
    loaded = load(file, "", {}, Flag(key, 2, "--max-sequences"), Flag(key, 3, "--max-sequences"))
    assert loaded.settings.engine.max_sequences == 3


def test_without_a_model_the_embedded_one_is_served(file: Path) -> None:
    loaded = load(file)
    assert loaded.settings.models["embedded"].path == "embedded"
    assert loaded.settings.default_model == "embedded"
    assert loaded.origins["models", "embedded", "path"] == Origin(SourceKind.DEFAULT)


def test_models_of_flags_come_first_and_in_their_order(file: Path) -> None:
    flags = [Flag(("models", name, "path"), "/m", "--model") for name in ("z", "y")]
    loaded = load(file, '[models.a]\npath = "/a"\n', {}, *flags)
    assert list(loaded.settings.models) == ["z", "y", "a"]
    assert loaded.settings.default_model == "z"


def test_a_model_takes_engine_keys_and_puts_its_own_over_them(file: Path) -> None:
    toml = (
        '[engine]\nkv_type = "q4_0"\nmax_sequences = 4\noptions = { a = "1", b = "2" }\n'
        '[models.m]\npath = "/m"\nmax_sequences = 2\noptions = { b = "3" }\n'
    )
    engine = load(file, toml).settings.models["m"].engine
    assert (engine.kv_type, engine.max_sequences) == ("q4_0", 2)
    assert engine.options == {"a": "1", "b": "3"}


def test_a_flag_beats_what_the_file_says_about_one_model(file: Path) -> None:
    toml = '[models.m]\npath = "/m"\nkv_type = "f16"\n'
    loaded = load(file, toml, {}, Flag(("engine", "kv_type"), "q4_0", "--kv-type"))
    assert loaded.settings.models["m"].engine.kv_type == "q4_0"
    assert loaded.origins["models", "m", "kv_type"] == Origin(SourceKind.FLAG, "--kv-type")


def test_an_inherited_key_has_the_origin_of_what_it_inherits(file: Path) -> None:
    loaded = load(file, '[engine]\nstall_s = 5\n[models.m]\npath = "/m"\n')
    assert loaded.origins["models", "m", "stall_s"] == Origin(SourceKind.FILE, str(file))
    assert loaded.origins["models", "m", "kv_type"] == Origin(SourceKind.DEFAULT)


def test_the_word_none_takes_a_limit_away(file: Path) -> None:
    loaded = load(file, '[tiers.interactive]\nmax_queue_s = "none"\n')
    assert loaded.settings.tiers.interactive.max_queue_s is None
    assert loaded.settings.tiers.interactive.ttft_target_s == 1.0


# ── Paths of models ──────────────────────────────────────────────────────────────────────────────


def test_a_relative_path_in_a_file_starts_beside_it(file: Path) -> None:
    loaded = load(file, '[models.m]\npath = "sub/../m.gguf"\n')
    assert loaded.settings.models["m"].path == str(file.parent / "m.gguf")


def test_a_relative_path_of_a_flag_is_left_to_the_working_directory(file: Path) -> None:
    loaded = load(file, "", {}, Flag(("models", "m", "path"), "m.gguf", "--model"))
    assert loaded.settings.models["m"].path == "m.gguf"


def test_a_tilde_is_the_home_directory(file: Path) -> None:
    loaded = load(file, '[models.m]\npath = "~/m.gguf"\n', {"HOME": "/srv/ann"})
    assert loaded.settings.models["m"].path == "/srv/ann/m.gguf"


# ── Environment ──────────────────────────────────────────────────────────────────────────────────


def test_variables_are_read_as_toml_values_and_else_as_text(file: Path) -> None:
    environ = {
        "EDGED_TIERS__BATCH__MIN_SHARE": "0.25",
        "EDGED_ENGINE__KV_UNIFIED": "false",
        "EDGED_ENGINE__TENSOR_SPLIT": "[3, 1]",
        "EDGED_ENGINE__NUM_THREADS": "none",
        "EDGED_ENGINE__OPTIONS__N_BATCH": "7",
        "EDGED_SERVER__SOCKET": "",
    }
    settings = load(file, "", environ).settings
    assert settings.tiers.batch.min_share == 0.25
    assert settings.engine.kv_unified is False
    assert settings.engine.tensor_split == (3.0, 1.0)
    assert settings.engine.num_threads is None
    assert settings.engine.options == {"n_batch": "7"}
    assert settings.server.socket == ""


def test_a_variable_cannot_smuggle_in_a_second_key(file: Path) -> None:
    told = problems(file, "", {"EDGED_SERVER__DRAIN_S": "1\nlisten = 2"})
    assert told == [
        'variable EDGED_SERVER__DRAIN_S: server.drain_s = "1\\nlisten = 2": expected a number'
    ]


def test_the_default_model_has_a_variable_without_a_section(file: Path) -> None:
    toml = '[models.a]\npath = "/a"\n[models.b]\npath = "/b"\n'
    loaded = load(file, toml, {"EDGED_DEFAULT_MODEL": "b"})
    assert loaded.settings.default_model == "b"


def test_variables_of_other_things_are_left_alone(file: Path) -> None:
    loaded = load(file, "", {"EDGED_HOST": "x", "EDGED_TRACEBACK": "1", "OTHER__THING": "1"})
    assert all(origin.kind is SourceKind.DEFAULT for origin in loaded.origins.values())


def test_a_setting_without_its_section_is_told_where_it_belongs(file: Path) -> None:
    file.write_text("")
    with pytest.raises(ConfigError, match="has its section first: EDGED_ENGINE__KV_TYPE"):
        load_settings((), {"EDGED_KV_TYPE": "f16"}, file)


def test_a_variable_about_one_model_does_not_make_it_the_first(file: Path) -> None:
    file.write_text('[models.a]\npath = "/a"\n[models.b]\npath = "/b"\n')
    environ = {"EDGED_MODELS__B__PRELOAD": "false", "EDGED_MODELS__C__PATH": "/c"}
    settings = load_settings((), environ, file).settings
    assert (settings.default_model, list(settings.models)) == ("a", ["a", "b", "c"])
    assert not settings.models["b"].preload


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every directory")
def test_a_usual_place_that_may_not_be_entered_is_passed_over(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    assert load_settings((), {}, candidates=[closed / "config.toml"]).file is None


def test_an_unknown_variable_with_a_section_is_an_error(file: Path) -> None:
    assert problems(file, "", {"EDGED_SERVER__LISTN": "x:1"}) == [
        "variable EDGED_SERVER__LISTN: server.listn: unknown key; did you mean server.listen?"
    ]


# ── Which file ───────────────────────────────────────────────────────────────────────────────────


def test_a_named_file_beats_the_variable_beats_the_usual_places(tmp_path: Path) -> None:
    files = []
    for number in (1, 2, 3):
        path = tmp_path / f"{number}.toml"
        path.write_text(f"[engine]\nmax_sequences = {number}\n")
        files.append(path)
    environ = {"EDGED_CONFIG": str(files[1])}

    def chosen(named: Path | None, environ: dict[str, str]) -> int:
        loaded = load_settings((), environ, named, candidates=(tmp_path / "none", files[2]))
        return loaded.settings.engine.max_sequences

    assert chosen(files[0], environ) == 1
    assert chosen(None, environ) == 2
    assert chosen(None, {}) == 3


def test_no_file_at_all_is_no_error(tmp_path: Path) -> None:
    assert load_settings((), {}, candidates=(tmp_path / "none",)).file is None


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path, by_variable: bool) -> None:
    missing = tmp_path / "gone.toml"
    environ = {"EDGED_CONFIG": str(missing)} if by_variable else {}
    with pytest.raises(ConfigError) as raised:
        load_settings((), environ, None if by_variable else missing, candidates=())
    who = "variable EDGED_CONFIG: " if by_variable else ""
    told = f"{who}there is no file {str(missing)!r} that this user can reach"
    assert raised.value.detail == told


def test_a_file_that_is_not_toml_is_told_with_its_line(file: Path) -> None:
    (told,) = problems(file, "[server]\nlisten = \n")
    assert told.startswith("file FILE: is not TOML: ")
    assert "line 2" in told


def test_a_file_that_is_not_utf8_is_told_with_the_place(file: Path) -> None:
    file.write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match="is not UTF-8, at byte 5"):
        load_settings((), {}, file)


def test_a_directory_is_no_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_settings((), {}, tmp_path)


def test_a_file_may_be_as_long_as_the_limit_and_no_longer(file: Path) -> None:
    load(file, "#" * MAX_FILE_BYTES)
    with pytest.raises(ConfigError, match=f"is larger than {MAX_FILE_BYTES} bytes"):
        load(file, "#" * (MAX_FILE_BYTES + 1))


# ── Errors ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ('tiers.batch.min_share = "yes"', 'tiers.batch.min_share = "yes": expected a number'),
        ("server.drain_s = true", "server.drain_s = true: expected a number"),
        ("engine.max_sequences = 1.5", "engine.max_sequences = 1.5: expected a whole number"),
        ("engine.max_sequences = 0", "engine.max_sequences = 0: expected at least 1"),
        ("engine.max_sequences = 257", "engine.max_sequences = 257: expected at most 256"),
        ("engine.stall_s = inf", "engine.stall_s = inf: expected a finite number"),
        (
            "engine.context_tokens = 63",
            'engine.context_tokens = 63: expected "auto", or a whole number from 64 to 16777216',
        ),
        (
            'engine.kv_memory = "all"',
            'engine.kv_memory = "all": expected "auto", or a whole number from 1048576 to '
            "1099511627776",
        ),
        (
            "engine.kv_memory = 1e9",
            'engine.kv_memory = 1000000000.0: expected "auto", or a whole number from 1048576 to '
            "1099511627776",
        ),
        ('engine.kv_unified = "yes"', 'engine.kv_unified = "yes": expected true or false'),
        ("server.listen = 7411", "server.listen = 7411: expected text, in quotes"),
        (
            'engine.kv_type = "q5_1"',
            "engine.kv_type = \"q5_1\": expected 'f16', 'q8_0' or 'q4_0'",
        ),
        (
            'engine.tensor_split = [1, "x"]',
            'engine.tensor_split = [1, "x"]: item 2: expected a number',
        ),
        (
            'server.listen = "7411"',
            'server.listen = "7411": expected HOST:PORT, "[IPv6]:PORT", or "" for no TCP',
        ),
        (
            'server.socket = "run/x"',
            'server.socket = "run/x": expected "auto", an absolute path, or "" for no socket',
        ),
        (
            'scheduler.policy = "fair"',
            f'scheduler.policy = "fair": expected {ANY_POLICY}',
        ),
        ("tiers.batch.max_queue_s = 0", "tiers.batch.max_queue_s = 0: expected more than 0"),
        ("[models.m]\n", "models.m.path is missing"),
        ("[models]\nm = 3", "models.m = 3: expected a section"),
        (
            '[models."my model"]\npath = "/m"',
            'models."my model": expected a model name of 1 to 64 characters out of '
            "A-Z a-z 0-9 . _ -",
        ),
        ("[enigne]\nx = 1", "enigne: unknown key; did you mean engine?"),
        (
            'engine.log_level = "info"',
            "engine.log_level: unknown key; did you mean server.log_level?",
        ),
        (
            '[models.m]\npath = "/m"\nkvtype = "f16"',
            "models.m.kvtype: unknown key; did you mean models.m.kv_type?",
        ),
    ],
)
def test_an_error_names_source_key_value_and_rule(file: Path, toml: str, told: str) -> None:
    assert problems(file, toml) == [f"file FILE: {told}"]


def test_a_wrong_flag_is_named_as_it_was_typed(file: Path) -> None:
    flag = Flag(("engine", "kv_type"), "q5", "--kv-type")
    assert problems(file, '[models.m]\npath = "/m"\n', {}, flag) == [
        "flag --kv-type: engine.kv_type = \"q5\": expected 'f16', 'q8_0' or 'q4_0'"
    ]


def test_all_errors_are_told_at_once(file: Path) -> None:
    told = problems(file, "[server]\ndrain_s = -1\nx = 1\n", {"EDGED_ENGINE__STALL_S": "0"})
    assert len(told) == 3


def test_shares_that_leave_no_room_are_told_with_the_origin_of_each(file: Path) -> None:
    (told,) = problems(
        file, "[tiers.batch]\nmin_share = 0.6\n", {"EDGED_TIERS__STANDARD__MIN_SHARE": "0.4"}
    )
    assert told == (
        "tiers.interactive.min_share = 0.0 (default), "
        "tiers.standard.min_share = 0.4 (variable EDGED_TIERS__STANDARD__MIN_SHARE), "
        "tiers.batch.min_share = 0.6 (file FILE): "
        "the min_share of all tiers add up to 1: expected less than 1"
    )


def test_a_daemon_that_listens_nowhere_is_an_error(file: Path) -> None:
    (told,) = problems(file, '[server]\nlisten = ""\nsocket = ""\n')
    assert told.endswith("listen and socket are both off: expected at least one")


def test_more_sequences_than_a_step_has_tokens_are_an_error(file: Path) -> None:
    (told,) = problems(file, "[engine]\nmax_sequences = 32\nmax_step_tokens = 16\n")
    assert told.endswith(
        "max_sequences is 32, and a step has 16 tokens: expected at least one for each"
    )


def test_a_default_model_that_is_not_configured_is_an_error(file: Path) -> None:
    (told,) = problems(file, 'default_model = "b"\n[models.a]\npath = "/a"\n')
    assert told == (
        'default_model = "b" (file FILE): there is no model of that name: expected one of a'
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_an_error(file: Path) -> None:
    file.write_text("")
    file.chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load_settings((), {}, file)
