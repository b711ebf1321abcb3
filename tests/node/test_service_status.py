"""The line that the service manager shows."""

from dataclasses import replace

import pytest

from edged.core.cost import StepCosts
from edged.core.types import SloTier
from edged.engine.wire import Statistics, TierStatistics
from edged.node.service.status import describe, load
from edged.supervise.model import ModelState, ModelStatus
from tests.rpc.fakes import model_status

READY, FAILED = ModelState.READY, ModelState.FAILED


def model(name: str, state: ModelState, progress: float = 1.0) -> ModelStatus:
    return ModelStatus(
        *(name, False, state, progress, "", None, 0, None),
        statistics=None,
        num_in_flight=0,
    )


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ((model("a", ModelState.UNLOADED),), "no model is loaded"),
        ((model("a", ModelState.LOADING, 0.4),), "loading a, 40 %"),
        (
            (model("a", READY), model("b", ModelState.LOADING, 0.05)),
            "loading b, 5 %; serving 1 model, 0 requests running, 0 waiting",
        ),
        (
            (model("a", READY), model("b", ModelState.RESTARTING), model("c", FAILED)),
            "c has failed; serving 2 models, 0 requests running, 0 waiting",
        ),
        ((model("a", FAILED),), "a has failed"),
    ],
)
def test_models_are_told_by_their_state(models: tuple[ModelStatus, ...], expected: str) -> None:
    assert describe(models) == expected


def test_note_comes_first() -> None:
    assert describe((model("a", READY),), note="mind this").startswith("mind this; serving 1 model")
    assert describe((), note="mind this") == "mind this"


def test_requests_are_running_as_the_engine_says_and_the_others_wait() -> None:
    running = TierStatistics(SloTier.BATCH, 0, 2, 0, 0, 0)
    zeros = dict.fromkeys(Statistics.__struct_fields__, 0)
    statistics = Statistics(**zeros | {"step_costs": StepCosts(*[0.0] * 6), "tiers": (running,)})
    busy = replace(model_status(), statistics=statistics, num_in_flight=3)
    assert load((busy,)) == "2 requests running, 1 waiting"
    late = replace(busy, num_in_flight=1)
    assert load((late,)) == "1 request running, 0 waiting", "statistics come a moment later"
