"""Flags win over variables, variables over the file, the file over the defaults: in a daemon."""

from collections.abc import Mapping
from pathlib import Path

from edged.cli.exits import ExitCode
from tests.cli.program import Program
from tests.e2e.daemon import environment_of, serve_arguments, serving
from tests.e2e.settings import Value, sim_tables

FILE: Mapping[str, Value] = {
    "context_tokens": 1024,
    "kv_type": "f16",
    "max_sequences": 3,
    "max_held": 7,
}
VARIABLES = {"EDGED_ENGINE__KV_TYPE": "q4_0", "EDGED_ENGINE__MAX_SEQUENCES": "5"}


async def test_daemon_runs_with_the_settings_that_config_show_explains(tmp_path: Path) -> None:
    tables = sim_tables(engine=FILE)
    async with serving(tmp_path, tables, "--max-sequences", "6", **VARIABLES) as daemon:
        model = await daemon.ready()
        assert model.kv.num_slots == 6, "the flag"
        assert model.kv.effective_type == "q4_0", "the variable"
        assert model.kv.capacity_tokens == 1024, "the file"
        assert (await daemon.status()).policy == "slo", "the default"
        config = str(tmp_path / "config.toml")
        shown = daemon.program("edged").run("config", "show", "--origin", "--config", config)
    assert shown.returncode == 0, shown.stderr
    _, _, engine = shown.stdout.partition("[engine]\n")
    for key, value, origin in (
        ("kv_type", '"q4_0"', "variable EDGED_ENGINE__KV_TYPE"),
        ("max_sequences", "5", "variable EDGED_ENGINE__MAX_SEQUENCES"),
        ("context_tokens", "1024", f"file {config}"),
        ("max_held", "7", f"file {config}"),
        ("stall_s", "30.0", "default"),
    ):
        line = next(line for line in engine.splitlines() if line.startswith(f"{key} = "))
        assert line.startswith(f"{key} = {value} ")
        assert line.endswith(f"# {origin}")


def test_broken_setting_is_told_with_its_place_and_its_rule(tmp_path: Path) -> None:
    edged = Program("edged", environment_of(tmp_path))
    done = edged.run(*serve_arguments(tmp_path, sim_tables()), EDGED_ENGINE__KV_TYPE="q5_1")
    assert done.returncode == ExitCode.CONFIGURATION
    assert done.stderr == (
        'edged: variable EDGED_ENGINE__KV_TYPE: engine.kv_type = "q5_1": '
        "expected 'f16', 'q8_0' or 'q4_0'\n"
    )
