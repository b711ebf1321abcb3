"""What a run was worth: the columns of the table.

A request is *violated* if one of its targets was missed, or it was refused. Token n of an answer
with a TTFT and a TPOT target is due at arrival + TTFT + (n − 1) · TPOT, so an answer that is ahead
may pause; it misses its TPOT when a token comes after it was due although the first one came in
time.

*Goodput* is finished requests without a violation per second. *Smooth goodput* counts tokens: one
that came when it was due is worth 1, a later one less, down to 0 when it is as late again as the
target allowed at all (after "Revisiting SLOs and system level metrics in LLM serving", arXiv
2410.14257, whose tokens have deadlines too). A token's worth depends on its own moment alone, so
neither delaying nor dropping one raises the sum.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from edged.core.types import ClientId, MissCause, SloTier
from edged.simulate.run import Life, Run

LONG_PART = 0.1
"""The longest prompts, as a part of all, that have a column of their own."""
DEEP = 20
PERCENTILES = (50, 95, 99)
_FOR_OTHERS = frozenset({MissCause.OVERLOAD, MissCause.RELEGATED, MissCause.TARGETS})


@dataclass(frozen=True, slots=True)
class Targets:
    """Seconds from the arrival, but for `tpot_s`; None promises nothing."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    ttlt_s: float | None = None


@dataclass(frozen=True, slots=True)
class TierMeasures:
    num_jobs: int
    violated: float
    ttft_s: tuple[float, ...]
    """At `PERCENTILES`; nan where no answer has begun."""
    tpot_s: tuple[float, ...]
    ttlt_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measures:
    violated: float
    """Part of all jobs."""
    violated_long: float
    """Part of those with the longest prompts."""
    violated_light: float
    """Part of those of clients that sent less than an even share of all."""
    missed_tpot: float
    """Part of the jobs that have such a target."""
    goodput: float
    """Jobs per second."""
    smooth_goodput: float
    """Tokens per second."""
    tokens_per_s: float
    promised: float
    """Part of the jobs with targets that were promised them; nan if the policy promises nothing."""
    broken: float
    """Part of those that missed a target all the same, as the daemon counts; nan if none was
    promised any."""
    broken_ttft: float
    """The same, of those whose first token came too late."""
    bound_held: float
    """Part of the bounds of waits, told at a place of `DEEP` or more, that were kept; nan if none
    was told."""
    num_relegated: int
    """Jobs that missed a target for the sake of others."""
    relegated_p99_s: float
    """Their time to a first token."""
    num_turns: int
    """Jobs that were served by the share of those relegated or without targets."""
    num_swaps: int
    num_recomputes: int
    chunk_tokens: tuple[float, ...]
    """Prompt tokens of the steps that had any, at `PERCENTILES`."""
    worst_wait_s: float
    """Longest time to a first token."""
    num_unfinished: int
    fairness: float
    """Jain's index over the tokens per second of waiting and being served that clients got; nan
    for a single one."""
    tiers: Mapping[SloTier, TierMeasures]


@dataclass(frozen=True, slots=True)
class _Verdict:
    ttft: bool
    tpot: bool
    ttlt: bool

    @property
    def violated(self) -> bool:
        return self.ttft or self.tpot or self.ttlt


def measure(run: Run, targets: Mapping[SloTier, Targets]) -> Measures:
    """The columns of one run, which has at least one job."""
    lives = run.lives
    verdicts = [_judge(life, targets[life.job.tier]) for life in lives]
    bad = [verdict.violated for verdict in verdicts]
    num_long = max(1, math.ceil(LONG_PART * len(lives)))
    by_prompt = sorted(range(len(lives)), key=lambda i: -lives[i].job.num_prompt_tokens)
    light = _light_clients(lives)
    with_tpot = [
        verdict.tpot
        for life, verdict in zip(lives, verdicts, strict=True)
        if targets[life.job.tier].tpot_s is not None
    ]
    waits_s = [_ttft_s(life) for life in lives if life.token_times_s]
    with_targets = [life for life in lives if life.promised is not None]
    promised = [
        (life, verdict)
        for life, verdict in zip(lives, verdicts, strict=True)
        if life.promised is True
    ]
    relegated = [life for life in lives if _was_relegated(life)]
    relegated_s = percentiles(_ttft_s(life) for life in relegated if life.token_times_s)
    return Measures(
        violated=_part(bad),
        violated_long=_part(bad[i] for i in by_prompt[:num_long]),
        violated_light=_part(
            verdict.violated
            for life, verdict in zip(lives, verdicts, strict=True)
            if life.job.client_id in light
        ),
        missed_tpot=_part(with_tpot),
        goodput=(len(bad) - sum(bad)) / run.ended_s,
        smooth_goodput=sum(_worth(life, targets[life.job.tier]) for life in lives) / run.ended_s,
        tokens_per_s=sum(len(life.token_times_s) for life in lives) / run.ended_s,
        promised=len(promised) / len(with_targets) if with_targets else math.nan,
        broken=_part_of_some(not _was_held(life) for life, _ in promised),
        broken_ttft=_part_of_some(verdict.ttft for _, verdict in promised),
        bound_held=_bound_held(lives),
        num_relegated=len(relegated),
        relegated_p99_s=relegated_s[PERCENTILES.index(99)],
        num_turns=run.num_turns,
        chunk_tokens=percentiles(run.chunk_tokens),
        num_swaps=sum(life.num_swaps for life in lives),
        num_recomputes=sum(life.num_recomputes for life in lives),
        worst_wait_s=max(waits_s, default=math.nan),
        num_unfinished=sum(life.finish is None for life in lives),
        fairness=jain(rates) if len(rates := _service_rates(lives)) > 1 else math.nan,
        tiers={
            tier: _measure_tier([life for life in lives if life.job.tier is tier], targets[tier])
            for tier in SloTier
            if any(life.job.tier is tier for life in lives)
        },
    )


