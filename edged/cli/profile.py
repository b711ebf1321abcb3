"""`edged profile`: how fast a model is on this device, for `edged simulate`."""

import os

from edged.backend import find_backend
from edged.cli.output import emit, note
from edged.clock import MonotonicClock
from edged.config.settings import Settings
from edged.engine.translate import backend_config
from edged.errors import EdgedError
from edged.simulate.fit import fit_profile
from edged.simulate.profile import as_json
from edged.startup import start_command


def print_profile(settings: Settings, name: str) -> None:
    """Load one of the models in this process, measure it, and print its profile as JSON.

    Raises:
        EdgedError: the model cannot be loaded, or a step fails.
    """
    start = start_command(settings, settings.models[name], os.environ)
    note(f"loading {name}")
    backend = find_backend(start.backend)(backend_config(start), lambda fraction: None)
    try:
        profile, error = fit_profile(
            backend,
            MonotonicClock(),
            name=name,
            max_step_tokens=start.max_step_tokens,
            told=lambda shape: note(f"measuring {shape}"),
        )
    except EdgedError as failure:
        raise EdgedError(failure.reason, f"a step failed: {failure.detail}") from failure
    finally:
        backend.close()
    note(f"steps are predicted within {100 * error:.0f}% (median)")
    emit(as_json(profile))
