"""Is edged a service of this host, does it run, and is it this edged?"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from edged.node.doctor.finding import Finding, note, ok, problem, warning
from edged.node.doctor.host import Host
from edged.node.doctor.subject import Subject
from edged.node.doctor.unit import SCOPES, UNIT, Scope, Unit, show

_ASKED = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "Result",
    "ExecMainStatus",
    "NRestarts",
    "NeedDaemonReload",
    "ExecStart",
)
_SHOWN_CHARACTERS = 200


def check(subject: Subject) -> Iterator[Finding]:
    host = subject.host
    if host.system == "darwin":
        yield from _launchd(host)
        return
    if not host.exists("/run/systemd/system"):
        yield ok("service.none", "systemd does not run here")
        return
    found = False
    for scope in SCOPES:
        unit = show(host, scope, _ASKED)
        if unit.get("LoadState", "not-found") == "not-found":
            continue
        found = True
        yield from _check(subject, scope, unit)
    if not found:
        yield ok("service.none", f"there is no {UNIT}: edged is no service of this host")


def _check(subject: Subject, scope: Scope, unit: Mapping[str, str]) -> Iterator[Finding]:
    host = subject.host
    is_system = scope == "--system"
    systemctl = "sudo systemctl" if is_system else "systemctl --user"
    of = "" if is_system else f" of user {host.user.name}"
    match unit["LoadState"]:
        case "masked":
            yield note("service.masked", f"{UNIT}{of} is masked", f"{systemctl} unmask {UNIT}")
            return
        case state if state != "loaded":
            yield problem(
                "service.unit",
                f"{UNIT}{of} cannot be read ({state})",
                f"{systemctl} status {UNIT} tells why",
            )
            return
        case _:
            journal = f"journalctl {'-u' if is_system else '--user-unit'} {UNIT}"
            said = partial(_last_line, host, scope)
            yield _state(unit, f"{UNIT}{of}", systemctl, journal, said)
    if unit.get("UnitFileState") == "disabled":
        yield note(
            "service.disabled",
            f"{UNIT}{of} does not start with the {'host' if is_system else 'session'}",
            f"{systemctl} enable {UNIT}",
        )
    if unit.get("NeedDaemonReload") == "yes":
        yield warning(
            "service.changed",
            f"{UNIT}{of} was changed, and systemd goes by what it was",
            f"{systemctl} daemon-reload && {systemctl} restart {UNIT}",
        )
    yield from _program(subject, of, systemctl, Unit(unit).program)
    if not is_system:
        yield from _linger(host)


def _state(
    unit: Mapping[str, str], name: str, systemctl: str, journal: str, last_line: Callable[[], str]
) -> Finding:
    """Between two attempts of one that fails again and again, systemd says that it starts."""
    mend = f"{journal} tells why; then {systemctl} restart {UNIT}"
    result, num_restarts = unit.get("Result", "success"), int(unit.get("NRestarts") or 0)
    how = "" if result == "success" else f" ({result}, code {unit.get('ExecMainStatus', '?')})"
    match unit.get("ActiveState"), unit.get("SubState", ""):
        case ("failed", _):
            return problem("service.failed", f"{name} has failed{how}{last_line()}", mend)
        case ("activating", sub_state) if num_restarts or sub_state.startswith("auto-restart"):
            times = f"; it was started again {num_restarts} time(s)" if num_restarts else ""
            return problem(
                "service.failing",
                f"{name} fails, and is started again and again{how}{times}{last_line()}",
                mend,
            )
        case ("active" | "reloading", sub_state) if num_restarts:
            return note(
                "service.restarted",
                f"{name} is active ({sub_state}), and was started again {num_restarts} time(s) "
                "after it had failed",
                f"{journal} tells why",
            )
        case ("active" | "reloading", sub_state):
            return ok("service.active", f"{name} is active ({sub_state})")
        case ("activating" | "deactivating", _):
            way = "starting" if unit["ActiveState"] == "activating" else "stopping"
            return note("service.changing", f"{name} is {way}")
        case (state, _):
            return note("service.inactive", f"{name} is {state}", f"{systemctl} start {UNIT}")


def _last_line(host: Host, scope: Scope) -> str:
    """Of the daemon; what systemd says about it, which comes after, is known."""
    of_daemon = f"{'_SYSTEMD_UNIT' if scope == '--system' else '_SYSTEMD_USER_UNIT'}={UNIT}"
    told = host.run("journalctl", of_daemon, "-n", "1", "-o", "cat", "--no-pager", "-q")
    if told is None or not told.output:
        return ""
    return f"; its last line: {told.output.splitlines()[-1][:_SHOWN_CHARACTERS]}"


def _program(subject: Subject, of: str, systemctl: str, program: str | None) -> Iterator[Finding]:
    """Whether what the unit starts is there, and of this version."""
    if program is None:
        return
    if not subject.host.exists(program):
        yield problem(
            "service.program",
            f"{UNIT}{of} starts {program}, which is not there",
            f"install edged again, or correct the unit and {systemctl} daemon-reload",
        )
        return
    told = subject.host.run(str(subject.host.path(program)), "version", "--json")
    try:
        version = json.loads(told.output)["version"] if told is not None else None
    except (ValueError, KeyError, TypeError):
        version = None
    if version is None:
        yield note("service.version", f"the version of {program} cannot be asked for")
    elif version != subject.version:
        yield warning(
            "service.version",
            f"{UNIT}{of} starts edged {version}, and this edgectl is of {subject.version}",
            f"install one of them again, or use the edgectl that is beside {program}",
        )
    else:
        yield ok("service.version", f"{program} is edged {version}")


def _linger(host: Host) -> Iterator[Finding]:
    name = host.user.name
    if not host.exists(f"/var/lib/systemd/linger/{name}"):
        yield note(
            "service.linger",
            f"{UNIT} of user {name} ends when {name} logs out, and begins at the next login",
            f"sudo loginctl enable-linger {name}",
        )


def _launchd(host: Host) -> Iterator[Finding]:
    home = host.environ.get("HOME", "")
    files = [
        *host.glob(f"{home}/Library/LaunchAgents", "*edged*.plist"),
        *host.glob("/Library/LaunchDaemons", "*edged*.plist"),
    ]
    for file in files:
        told = host.run("launchctl", "list", file.stem)
        if told is not None and told.code == 0:
            yield ok("service.active", f"{file.stem} is loaded")
        else:
            yield note(
                "service.inactive", f"{file.stem} is not loaded", f"launchctl load -w {file}"
            )
    if not files:
        yield ok("service.none", "edged is no service of this host")
