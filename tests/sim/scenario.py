"""Reads and runs scheduling scenarios: commands, a line of dashes, and the trace they give.

    # what the scenario shows
    engine slots=1 cells=256 step_tokens=64 policy=strict
    at 0.000 submit batch-1 tier=batch prompt=40 max_tokens=6
    at 0.100 cancel batch-1
    at 0.200 set batch max_waiting=1 preemptible=no max_queue=none
    ----
    0.0000  batch-1[0:40]*                     batch-1 token 0

Each line of the trace is one step: when it began, what it did, and what came of it. `name[a:b]` is
a chunk, `*` means that a token is drawn, `-name` parks a running sequence, `clear n` frees slots,
`cut` ends the step early, for an arrival, with nothing computed. With `guard=SECONDS` it is an
engine that cannot do that.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from backends.sim.backend import SimBackend, SimModel
from edged.backend import BackendConfig
from edged.clock import ManualClock
from edged.core.plan import StepPlan
from edged.core.types import (
    EngineEvent,
    FinishEvent,
    FinishReason,
    OnUnattainable,
    PreemptEvent,
    QueueEvent,
    Rejected,
    Request,
    RequestId,
    ResumeEvent,
    SloTier,
    TierSpec,
    TokenEvent,
)
from edged.engine.loop import EngineLoop
from tests.factories import GPU_LIKE, TIERS, config, request
from tests.sim.harness import at, interrupt_for

SEPARATOR = "----"


@dataclass(frozen=True)
class Submit:
    at_s: float
    request: Request


@dataclass(frozen=True)
class CancelRequest:
    at_s: float
    request_id: RequestId


@dataclass(frozen=True)
class SetTier:
    at_s: float
    tier: SloTier
    changes: dict[str, str]

    def of(self, spec: TierSpec) -> TierSpec:
        """The tier as it is from then on."""
        values: dict[str, object] = {}
        for name, text in self.changes.items():
            match name:
                case "max_waiting" | "max_waiting_per_client":
                    values[name] = int(text)
                case "preemptible":
                    values[name] = text == "yes"
                case "min_share":
                    values[name] = float(text)
                case _:
                    values[_SECONDS[name]] = None if text == "none" else float(text)
        return replace(spec, **values)  # type: ignore[arg-type]  # names are checked by replace


_SECONDS = {"max_queue": "max_queue_s", "ttft": "ttft_target_s", "tpot": "tpot_target_s"}
Command = Submit | CancelRequest | SetTier


@dataclass(frozen=True)
class Scenario:
    comments: list[str]
    command_lines: list[str]
    engine: dict[str, str]
    commands: list[Command]


def parse(text: str) -> tuple[Scenario, str]:
    """The scenario above the dashes, and the trace below."""
    head, _, trace = text.partition(SEPARATOR + "\n")
    lines = [line for line in head.splitlines() if line.strip()]
    comments = [line for line in lines if line.startswith("#")]
    commands = [line for line in lines if not line.startswith("#")]
    engine: dict[str, str] = {}
    parsed: list[Command] = []
    for line in commands:
        words = line.split()
        if words[0] == "engine":
            engine.update(word.split("=") for word in words[1:])
        else:
            parsed.append(_command(words))
    return Scenario(comments, commands, engine, parsed), trace


def _command(words: list[str]) -> Command:
    at, when, verb, name, *rest = words
    assert at == "at", f"a command begins with 'at SECONDS', not {at!r}"
    fields = dict(word.split("=") for word in rest)
    if verb == "cancel":
        return CancelRequest(float(when), RequestId(name))
    if verb == "set":
        return SetTier(float(when), SloTier(name), fields)
    assert verb == "submit", f"there is no command {verb!r}"
    deadline = fields.get("deadline")
    return Submit(
        float(when),
        request(
            name,
            tier=SloTier(fields.get("tier", "standard")),
            prompt=int(fields.get("prompt", "8")),
            max_tokens=int(fields.get("max_tokens", "4")),
            arrival_s=float(when),
            deadline_s=float(deadline) if deadline else None,
            client=fields.get("client", "client"),
            expected=int(fields["expected"]) if "expected" in fields else None,
            on_unattainable=OnUnattainable(fields.get("on_unattainable", "best_effort")),
            **{
                f"{name}_target_s": float(fields[name])
                for name in ("ttft", "tpot", "ttlt")
                if name in fields
            },
        ),
    )


class _Trace:
    """Writes a line for each step."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._names: dict[int, str] = {}
        self._did = ""
        self._began_s = 0.0
        self.loop: EngineLoop | None = None
        self.clock: ManualClock | None = None
        self.start_s = 0.0
        self.on_plan: Callable[[StepPlan], bool] = lambda plan: False
        self.tiers: dict[SloTier, TierSpec] = {}

    def on_step(self, plan: StepPlan) -> None:
        assert self.loop is not None
        assert self.clock is not None
        self._began_s = self.clock.now_s() - self.start_s
        for seq, _ in self.loop.sequences():
            self._names[seq.seq_id] = seq.request.request_id
        did = [f"clear {' '.join(str(slot) for slot in plan.clear)}"] if plan.clear else []
        did += [f"evict {self._names[e.seq_id]} by {e.mode} for {e.cause}" for e in plan.evict]
        holders = {seq.slot: seq.request.request_id for seq, _ in self.loop.sequences()}
        did += [f"take back the lease of {holders[slot]}" for slot in plan.shorten]
        did += [f"restore {self._names[restore.seq_id]}" for restore in plan.restore]
        for chunk in plan.chunks:
            end = chunk.start + len(chunk.token_ids)
            mark = "*" if chunk.sampling else ""
            did.append(f"{self._names[chunk.seq_id]}[{chunk.start}:{end}]{mark}")
        gone = {c.seq_id for c in plan.chunks} | {e.seq_id for e in plan.evict}
        did += [
            f"-{seq.request.request_id}"
            for seq, _ in self.loop.sequences()
            if seq.slot is not None and seq.seq_id not in gone
        ]
        did += ["cut"] if self.on_plan(plan) else []
        self._did = ", ".join(did)

    def on_events(self, events: list[EngineEvent]) -> None:
        told = ", ".join(_tell(event) for event in events)
        self.lines.append(f"{self._began_s:.4f}  {self._did:<44}  {told}".rstrip())
        self._did = ""

    def note(self, at_s: float, text: str) -> None:
        self.lines.append(f"{at_s:.4f}  {text}")


