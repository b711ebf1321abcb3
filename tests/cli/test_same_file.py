"""What `edged serve` reads again when it is asked to: the file that it found at its start."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edged import daemon
from edged.cli.edged import app
from edged.config import Settings
from edged.errors import ConfigError

Read = Callable[[], Settings]


def test_a_file_that_was_found_is_missed_when_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "edged" / "config.toml"
    file.parent.mkdir()
    file.write_text("[models.chat]\npath = '/models/chat.gguf'\n")
    moved = file.with_name("elsewhere")

    def run(settings: Settings, read: Read) -> int:
        assert read() == settings
        assert list(settings.models) == ["chat"]
        file.rename(moved)
        with pytest.raises(ConfigError, match=r"there is no file .*config\.toml"):
            read()
        moved.rename(file)
        assert read() == settings
        return 0

    monkeypatch.setattr(daemon, "run", run)
    done = CliRunner().invoke(app, ["serve"], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_a_file_that_was_not_there_may_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def run(settings: Settings, read: Read) -> int:
        assert list(settings.models) == ["embedded"]
        file = tmp_path / "edged" / "config.toml"
        file.parent.mkdir()
        file.write_text("[models.chat]\npath = '/models/chat.gguf'\n")
        assert list(read().models) == ["chat"]
        return 0

    monkeypatch.setattr(daemon, "run", run)
    done = CliRunner().invoke(app, ["serve"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
