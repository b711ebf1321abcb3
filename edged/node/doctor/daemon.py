"""Does a daemon answer, is it of this version, and what does it say is wrong?"""

from collections.abc import Iterator

from edged.node.doctor.finding import Finding, note, ok, problem, warning
from edged.node.doctor.subject import ModelSeen, Refused, Running, Silent, Subject


def check(subject: Subject) -> Iterator[Finding]:
    match subject.ask_usual():
        case Silent(why=why):
            yield note(
                "daemon.silent",
                why,
                "start one with `edged serve`, or name another with --host",
            )
        case Refused(at, why):
            yield note(
                "daemon.refused",
                f"a daemon answers at {at}, and does not tell how it is: {why}",
                "ask as its owner over its unix socket, or set EDGED_TOKEN",
            )
        case Running() as running:
            yield from _running(subject, running)


def _running(subject: Subject, running: Running) -> Iterator[Finding]:
    if running.version != subject.version:
        yield warning(
            "daemon.version",
            f"the daemon at {running.at} is edged {running.version}, and this edgectl is of "
            f"{subject.version}",
            "restart the daemon after an update; or use the edgectl beside it",
        )
    else:
        yield ok("daemon.running", f"edged {running.version} at {running.at} is {running.state}")
    for sentence in running.warnings:
        yield warning("daemon.warning", sentence, "correct what it names, and restart the daemon")
    for model in running.models:
        yield from _model(model)


def _model(model: ModelSeen) -> Iterator[Finding]:
    if model.state == "failed":
        yield problem(
            "daemon.model",
            f"model {model.name!r} has failed: {model.failure or 'it does not say why'}",
            f"mend that, then `edgectl models load {model.name}`",
        )
    elif model.state == "restarting":
        yield note("daemon.model", f"model {model.name!r} is being restarted; requests wait")
    if model.num_engine_losses:
        yield note(
            "daemon.losses",
            f"model {model.name!r} has lost its engine {model.num_engine_losses} time(s) since "
            "the daemon started",
            "the daemon's log says how, in its lines `engine lost`",
        )
    for sentence in model.warnings:
        yield warning("daemon.model", f"model {model.name!r}: {sentence}")
