"""Makes what tests are not about: each takes the fields a test names and fills in the rest."""

from collections.abc import Mapping
from dataclasses import replace

from backends.sim.backend import SimBackend, SimModel
from backends.sim.faults import Faults
from backends.sim.profile import StepProfile
from edged.backend import BackendConfig
from edged.clock import ManualClock
from edged.core.policy import SchedulerConfig
from edged.core.scheduler import Scheduler
from edged.core.sequence import Sequence, by_rank
from edged.core.types import (
    TIER_RANK,
    ClientId,
    KvAbilities,
    KvGeometry,
    OnUnattainable,
    PastService,
    Request,
    RequestId,
    SamplingParams,
    ServiceLevel,
    SloTier,
    TierSpec,
)
from edged.engine.loop import EngineLoop

TIERS: Mapping[SloTier, TierSpec] = {
    SloTier.INTERACTIVE: TierSpec(SloTier.INTERACTIVE, 1.0, 0.1, 64, 16, 30.0, False, 0.0),
    SloTier.STANDARD: TierSpec(SloTier.STANDARD, 5.0, 0.2, 256, 64, 120.0, True, 0.1),
    SloTier.BATCH: TierSpec(SloTier.BATCH, None, None, 4096, 4096, None, True, 0.05),
}
"""The configuration's defaults."""


def tiers(**changes: object) -> Mapping[SloTier, TierSpec]:
    """The default tiers with the same changes made to each."""
    return {tier: replace(spec, **changes) for tier, spec in TIERS.items()}  # type: ignore[arg-type]  # names are checked by replace


def request(
    name: str = "r",
    *,
    tier: SloTier = SloTier.STANDARD,
    prompt: int | tuple[int, ...] = 8,
    max_tokens: int | None = 4,
    arrival_s: float = 0.0,
    deadline_s: float | None = None,
    client: str = "client",
    sampling: SamplingParams | None = None,
    generated: tuple[int, ...] = (),
    past: PastService | None = None,
    expected: int | None = None,
    on_unattainable: OnUnattainable = OnUnattainable.BEST_EFFORT,
    **targets: float | None,
) -> Request:
    """`prompt` is the ids, or how many of them; two names give two prompts. `targets` are fields of
    `ServiceLevel`, put over the tier's."""
    spec = TIERS[tier]
    if isinstance(prompt, int):
        seed = sum(name.encode())
        prompt = tuple((seed + 7 * i) % 250 for i in range(prompt))
    return Request(
        request_id=RequestId(name),
        client_id=ClientId(client),
        prompt_token_ids=prompt,
        sampling=sampling or SamplingParams(max_tokens=max_tokens, seed=len(name)),
        service=replace(
            ServiceLevel(tier, spec.ttft_target_s, spec.tpot_target_s, spec.ttlt_target_s),
            **targets,
        ),
        arrival_s=arrival_s,
        deadline_s=deadline_s,
        generated_token_ids=generated,
        past=past or PastService(),
        expected_tokens=expected,
        on_unattainable=on_unattainable,
    )


def config(**changes: object) -> SchedulerConfig:
    defaults = SchedulerConfig(
        policy="strict",
        tiers=TIERS,
        max_step_tokens=512,
        max_step_s=0.5,
        arrival_guard_s=0.1,
        share_quantum_s=0.5,
        max_snapshot_bytes=2**30,
    )
    return replace(defaults, **changes)  # type: ignore[arg-type]  # names are checked by replace


def geometry(*, num_slots: int = 4, num_cells: int = 256) -> KvGeometry:
    return KvGeometry(num_slots, num_cells, num_cells, 1024, 1024, 0, "q8_0", "q8_0")


def scheduler(
    *, num_slots: int = 4, num_cells: int = 256, can_swap: bool = True, **changes: object
) -> Scheduler:
    kv = geometry(num_slots=num_slots, num_cells=num_cells)
    return Scheduler(config(**changes), kv, frozenset(), KvAbilities(can_swap))


GPU_LIKE = StepProfile(
    step_s=0.010, prefill_token_s=0.0002, decode_token_s=0.0005, swap_byte_s=2e-10
)


def engine(
    clock: ManualClock,
    *,
    num_slots: int = 4,
    num_cells: int = 256,
    max_step_tokens: int = 512,
    profile: StepProfile = GPU_LIKE,
    faults: Faults | None = None,
    model: SimModel | None = None,
    **changes: object,
) -> EngineLoop:
    """The production loop on the simulated backend, calibrated."""
    backend_config = BackendConfig(
        model_path="",
        context_tokens=num_cells,
        max_sequences=num_slots,
        max_step_tokens=max_step_tokens,
    )
    backend = SimBackend(backend_config, clock, profile, faults, model)
    loop = EngineLoop(backend, config(max_step_tokens=max_step_tokens, **changes), clock)
    loop.calibrate()
    return loop


def check_eviction(
    cause: Sequence,
    victim: Sequence,
    policy: str = "strict",
    tiers: Mapping[SloTier, TierSpec] = TIERS,
) -> None:
    """I5: nobody yields to the less urgent. In the terms of the tiers: to one that waits only what
    is less urgent and may be preempted; under a baseline nobody, or who is relegated."""
    assert by_rank(cause) < by_rank(victim), f"I5: {cause.seq_id} evicts {victim.seq_id}"
    if policy == "slo":
        may_pause = cause.rank.band == 0  # an answer that has time, or one that is relegated
        assert cause.slot is not None or cause.rank.band < victim.rank.band or may_pause, "I5"
        assert cause.slot is not None or tiers[victim.tier].preemptible, "I5: not preemptible"
        return
    if policy in ("edf_relegate", "hybrid"):
        bands = cause.rank.band, victim.rank.band
        assert cause.slot is not None or bands == (0, 1), f"I5: {bands} preempts"
        return
    cause_tier, victim_tier = (
        TIER_RANK[seq.tier] if policy == "strict" else 0 for seq in (cause, victim)
    )
    if policy in ("strict", "fcfs"):
        cause_rank = (cause_tier, cause.request.arrival_s, cause.seq_id)
        victim_rank = (victim_tier, victim.request.arrival_s, victim.seq_id)
        assert cause_rank < victim_rank, f"I5: {victim.seq_id} is the more urgent"
    if cause.slot is None:
        assert cause_tier < victim_tier, f"I5: {cause.seq_id} evicts its equal {victim.seq_id}"
        assert tiers[victim.tier].preemptible, f"I5: {victim.seq_id} may not be preempted"
