"""What the service manager shows of the daemon: one line, for an operator's eye."""

from collections.abc import Sequence

from edged.supervise.model import ModelState, ModelStatus

_SERVES = frozenset({ModelState.READY, ModelState.RESTARTING})


def describe(models: Sequence[ModelStatus], *, note: str = "") -> str:
    """As "loading chat, 40 %; serving 1 model, 2 requests running, 1 waiting". `note` comes
    first."""
    parts = [note] if note else []
    parts += [
        f"loading {model.name}, {model.load_progress:.0%}".replace("%", " %")
        for model in models
        if model.state is ModelState.LOADING
    ]
    parts += [f"{model.name} has failed" for model in models if model.state is ModelState.FAILED]
    num_serving = sum(model.state in _SERVES for model in models)
    if num_serving:
        parts.append(f"serving {counted(num_serving, 'model')}, {load(models)}")
    elif not parts:
        parts.append("no model is loaded")
    return "; ".join(parts)


def load(models: Sequence[ModelStatus]) -> str:
    """As "2 requests running, 1 waiting"."""
    num_running = sum(min(_num_running(model), model.num_in_flight) for model in models)
    num_in_flight = sum(model.num_in_flight for model in models)
    return f"{counted(num_running, 'request')} running, {num_in_flight - num_running} waiting"


def counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _num_running(model: ModelStatus) -> int:
    """As its engine said last."""
    statistics = model.statistics
    return 0 if statistics is None else sum(tier.num_running for tier in statistics.tiers)
