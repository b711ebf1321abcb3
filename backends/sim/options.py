"""The entry point of the simulated backend: its options, and loading that takes time or fails."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import msgspec

from backends.sim.backend import SimBackend, SimModel
from backends.sim.faults import TriggerFaults, Triggers
from backends.sim.profile import StepProfile
from backends.sim.tokenizer import NUM_TOKENS
from edged.backend import AnswerLength, BackendConfig, LoadProgress
from edged.clock import ManualClock, MonotonicClock
from edged.errors import ModelLoadError, Reason

KV_TYPES = ("f16", "q8_0", "q4_0")
_NUM_PROGRESS_CALLS = 20

Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
TokenId = Annotated[int, msgspec.Meta(ge=0)]

_PROFILE = StepProfile()
_MODEL = SimModel()


class SimOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every option; each is explained at the field of the same name that it sets."""

    step_s: Seconds = _PROFILE.step_s
    prefill_token_s: Seconds = _PROFILE.prefill_token_s
    decode_token_s: Seconds = _PROFILE.decode_token_s
    cell_s: Seconds = _PROFILE.cell_s
    prefill_cell_s: Seconds = _PROFILE.prefill_cell_s
    swap_byte_s: Seconds = _PROFILE.swap_byte_s
    vocab_size: Annotated[int, msgspec.Meta(ge=NUM_TOKENS, le=10**7)] = _MODEL.vocab_size
    train_context_tokens: Count = _MODEL.train_context_tokens
    bytes_per_cell: Count = _MODEL.bytes_per_cell
    eos_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = _MODEL.eos_rate
    can_swap: bool = _MODEL.can_swap
    can_interrupt: bool = _MODEL.can_interrupt
    has_chat_template: bool = _MODEL.has_chat_template
    draws_text: bool = _MODEL.draws_text
    abort_on_token: TokenId | None = None
    hang_on_token: TokenId | None = None
    fail_step_on_token: TokenId | None = None
    fail_step_always: bool = False
    once_file: str | None = None
    load_s: Seconds = 0.0
    """How long loading takes."""
    load_fail: Reason | None = None
    """The reason with which loading fails, after `load_s`."""
    load_abort: bool = False
    """After `load_s` the process aborts, as a runtime may over a hostile model file."""

    @property
    def profile(self) -> StepProfile:
        return StepProfile(
            step_s=self.step_s,
            prefill_token_s=self.prefill_token_s,
            decode_token_s=self.decode_token_s,
            cell_s=self.cell_s,
            prefill_cell_s=self.prefill_cell_s,
            swap_byte_s=self.swap_byte_s,
        )

    @property
    def model(self) -> SimModel:
        return SimModel(
            vocab_size=self.vocab_size,
            train_context_tokens=self.train_context_tokens,
            bytes_per_cell=self.bytes_per_cell,
            eos_rate=self.eos_rate,
            can_swap=self.can_swap,
            can_interrupt=self.can_interrupt,
            has_chat_template=self.has_chat_template,
            draws_text=self.draws_text,
        )

    @property
    def triggers(self) -> Triggers:
        return Triggers(
            abort_on_token=self.abort_on_token,
            hang_on_token=self.hang_on_token,
            fail_step_on_token=self.fail_step_on_token,
            fail_step_always=self.fail_step_always,
            once_file=self.once_file,
        )


def parse_options(options: Mapping[str, str]) -> SimOptions:
    """Raises ModelLoadError: BAD_CONFIG, naming the option and what was expected."""
    try:
        parsed = msgspec.convert(dict(options), SimOptions, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(sorted(SimOptions.__struct_fields__))
        raise _bad(f"options {dict(options)}: {error}; known options are {known}") from error
    if parsed.eos_rate and not parsed.draws_text:
        raise _bad(f"eos_rate {parsed.eos_rate}: expected 0 where draws_text is false")
    return parsed


def create(config: BackendConfig, progress: LoadProgress) -> SimBackend:
    """Load nothing, in as much time as `load_s` says, on the real clock.

    Raises:
        ModelLoadError: BAD_CONFIG for an option or KV type it does not know, or what `load_fail`
            asks for.
    """
    options = parse_options(config.options)
    if config.kv_type not in KV_TYPES:
        raise _bad(f"kv_type {config.kv_type!r}; expected one of {', '.join(KV_TYPES)}")
    for call in range(_NUM_PROGRESS_CALLS):
        progress(call / _NUM_PROGRESS_CALLS)
        time.sleep(options.load_s / _NUM_PROGRESS_CALLS)
    if options.load_abort:
        os.abort()
    if options.load_fail is not None:
        detail = f"loading fails with {options.load_fail}, as the option load_fail asks"
        raise ModelLoadError(options.load_fail, detail)
    progress(1.0)
    faults = None if options.triggers.is_empty else TriggerFaults(options.triggers)
    return SimBackend(config, MonotonicClock(), options.profile, faults, options.model)


def create_simulated(
    config: BackendConfig, clock: ManualClock, length_of: AnswerLength
) -> SimBackend:
    """A backend whose steps move `clock`; `length_of` says how long each answer is.

    Raises:
        ModelLoadError: BAD_CONFIG for an option it does not know.
    """
    options = parse_options(config.options)
    model = replace(options.model, length_of=length_of)
    return SimBackend(config, clock, options.profile, model=model)


def _bad(detail: str) -> ModelLoadError:
    return ModelLoadError(Reason.BAD_CONFIG, f"backend sim: {detail}")
