"""`edged simulate`: what each policy would do with a workload, as a table."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import msgspec

from edged.cli.columns import Column, laid_out
from edged.cli.exits import CommandError, ExitCode
from edged.cli.output import emit, emit_json, note
from edged.config.settings import DEFAULT_TIERS, SchedulerSettings
from edged.core.policies import POLICIES
from edged.core.policy import SchedulerConfig
from edged.core.types import ServiceLevel, SloTier, TierSpec
from edged.simulate.measure import Targets, measure
from edged.simulate.profile import DeviceProfile, find_profile
from edged.simulate.report import Row, as_json, table, tier_table, work_table
from edged.simulate.run import run_jobs
from edged.simulate.workload import Job, at_rate, mean_rate, mixed, read_trace, synthetic

MIN_JOBS = 2
MAX_JOBS = 1_000_000
DEFAULT_RATE = 4.0
MAX_SNAPSHOT_BYTES = 16 * 2**30
_TIER = re.compile(r"(?P<tier>[a-z]+)=(?P<share>[0-9.]+)(?P<targets>(,(ttft|tpot|ttlt)=[0-9.]+)*)")


@dataclass(frozen=True)
class TierMix:
    """Which part of the jobs a tier has, and what it is promised."""

    share: float
    targets: Targets


DEFAULT_MIX: Mapping[SloTier, TierMix] = {
    SloTier.INTERACTIVE: TierMix(50, Targets(ttft_s=1.0, tpot_s=0.1)),
    SloTier.STANDARD: TierMix(30, Targets(ttft_s=5.0, tpot_s=0.2)),
    SloTier.BATCH: TierMix(20, Targets()),
}


@dataclass(frozen=True)
class Experiment:
    """What is simulated: every policy at every rate with every seed."""

    jobs: Sequence[Job] | None
    """Of a trace; None draws them anew for each seed."""
    num_jobs: int
    gap_cv: float
    rates: Sequence[float]
    policies: Sequence[str]
    mix: Mapping[SloTier, TierMix]
    profile: DeviceProfile
    num_seeds: int


def simulate(
    *,
    trace: Path | None,
    is_synthetic: bool,
    num_jobs: int,
    gap_cv: float | None,
    rate: str,
    load: str,
    tiers: Sequence[str],
    policies: str,
    profile: str,
    num_slots: int | None,
    num_cells: int | None,
    num_seeds: int,
    json: bool,
    picture: Path | None,
) -> None:
    """The command, from what the user typed.

    Raises:
        CommandError, ConfigError: what was typed, or a file that was named, cannot be used.
    """
    drawn = [
        flag
        for flag, given in (("--synthetic", is_synthetic), ("--gap-cv", gap_cv is not None))
        if given
    ]
    if trace is not None and drawn:
        told = f"{drawn[0]} is of requests that are drawn: expected without --trace"
        raise CommandError(told, ExitCode.USAGE)
    device = find_profile(profile)
    device = msgspec.structs.replace(
        device,
        num_slots=num_slots or device.num_slots,
        num_cells=num_cells or device.num_cells,
    )
    traced = None if trace is None else read_trace(trace)[:num_jobs]
    if traced is not None and len(traced) < MIN_JOBS:
        raise CommandError(f"--trace {trace}: has {len(traced)} requests; expected more")
    usual_rate = DEFAULT_RATE if traced is None else mean_rate(traced)
    if usual_rate == inf:
        raise CommandError(f"--trace {trace}: all its requests come at the same moment")
    rates = parse_numbers("--rate", rate) if rate else [usual_rate]
    loads = parse_numbers("--load", load)
    experiment = Experiment(
        jobs=traced,
        num_jobs=num_jobs,
        gap_cv=1.0 if gap_cv is None else gap_cv,
        rates=[one * factor for one in rates for factor in loads],
        policies=parse_policies(policies),
        mix=parse_mix(tiers),
        profile=device,
        num_seeds=num_seeds,
    )
    run_experiment(experiment, json=json, picture=picture)


def run_experiment(experiment: Experiment, *, json: bool, picture: Path | None) -> None:
    """Simulate and print, and draw if asked to; progress goes to stderr, a line for each row."""
    rows: list[Row] = []
    plot = None if picture is None else _plotter(picture)
    for rate in experiment.rates:
        workloads = [_workload(experiment, rate, seed) for seed in range(experiment.num_seeds)]
        num_jobs = experiment.num_jobs if experiment.jobs is None else len(experiment.jobs)
        if len(workloads[0]) < num_jobs and not rows:
            note(
                f"{num_jobs - len(workloads[0])} of {num_jobs} requests do not fit into the "
                f"device's {experiment.profile.num_cells} KV tokens and are left out"
            )
        for policy in experiment.policies:
            note(f"simulating {policy} at {rate:.3g} requests/s")
            scheduler = _scheduler(policy, experiment.profile, experiment.mix)
            targets = {tier: given.targets for tier, given in experiment.mix.items()}
            services = {tier: _service(tier, targets[tier]) for tier in experiment.mix}
            runs = [run_jobs(jobs, scheduler, services, experiment.profile) for jobs in workloads]
            rows.append(Row(policy, rate, tuple(measure(run, targets) for run in runs)))
    if json:
        emit_json({"profile": experiment.profile.name, "rows": as_json(rows)})
    else:
        _print(table(rows), num_words=1)
        emit("\n")
        _print(work_table(rows), num_words=1)
        emit("\n")
        _print(tier_table(rows), num_words=3)
    if plot is not None:
        plot(rows)


def _print(lines: Sequence[Sequence[str]], num_words: int) -> None:
    """Words are aligned to the left, numbers to the right."""
    heading, *rest = lines
    columns = [Column(head, is_number=place >= num_words) for place, head in enumerate(heading)]
    emit(laid_out(columns, rest, colour=False))


def _plotter(path: Path) -> Callable[[Sequence[Row]], None]:
    """What draws to a file; found out before all is simulated, that it can."""
    if path.suffix != ".png" or not path.parent.is_dir() or path.is_dir():
        raise CommandError(
            f"--plot {path}: expected FILE.png in a directory that exists", ExitCode.USAGE
        )
    try:
        from edged.simulate.plot import plot  # noqa: PLC0415  # is not always installed, and slow
    except ImportError as error:
        raise CommandError(
            f"--plot needs matplotlib: pip install 'edged[plot]' ({error})"
        ) from None

    def draw(rows: Sequence[Row]) -> None:
        try:
            plot(rows, path)
        except OSError as error:
            raise CommandError(f"--plot {path}: cannot be written: {error.strerror}") from error
        note(f"drawn to {path}")

    return draw


def _workload(experiment: Experiment, rate: float, seed: int) -> list[Job]:
    jobs = experiment.jobs
    if jobs is None:
        jobs = synthetic(seed, num_jobs=experiment.num_jobs, rate=rate, gap_cv=experiment.gap_cv)
    shares = [(tier, given.share) for tier, given in experiment.mix.items()]
    return fitting(at_rate(mixed(jobs, shares, seed), rate), experiment.profile)


def fitting(jobs: Sequence[Job], profile: DeviceProfile) -> list[Job]:
    """Without those that no sequence could hold.

    Raises:
        CommandError: next to none is left.
    """
    fit = [job for job in jobs if job.num_prompt_tokens + job.num_answer_tokens < profile.num_cells]
    if len(fit) < MIN_JOBS:
        raise CommandError(
            f"{len(fit)} of {len(jobs)} requests fit into the device's {profile.num_cells} KV "
            f"tokens; expected {MIN_JOBS} or more"
        )
    return [replace(job, number=number) for number, job in enumerate(fit)]


def _service(tier: SloTier, targets: Targets) -> ServiceLevel:
    return ServiceLevel(tier, targets.ttft_s, targets.tpot_s, targets.ttlt_s)


def _scheduler(
    policy: str, profile: DeviceProfile, mix: Mapping[SloTier, TierMix]
) -> SchedulerConfig:
    """The scheduler of a daemon with the default settings that refuses nobody."""
    defaults = SchedulerSettings()
    return SchedulerConfig(
        policy=policy,
        tiers={
            tier: _tier_spec(tier, mix[tier].targets if tier in mix else Targets())
            for tier in SloTier
        },
        max_step_tokens=profile.max_step_tokens,
        max_step_s=defaults.max_step_s,
        arrival_guard_s=defaults.arrival_guard_s,
        share_quantum_s=defaults.share_quantum_s,
        max_snapshot_bytes=MAX_SNAPSHOT_BYTES,
        relegated_share=defaults.relegated_share,
        lease_tokens=defaults.lease_tokens,
        horizon_tokens=defaults.horizon_tokens,
    )


def _tier_spec(tier: SloTier, targets: Targets) -> TierSpec:
    default = DEFAULT_TIERS[tier]
    return TierSpec(
        tier=tier,
        ttft_target_s=targets.ttft_s,
        tpot_target_s=targets.tpot_s,
        max_waiting=MAX_JOBS,
        max_waiting_per_client=MAX_JOBS,
        max_queue_s=None,
        preemptible=default.preemptible,
        min_share=default.min_share,
        ttlt_target_s=targets.ttlt_s,
    )


# ── What the user typed ──────────────────────────────────────────────────────────────────────────


def parse_mix(texts: Sequence[str]) -> Mapping[SloTier, TierMix]:
    """Of "interactive=50,ttft=2" and the like; none is the default mix.

    Raises:
        CommandError: not of that form, or a tier that there is not.
    """
    mix: dict[SloTier, TierMix] = {}
    for text in texts:
        found = _TIER.fullmatch(text)
        if found is None or found["tier"] not in list(SloTier):
            raise CommandError(
                f"--tier {text!r}: expected TIER=SHARE[,ttft=S][,tpot=S][,ttlt=S] with one of "
                f"{', '.join(SloTier)}",
                ExitCode.USAGE,
            )
        pairs = [part.split("=") for part in found["targets"].split(",") if part]
        given = dict(pairs)
        if SloTier(found["tier"]) in mix or len(given) < len(pairs):
            told = f"--tier {text!r}: expected each tier once, and each of its targets"
            raise CommandError(told, ExitCode.USAGE)
        targets = Targets(*(_positive(text, given.get(one)) for one in ("ttft", "tpot", "ttlt")))
        mix[SloTier(found["tier"])] = TierMix(_positive(text, found["share"]) or 0.0, targets)
    return mix or DEFAULT_MIX


def _positive(text: str, number: str | None) -> float | None:
    if number is None:
        return None
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise CommandError(f"--tier {text!r}: {number!r}: expected a number > 0", ExitCode.USAGE)
    return value


def parse_policies(text: str) -> list[str]:
    """Raises CommandError: there is no such policy, or it is named twice."""
    if not text:
        return list(POLICIES)
    names = [name.strip().replace("-", "_") for name in text.split(",")]
    for number, name in enumerate(names):
        if name not in POLICIES:
            known = ", ".join(POLICIES)
            raise CommandError(f"--policies: {name!r}: expected some of {known}", ExitCode.USAGE)
        if name in names[:number]:
            raise CommandError(f"--policies: {name!r}: expected once", ExitCode.USAGE)
    return names


def parse_numbers(option: str, text: str) -> list[float]:
    """Raises CommandError: something is no number > 0."""
    numbers: list[float] = []
    for part in text.split(","):
        try:
            numbers.append(float(part))
        except ValueError:
            numbers.append(0.0)
        if not 1e-6 <= numbers[-1] <= 1e6:
            raise CommandError(
                f"{option}: {part!r}: expected numbers from 0.000001 to 1000000", ExitCode.USAGE
            )
    return numbers
