"""Prompts beside many cells of others: computed in a context of their own, and nobody can tell."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edged.backend import Backend, BackendConfig
from edged.core.plan import Chunk
from edged.core.types import SeqId, SlotId
from edged.errors import BackendStepError, StepInterruptedError
from tests.contract.cases import CONFIG
from tests.contract.driver import Run, answer_alone, generate, step
from tests.models import require_llama_cpp
from tests.tiny_gguf import write_tiny_gguf

require_llama_cpp()

from backends.llama_cpp import create  # noqa: E402  # after the skip where it is missing
from backends.llama_cpp.backend import LlamaBackend  # noqa: E402  # as above
from backends.llama_cpp.native import (  # noqa: E402  # as above
    AbortFlag,
    Batch,
    Context,
    ContextShape,
    Model,
)
from backends.llama_cpp.prompt_context import (  # noqa: E402  # as above
    LEAST_OTHER_CELLS,
    MAX_CELLS,
    UBATCH_TOKENS,
    PromptContext,
)
from backends.llama_cpp.runtime_log import RuntimeLog  # noqa: E402  # as above

SICK_TOKEN_ID = 200
NUM_TOKENS = 8
LONG = [30 + i % 97 for i in range(90)]
OTHER = [30 + i % 89 for i in range(60)]


@pytest.fixture
def config(tmp_path: Path) -> BackendConfig:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", sick_token_id=SICK_TOKEN_ID)
    return replace(CONFIG, model_path=str(path), context_tokens=4096, max_step_tokens=2048)


@pytest.fixture
def backend(config: BackendConfig) -> Iterator[Backend]:
    backend = create(config, lambda _fraction: None)
    yield backend
    backend.close()


class _TellingContext(Context):
    """Tells `decodes` its name at each of them."""

    def __init__(
        self, model: Model, shape: ContextShape, abort: AbortFlag, name: str, decodes: list[str]
    ) -> None:
        super().__init__(model, shape, abort)
        self._name = name
        self._decodes = decodes

    def decode(self, batch: Batch) -> int:
        self._decodes.append(self._name)
        return super().decode(batch)


@pytest.fixture
def decodes() -> list[str]:
    """Where each decode of `telling` was: "apart" or "together"."""
    return []


@pytest.fixture
def telling(config: BackendConfig, decodes: list[str]) -> Iterator[Backend]:
    """What `create` makes, but of contexts that tell of their decodes."""
    created = create(config, lambda _fraction: None)
    info = created.info
    created.close()
    log, abort = RuntimeLog(), AbortFlag()
    model = Model(
        config.model_path, gpu_layers=0, main_gpu=0, tensor_split=(), progress=lambda _: True
    )
    main = ContextShape(
        cells=config.context_tokens,
        max_batch_tokens=config.max_step_tokens,
        max_ubatch_tokens=512,
        sequences=config.max_sequences + config.cached_sequences,
        threads=1,
        kv_type=config.kv_type,
        unified=True,
    )
    prompts = replace(
        main,
        cells=MAX_CELLS,
        max_batch_tokens=MAX_CELLS,
        max_ubatch_tokens=UBATCH_TOKENS,
        sequences=1,
    )
    backend = LlamaBackend(
        info,
        model,
        _TellingContext(model, main, abort, "together", decodes),
        PromptContext(_TellingContext(model, prompts, abort, "apart", decodes)),
        abort=abort,
        max_step_tokens=config.max_step_tokens,
        unified=True,
        log=log,
    )
    yield backend
    backend.close()


def _crowd(backend: Backend, num_cells: int = LEAST_OTHER_CELLS) -> Run:
    """A sequence in slot 3 that holds so many cells; each test starts with it."""
    crowd = Run(backend, [40 + i % 90 for i in range(num_cells)], slot=3)
    step(backend, [crowd])
    return crowd


def test_a_prompt_is_computed_apart_and_decoded_with_the_others(
    telling: Backend, decodes: list[str]
) -> None:
    expected = answer_alone(telling, LONG, NUM_TOKENS)
    decodes.clear()
    crowd = _crowd(telling)
    run = Run(telling, LONG)
    generate(telling, [crowd, run], NUM_TOKENS)
    assert decodes == ["together", "apart", *["together"] * NUM_TOKENS]
    assert run.answer == expected


@pytest.mark.parametrize("others", [0, LEAST_OTHER_CELLS - 1])
def test_where_others_hold_little_all_is_one_decode(
    telling: Backend, decodes: list[str], others: int
) -> None:
    if others:
        _crowd(telling, others)
    decodes.clear()
    step(telling, [Run(telling, LONG)])
    assert decodes == ["together"]


def test_a_slot_that_shares_cells_is_computed_where_they_are(
    telling: Backend, decodes: list[str]
) -> None:
    """Computed apart, its KV would come back to cells of its own."""
    expected = answer_alone(telling, LONG, NUM_TOKENS)
    _crowd(telling)
    source = Run(telling, LONG)
    step(telling, [source])
    run = Run(telling, LONG, slot=1)
    run.num_computed = len(LONG) // 2
    telling.copy_prefix(source.slot, run.slot, run.num_computed)
    decodes.clear()
    generate(telling, [run], NUM_TOKENS)
    assert decodes == ["together"] * NUM_TOKENS
    assert run.answer == expected
    telling.clear(run.slot)
    decodes.clear()
    step(telling, [Run(telling, LONG, slot=1)])
    assert decodes == ["apart"], "a slot that was cleared shares nothing"


def test_the_chunks_of_a_prompt_build_on_each_other(telling: Backend, decodes: list[str]) -> None:
    expected = answer_alone(telling, LONG, NUM_TOKENS)
    _crowd(telling)
    decodes.clear()
    run = Run(telling, LONG)
    for _ in range(3):
        step(telling, [run], max_tokens=30)
    assert decodes == ["apart"] * 3
    generate(telling, [run], NUM_TOKENS)
    assert decodes == ["apart"] * 3 + ["together"] * (NUM_TOKENS - 1)
    assert run.answer == expected


def test_two_prompts_of_one_step_do_not_meet(backend: Backend) -> None:
    expected = [answer_alone(backend, prompt, NUM_TOKENS) for prompt in (LONG, OTHER)]
    crowd = _crowd(backend)
    runs = [Run(backend, LONG, slot=1), Run(backend, OTHER, slot=0)]
    generate(backend, [runs[0], crowd, runs[1]], NUM_TOKENS)
    assert [run.answer for run in runs] == expected


def test_a_prompt_that_grows_too_long_goes_on_among_the_others(
    telling: Backend, decodes: list[str]
) -> None:
    prompt = [30 + i % 97 for i in range(MAX_CELLS + 40)]
    expected = answer_alone(telling, prompt, NUM_TOKENS)
    _crowd(telling)
    decodes.clear()
    run = Run(telling, prompt)
    while not run.answer:
        step(telling, [run], max_tokens=MAX_CELLS)
    assert decodes == ["apart", "together"]
    generate(telling, [run], NUM_TOKENS)
    assert run.answer == expected


def test_an_interrupted_prompt_leaves_its_slot_as_it_was(
    telling: Backend, decodes: list[str]
) -> None:
    expected = answer_alone(telling, LONG, NUM_TOKENS)
    crowd = _crowd(telling)
    run = Run(telling, LONG)
    step(telling, [run], max_tokens=30)
    decodes.clear()
    telling.interrupt()
    with pytest.raises(StepInterruptedError):
        telling.step([crowd.chunk(), run.chunk()])
    assert decodes == ["apart"], "the others are not computed in vain"
    generate(telling, [crowd, run], NUM_TOKENS)
    assert run.answer == expected


def test_a_step_that_fails_after_a_prompt_takes_it_back(backend: Backend) -> None:
    expected = answer_alone(backend, LONG, NUM_TOKENS)
    _crowd(backend)
    run = Run(backend, LONG)
    step(backend, [run], max_tokens=30)
    bad = Chunk(SeqId(1), SlotId(1), 0, (60, -1), None)
    with pytest.raises(BackendStepError, match="sequence 1 has the token -1;") as raised:
        backend.step([run.chunk(), bad])
    assert raised.value.lost == ()
    generate(backend, [run], NUM_TOKENS)
    assert run.answer == expected


def test_a_prompt_without_finite_logits_is_lost_alone(backend: Backend) -> None:
    expected = answer_alone(backend, LONG, NUM_TOKENS)
    _crowd(backend)
    run = Run(backend, LONG)
    sick = Run(backend, [*OTHER, SICK_TOKEN_ID], slot=1)
    with pytest.raises(BackendStepError, match=f"sequence {sick.seq_id}.*nan") as raised:
        backend.step([run.chunk(), sick.chunk()])
    assert raised.value.lost == (sick.slot,)
    generate(backend, [run], NUM_TOKENS)
    assert run.answer == expected


def test_kv_that_cannot_be_copied_is_lost_and_the_others_stay(config: BackendConfig) -> None:
    """There is room for the prompt where it is computed, and none where it belongs."""
    num_cells = LEAST_OTHER_CELLS + 256
    small = replace(config, context_tokens=num_cells)
    with closing(create(small, lambda _fraction: None)) as backend:
        expected = answer_alone(backend, LONG, NUM_TOKENS)
        crowd = _crowd(backend)
        filler = Run(backend, OTHER * 3, slot=1)
        step(backend, [filler])
        run = Run(backend, LONG)
        assert crowd.num_computed + filler.num_computed + len(LONG) > num_cells
        with pytest.raises(BackendStepError, match="KV of slot 0 was not copied") as raised:
            backend.step([crowd.chunk(), run.chunk()])
        assert raised.value.lost == (run.slot,)
        backend.clear(filler.slot)
        generate(backend, [crowd, run], NUM_TOKENS)
        assert run.answer == expected
