"""The simulator drives the production loop: small workloads whose outcome is known."""

from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest

from edged.core.policies import POLICIES
from edged.core.policy import SchedulerConfig
from edged.core.types import FinishReason, ServiceLevel, SloTier, TierSpec
from edged.simulate.profile import DeviceProfile
from edged.simulate.run import Run, run_jobs
from edged.simulate.workload import Job, synthetic

PROFILE = DeviceProfile(
    name="test",
    step_s=0.01,
    prefill_token_s=0.001,
    decode_token_s=0.002,
    cell_s=0.0,
    prefill_cell_s=0.0,
    swap_byte_s=0.0,
    bytes_per_cell=100,
    num_slots=4,
    num_cells=4096,
    max_step_tokens=512,
)
SERVICES = {tier: ServiceLevel(tier) for tier in SloTier}


def scheduler(policy: str = "fcfs") -> SchedulerConfig:
    tiers = {tier: TierSpec(tier, None, None, 10**6, 10**6, None, True, 0.0) for tier in SloTier}
    return SchedulerConfig(policy, tiers, 512, 0.5, 0.06, 0.5, 2**30)


def run(*jobs: Job, policy: str = "fcfs", profile: DeviceProfile = PROFILE) -> Run:
    return run_jobs(jobs, scheduler(policy), SERVICES, profile)


def test_an_answer_takes_what_the_profile_says_and_has_its_length() -> None:
    (life,) = run(Job(0, 0.0, 100, 5)).lives
    assert life.finish is not None
    assert life.finish.reason is FinishReason.STOP
    first_s, *_ = times_s = list(life.token_times_s)
    assert first_s == pytest.approx(0.01 + 100 * 0.001)
    # Its end-of-generation token is drawn, and is no token of the answer.
    assert [b - a for a, b in pairwise(times_s)] == pytest.approx([0.012] * (len(times_s) - 1))
    assert life.finish.num_generated_tokens == len(times_s)


def test_jobs_come_when_they_come() -> None:
    early, late = run(Job(0, 0.0, 10, 2), Job(1, 50.0, 10, 2)).lives
    assert early.token_times_s[0] == pytest.approx(0.02)
    assert late.token_times_s[0] == pytest.approx(50.02)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_job_ends_under_every_policy_and_twice_the_same(policy: str) -> None:
    jobs = [
        replace(job, num_prompt_tokens=job.num_prompt_tokens % 400 + 4, num_answer_tokens=20)
        for job in synthetic(3, num_jobs=40, rate=20.0)
    ]
    once, again = (run(*jobs, policy=policy) for _ in range(2))
    assert all(life.finish is not None for life in once.lives)
    assert [life.token_times_s for life in once.lives] == [
        life.token_times_s for life in again.lives
    ]


def test_the_shortest_prompt_goes_first_under_srpf_only() -> None:
    jobs = [Job(0, 0.0, 200, 20), Job(1, 0.01, 400, 2), Job(2, 0.02, 20, 2)]
    one_slot = replace_slots(1)
    for policy, is_short_first in (("fcfs", False), ("srpf", True)):
        _, long, short = run(*jobs, policy=policy, profile=one_slot).lives
        assert (short.token_times_s[0] < long.token_times_s[0]) == is_short_first


@pytest.mark.parametrize("policy", ["slo", "strict"])
def test_an_arrival_cuts_a_step_short_on_a_device_that_can(policy: str) -> None:
    jobs = [Job(0, 0.0, 400, 2, SloTier.BATCH), Job(1, 0.1, 20, 2, SloTier.INTERACTIVE)]
    services = SERVICES | {SloTier.INTERACTIVE: ServiceLevel(SloTier.INTERACTIVE, 1.0, 0.1)}
    tiers = {
        tier: replace(spec, ttft_target_s=services[tier].ttft_target_s)
        for tier, spec in scheduler().tiers.items()
    }
    config = replace(scheduler(policy), tiers=tiers, arrival_guard_s=0.25)
    first_s = []
    for can_interrupt in (False, True):
        profile = msgspec.structs.replace(PROFILE, can_interrupt=can_interrupt)
        _, chat = run_jobs(jobs, config, services, profile).lives
        first_s.append(chat.token_times_s[0] - 0.1)
    alone_s = 0.01 + 20 * 0.001
    assert first_s[1] == pytest.approx(alone_s, rel=0.01)
    assert first_s[0] > 2 * alone_s


def replace_slots(num_slots: int) -> DeviceProfile:
    return msgspec.structs.replace(PROFILE, num_slots=num_slots)
