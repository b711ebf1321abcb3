"""From settings to what the parts of a daemon are started with."""

from pathlib import Path

import pytest

from edged.config import Flag, Settings, load_settings
from edged.core.types import SloTier, TierSpec
from edged.engine import wire
from edged.startup import model_specs, socket_path, start_command, tier_specs


def settings(**values: object) -> Settings:
    """Keys are written section__key."""
    flags = [
        Flag(tuple(name.split("__")), value, f"--{name}")
        for name, value in {"models__m__path": "/m.gguf", **values}.items()
    ]
    return load_settings(flags, {}, candidates=()).settings


def test_tiers_become_specs_with_the_most_urgent_first() -> None:
    assert tier_specs(settings()) == (
        TierSpec(SloTier.INTERACTIVE, 1.0, 0.1, 64, 16, 30.0, False, 0.0),
        TierSpec(SloTier.STANDARD, 5.0, 0.2, 256, 64, 120.0, True, 0.1),
        TierSpec(SloTier.BATCH, None, None, 4096, 4096, None, True, 0.05),
    )


def test_a_start_command_carries_the_models_own_engine_and_crosses_the_pipe() -> None:
    given = settings(engine__max_sequences=4, models__m__kv_type="f16", engine__options={"a": "b"})
    start = start_command(given, given.models["m"], {})
    assert (start.model_path, start.kv_type, start.max_sequences) == ("/m.gguf", "f16", 4)
    assert (start.policy, start.tiers) == ("slo", tier_specs(given))
    frame = wire.encode_frame(start)
    assert wire.decode_command(frame[wire.FRAME_HEADER_BYTES :]) == start


def test_a_step_is_never_longer_than_the_context() -> None:
    given = settings(engine__context_tokens=256)
    assert start_command(given, given.models["m"], {}).max_step_tokens == 256


def test_a_model_that_cannot_be_looked_at_is_left_to_its_engine() -> None:
    """As one in a folder that this user may not enter."""
    path = f"/{'x' * 300}.gguf"
    with pytest.raises(OSError, match="name too long"):
        Path(path).stat()
    given = settings(models__m__path=path)
    assert start_command(given, given.models["m"], {}).backend == "llama_cpp"


def test_a_question_outlasts_an_engine_that_stalls() -> None:
    (spec,) = model_specs(settings(engine__stall_s=100.0), {})
    assert spec.call_s >= spec.stall_s + 5.0


def test_kept_kv_goes_where_caches_are() -> None:
    def directory(environ: dict[str, str], **changes: object) -> str:
        given = settings(**changes)
        return start_command(given, given.models["m"], environ).disk_directory

    home = {"HOME": "/people/ada"}
    assert directory(home) == "/people/ada/.cache/edged/kv"
    assert directory(home | {"XDG_CACHE_HOME": "/fast"}) == "/fast/edged/kv"
    assert directory(home | {"CACHE_DIRECTORY": "/var/cache/edged:/x"}) == "/var/cache/edged/kv"
    assert directory(home, engine__disk_directory="/kv") == "/kv"


def test_the_socket_may_be_found_named_or_off() -> None:
    environ = {"XDG_RUNTIME_DIR": "/run/user/7"}
    assert socket_path(settings(), environ) == Path("/run/user/7/edged/edged.sock")
    assert socket_path(settings(server__socket="/x.sock"), environ) == Path("/x.sock")
    assert socket_path(settings(server__socket=""), environ) is None
