"""Preempted KV is moved to host memory and back, or computed again: whichever is faster."""

from dataclasses import replace

import pytest

from backends.sim.backend import SimModel
from backends.sim.profile import StepProfile
from edged.core.types import PreemptEvent, PreemptMode, SloTier
from tests.factories import config, request
from tests.sim.harness import simulate

LENGTHS = (20, 40, 80, 160, 320, 640, 1280, 2000)
BANDWIDTHS = tuple(10.0**exponent for exponent in (6, 6.5, 7, 7.5, 8, 8.5, 9, 9.5, 10))
"""Bytes per second."""
BYTES_PER_TOKEN = 12288
STEP_TOKENS = 256
PROFILES = {
    "gpu": StepProfile(step_s=0.012, prefill_token_s=1e-4, decode_token_s=2e-4),
    "cpu": StepProfile(step_s=0.003, prefill_token_s=4e-3, decode_token_s=6e-3),
    "long prompts": StepProfile(
        step_s=0.01, prefill_token_s=1e-4, prefill_cell_s=4e-7, decode_token_s=2e-4
    ),
}


def seconds_of(mode: PreemptMode, num_tokens: int, profile: StepProfile) -> float:
    """What the rule is about, as the simulated device takes it."""
    if mode is PreemptMode.SWAP:
        return 2 * num_tokens * BYTES_PER_TOKEN * profile.swap_byte_s
    num_steps = -(-num_tokens // STEP_TOKENS)
    attention_s = profile.prefill_cell_s * num_tokens * (num_tokens + 1) / 2
    return num_steps * profile.step_s + num_tokens * profile.prefill_token_s + attention_s


def chosen(num_tokens: int, profile: StepProfile) -> PreemptMode:
    """How an answer of so many tokens is preempted, on an engine that was just loaded."""
    prefill_s = seconds_of(PreemptMode.RECOMPUTE, num_tokens, profile)
    batch = request("batch", tier=SloTier.BATCH, prompt=num_tokens, max_tokens=400)
    after_some_s = 1.02 * prefill_s + 4 * (profile.step_s + profile.decode_token_s)
    chat = request("chat", tier=SloTier.INTERACTIVE, prompt=4, max_tokens=2, arrival_s=after_some_s)
    run = simulate(
        [batch, chat],
        num_slots=1,
        num_cells=4096,
        max_step_tokens=STEP_TOKENS,
        profile=profile,
        model=SimModel(bytes_per_cell=BYTES_PER_TOKEN),
        scheduler_config=config(
            policy="strict", max_step_tokens=STEP_TOKENS, max_snapshot_bytes=2**40, max_step_s=9.0
        ),
    )
    [event] = [event for event in run.trace if isinstance(event, PreemptEvent)]
    return event.mode


@pytest.mark.parametrize("name", PROFILES)
def test_the_faster_way_is_taken(name: str) -> None:
    right = total = 0
    modes = set()
    for bandwidth in BANDWIDTHS:
        profile = replace(PROFILES[name], swap_byte_s=1.0 / bandwidth)
        for num_tokens in LENGTHS:
            mode = chosen(num_tokens, profile)
            modes.add(mode)
            ways = {
                seconds_of(one, num_tokens, profile): one for one in PreemptMode if one != "park"
            }
            right += ways[min(ways)] is mode
            total += 1
    assert modes == {PreemptMode.SWAP, PreemptMode.RECOMPUTE}
    assert right >= 0.95 * total, f"{right} of {total}"
