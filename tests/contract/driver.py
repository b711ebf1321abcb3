"""Drives a backend by hand, as the scheduler would: sequences, their chunks, steps."""

from collections.abc import Callable, Sequence
from itertools import count

from edged.backend import Backend
from edged.core.plan import Chunk, Sampling
from edged.core.types import SampledToken, SamplingParams, SeqId, SlotId

MakeBackend = Callable[[], Backend]

GREEDY = SamplingParams(temperature=0.0)
_seq_ids = count(100)


class Run:
    """One sequence in one slot of a backend."""

    def __init__(
        self,
        backend: Backend,
        prompt: str | Sequence[int],
        params: SamplingParams = GREEDY,
        *,
        slot: int = 0,
    ) -> None:
        if isinstance(prompt, str):
            prompt = backend.tokenizer.encode(prompt, add_special=True, parse_special=False)
        self.token_ids = list(prompt)
        self.num_prompt_tokens = len(prompt)
        self.num_computed = 0
        self.slot = SlotId(slot)
        self.seq_id = SeqId(next(_seq_ids))
        self.params = params
        self.drawn: list[SampledToken] = []
        self._sampling = Sampling(params, self.token_ids, self.num_prompt_tokens)

    @property
    def answer(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]

    def chunk(self, max_tokens: int | None = None) -> Chunk:
        """The next tokens to compute; samples if they are the last known ones."""
        missing = self.token_ids[self.num_computed :]
        part = missing if max_tokens is None else missing[:max_tokens]
        sampling = self._sampling if len(part) == len(missing) else None
        return Chunk(self.seq_id, self.slot, self.num_computed, tuple(part), sampling)

    def take(self, chunk: Chunk, sampled: SampledToken | None) -> None:
        self.num_computed += len(chunk.token_ids)
        if sampled is not None:
            self.token_ids.append(sampled.token_id)
            self.drawn.append(sampled)

    def restart(self) -> None:
        """Forget what was computed, as preemption by recompute does."""
        self.num_computed = 0


def step(backend: Backend, runs: Sequence[Run], max_tokens: int | None = None) -> None:
    """One step of several sequences."""
    chunks = [run.chunk(max_tokens) for run in runs]
    sampled = backend.step(chunks)
    expected = {chunk.seq_id for chunk in chunks if chunk.sampling is not None}
    assert sampled.keys() == expected, "a token is drawn for each chunk that samples, no other"
    for run, chunk in zip(runs, chunks, strict=True):
        run.take(chunk, sampled.get(chunk.seq_id))


def generate(
    backend: Backend, runs: Sequence[Run], num_tokens: int, max_tokens: int | None = None
) -> None:
    """Step until each answer has `num_tokens` tokens; chunks have at most `max_tokens`."""
    while unfinished := [run for run in runs if len(run.answer) < num_tokens]:
        step(backend, unfinished, max_tokens)


def answer_alone(
    backend: Backend,
    prompt: str | Sequence[int],
    num_tokens: int,
    params: SamplingParams = GREEDY,
    slot: int = 0,
) -> list[int]:
    """The answer of a sequence that has the backend for itself; the slot is empty afterwards."""
    run = Run(backend, prompt, params, slot=slot)
    generate(backend, [run], num_tokens)
    backend.clear(run.slot)
    return run.answer