def _judge(life: Life, targets: Targets) -> _Verdict:
    if life.finish is None or not life.token_times_s:
        return _Verdict(True, targets.tpot_s is not None, targets.ttlt_s is not None)
    arrival_s, times_s = life.job.arrival_s, life.token_times_s
    missed_ttft = targets.ttft_s is not None and times_s[0] - arrival_s > targets.ttft_s
    missed_ttlt = targets.ttlt_s is not None and times_s[-1] - arrival_s > targets.ttlt_s
    missed_tpot = False
    if targets.tpot_s is not None and not missed_ttft:
        first_due_s = times_s[0] if targets.ttft_s is None else arrival_s + targets.ttft_s
        tpot_s = targets.tpot_s
        missed_tpot = any(at_s > first_due_s + n * tpot_s for n, at_s in enumerate(times_s))
    return _Verdict(missed_ttft, missed_tpot, missed_ttlt)


def _worth(life: Life, targets: Targets) -> float:
    """Tokens of the answer, each by how late it was."""
    times_s, arrival_s = life.token_times_s, life.job.arrival_s
    if targets.ttft_s is None and targets.ttlt_s is None:
        return float(len(times_s))
    allowed_s = targets.ttlt_s if targets.ttft_s is None else targets.ttft_s
    assert allowed_s is not None, "one of the two is given"
    step_s = targets.tpot_s or 0.0
    if targets.ttft_s is not None and targets.tpot_s is None:
        times_s = times_s[:1]
    late_s = (at_s - arrival_s - allowed_s - n * step_s for n, at_s in enumerate(times_s))
    worth = sum(max(0.0, 1.0 - max(0.0, one) / allowed_s) for one in late_s)
    return worth + len(life.token_times_s) - len(times_s)


def _measure_tier(lives: Sequence[Life], targets: Targets) -> TierMeasures:
    begun = [life for life in lives if life.token_times_s]
    gaps_s = [
        (life.token_times_s[-1] - life.token_times_s[0]) / (len(life.token_times_s) - 1)
        for life in begun
        if len(life.token_times_s) > 1
    ]
    totals_s = [life.token_times_s[-1] - life.job.arrival_s for life in begun if life.finish]
    return TierMeasures(
        num_jobs=len(lives),
        violated=_part(_judge(life, targets).violated for life in lives),
        ttft_s=percentiles(_ttft_s(life) for life in begun),
        tpot_s=percentiles(gaps_s),
        ttlt_s=percentiles(totals_s),
    )


def _bound_held(lives: Iterable[Life]) -> float:
    return _part_of_some(
        life.token_times_s[0] <= notice.at_s + notice.eta_bound_s
        for life in lives
        if life.token_times_s
        for notice in life.notices
        if notice.position >= DEEP and notice.eta_bound_s < math.inf
    )


def _light_clients(lives: Sequence[Life]) -> Set[ClientId]:
    counts = Counter(life.job.client_id for life in lives)
    return {client for client, count in counts.items() if count * len(counts) < len(lives)}


def _was_relegated(life: Life) -> bool:
    outcome = None if life.finish is None else life.finish.outcome
    return outcome is not None and outcome.miss_cause in _FOR_OTHERS


def _was_held(life: Life) -> bool:
    outcome = None if life.finish is None else life.finish.outcome
    return outcome is not None and outcome.held


def _ttft_s(life: Life) -> float:
    return life.token_times_s[0] - life.job.arrival_s


def _service_rates(lives: Iterable[Life]) -> list[float]:
    tokens: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for life in lives:
        if life.token_times_s:
            client = life.job.client_id
            tokens[client] = tokens.get(client, 0.0) + len(life.token_times_s)
            spent_s = life.token_times_s[-1] - life.job.arrival_s
            seconds[client] = seconds.get(client, 0.0) + spent_s
    return [tokens[client] / max(seconds[client], 1e-9) for client in tokens]


def jain(values: Sequence[float]) -> float:
    """1 when all are equal, 1 / n when one has everything; nan for none."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else math.nan


def percentiles(values: Iterable[float]) -> tuple[float, ...]:
    """At `PERCENTILES`, by nearest rank."""
    ordered = sorted(values)
    if not ordered:
        return (math.nan,) * len(PERCENTILES)
    return tuple(ordered[math.ceil(len(ordered) * one / 100) - 1] for one in PERCENTILES)


def _part_of_some(flags: Iterable[bool]) -> float:
    """nan of none."""
    known = list(flags)
    return sum(known) / len(known) if known else math.nan


def _part(flags: Iterable[bool]) -> float:
    known = list(flags)
    return sum(known) / len(known) if known else 0.0
