"""Answers that join, outgrow their batches, pause, leave and come back are those of each alone."""

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edged.core.types import SlotId
from tests.contract.cases import CONFIG
from tests.contract.driver import Run, answer_alone, step
from tests.models import require_mlx

require_mlx()

import mlx.core as mx  # noqa: E402  # as above

from backends.mlx import create  # noqa: E402  # after the skip where it is missing
from backends.mlx.arrangement import MAX_ABSENT_STEPS  # noqa: E402  # as above
from backends.mlx.backend import MlxBackend  # noqa: E402  # as above

NUM_SLOTS, NUM_TOKENS = 6, 90


def backend_of(folder: Path, kv_type: str) -> MlxBackend:
    config = replace(
        CONFIG,
        model_path=str(folder),
        kv_type=kv_type,
        context_tokens=4096,
        max_sequences=NUM_SLOTS + 1,
        max_step_tokens=128,
    )
    return create(config, lambda _fraction: None)


@pytest.fixture(params=["q8_0", "q4_0", "f16"])
def backend(request: pytest.FixtureRequest, tiny_folder: Path) -> Iterator[MlxBackend]:
    with closing(backend_of(tiny_folder, request.param)) as backend:
        yield backend


def prompts(seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(4, 250) for _ in range(draw.choice((3, 40, 70)))] for _ in range(12)]


def serve(backend: MlxBackend, seed: int) -> dict[int, list[int]]:
    """The answers of requests that come and go, some of them swapped or left out of steps."""
    draw = random.Random(seed)
    waiting = list(enumerate(prompts(seed)))
    running: dict[int, Run] = {}
    answers: dict[int, list[int]] = {}
    while waiting or running:
        free = sorted(set(range(NUM_SLOTS)) - {int(run.slot) for run in running.values()})
        draw.shuffle(free)
        if waiting and free and draw.random() < 0.5:
            number, prompt = waiting.pop()
            running[number] = Run(backend, prompt, slot=free.pop())
        for run in running.values():
            if run.num_computed and draw.random() < 0.03:  # to host memory and back
                snapshot = backend.save_kv(run.slot)
                backend.clear(run.slot)
                free.append(int(run.slot))
                run.slot = SlotId(free.pop(draw.randrange(len(free))))
                backend.restore_kv(run.slot, snapshot)
        if taking_part := [run for run in running.values() if draw.random() < 0.8]:
            step(backend, taking_part, max_tokens=8)
        for number, run in list(running.items()):
            if len(run.answer) >= NUM_TOKENS:
                answers[number] = run.answer
                backend.clear(run.slot)
                del running[number]
    return answers


@pytest.mark.parametrize("seed", range(3))
def test_answers_are_those_of_each_alone(backend: MlxBackend, seed: int) -> None:
    expected = [answer_alone(backend, prompt, NUM_TOKENS) for prompt in prompts(seed)]
    answers = serve(backend, seed)
    assert [answers[number] for number in range(len(expected))] == expected
    assert backend.kv_bytes == 0, "nothing is held when all have left"


def test_so_are_those_of_a_model_with_windows(windowed_folder: Path) -> None:
    with closing(backend_of(windowed_folder, "q8_0")) as backend:
        expected = [answer_alone(backend, prompt, NUM_TOKENS) for prompt in prompts(7)]
        answers = serve(backend, 7)
    assert [answers[number] for number in range(len(expected))] == expected


def test_what_has_moved_or_left_holds_no_memory(tiny_folder: Path) -> None:
    """Nothing is held of batches that rows have left, whether they run or not."""
    with closing(backend_of(tiny_folder, "f16")) as backend:
        before = mx.get_active_memory()
        runs = [Run(backend, [9 + slot] * 120, slot=slot) for slot in range(NUM_SLOTS)]
        for run in runs:
            step(backend, [run])
        for num_running in range(NUM_SLOTS, 0, -1):
            for _ in range(MAX_ABSENT_STEPS + 2):
                step(backend, runs[:num_running])
            held = mx.get_active_memory() - before
            assert held <= 1.1 * backend.kv_bytes + 65536, f"{num_running} run"
        backend.copy_prefix(runs[0].slot, SlotId(NUM_SLOTS), 64)
        for run in runs:
            backend.clear(run.slot)
            held = mx.get_active_memory() - before
            assert held <= 1.1 * backend.kv_bytes + 65536
        assert 0 < backend.kv_bytes < 64 * 3000


def test_equals_are_computed_in_one_batch_and_those_left_out_leave_it(tiny_folder: Path) -> None:
    with closing(backend_of(tiny_folder, "q8_0")) as backend:
        runs = [Run(backend, [9 + slot] * 10, slot=slot) for slot in range(4)]
        step(backend, runs)
        step(backend, runs)
        together = backend.work
        step(backend, runs)
        assert backend.work.num_cells_read - together.num_cells_read == 4 * 12
        assert backend.work.num_forwards - together.num_forwards == 1
        for _ in range(MAX_ABSENT_STEPS + 1):
            step(backend, runs[:3])
        before = backend.work
        step(backend, runs[:3])
        read = backend.work.num_cells_read - before.num_cells_read
        assert read == backend.work.num_cells_needed - before.num_cells_needed