def _tell(event: EngineEvent) -> str:
    match event:
        case TokenEvent(request_id=name, token_index=index):
            return f"{name} token {index}"
        case QueueEvent(request_id=name, position=position, eta_s=eta_s):
            return f"{name} waits (place {position}, {eta_s:.1f} s)"
        case PreemptEvent(request_id=name, mode=mode):
            return f"{name} preempted ({mode})"
        case ResumeEvent(request_id=name):
            return f"{name} resumed"
        case FinishEvent(request_id=name, reason=reason, num_generated_tokens=num_tokens):
            return f"{name} ends ({reason}, {num_tokens} tokens)"


def run(scenario: Scenario) -> str:
    """The trace of a scenario."""
    options = scenario.engine
    step_tokens = int(options.get("step_tokens", "128"))
    clock = ManualClock()
    backend_config = BackendConfig(
        "",
        context_tokens=int(options.get("cells", "256")),
        max_sequences=int(options.get("slots", "2")),
        max_step_tokens=step_tokens,
    )
    trace = _Trace()
    settings = config(
        policy=options.get("policy", "strict"),
        max_step_tokens=step_tokens,
        share_quantum_s=float(options.get("quantum", "0.5")),
        max_snapshot_bytes=int(options.get("snapshot_bytes", str(2**30))),
        arrival_guard_s=float(options.get("guard", "0.1")),
    )
    model = SimModel(can_interrupt="guard" not in options)
    backend = SimBackend(backend_config, clock, GPU_LIKE, model=model)
    loop = EngineLoop(backend, settings, clock, trace.on_step)
    loop.calibrate()
    trace.loop, trace.clock, trace.start_s = loop, clock, clock.now_s()
    trace.tiers = dict(settings.tiers)
    commands = sorted(scenario.commands, key=lambda command: command.at_s)

    def on_plan(plan: StepPlan) -> bool:
        coming = (at(one.request, trace.start_s) for one in commands if isinstance(one, Submit))
        cost = loop.scheduler.cost
        return model.can_interrupt and interrupt_for(coming, plan, cost, backend, clock.now_s())

    trace.on_plan = on_plan
    while True:
        now_s = clock.now_s() - trace.start_s
        while commands and commands[0].at_s <= now_s:
            _apply(commands.pop(0), loop, trace, now_s)
        events = loop.run_once()
        loop.check()
        if events is not None:
            trace.on_events(events)
            continue
        moments = [command.at_s + trace.start_s for command in commands[:1]]
        wakeup_s = loop.next_wakeup_s()
        moments += [wakeup_s] if wakeup_s is not None else []
        if not moments:
            return "\n".join(trace.lines) + "\n"
        clock.advance_to(min(moments) + 1e-9)


def _apply(command: Command, loop: EngineLoop, trace: _Trace, now_s: float) -> None:
    match command:
        case CancelRequest(request_id=request_id):
            ended = loop.cancel(request_id, FinishReason.CANCELLED)
            trace.note(now_s, _tell(ended) if ended else f"{request_id} is unknown")
        case SetTier(tier=tier, changes=changes):
            trace.tiers[tier] = command.of(trace.tiers[tier])
            loop.set_tiers(trace.tiers.values())
            trace.note(now_s, f"{tier} has {', '.join(map('='.join, changes.items()))}")
        case Submit(request=wanted):
            answer = loop.submit(at(wanted, trace.start_s))
            if isinstance(answer, Rejected):
                trace.note(now_s, f"{wanted.request_id} refused ({answer.reason})")
            else:
                place = f"place {answer.position}"
                if answer.promised is not None:
                    place += ", promised" if answer.promised else ", not promised"
                trace.note(now_s, f"{wanted.request_id} admitted ({place})")


__all__ = ["SEPARATOR", "TIERS", "Scenario", "parse", "run"]
