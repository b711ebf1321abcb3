"""Is the configuration usable?"""

from collections.abc import Iterator

from edged.node.doctor.finding import Finding, note, ok, problem, warning
from edged.node.doctor.subject import Subject

_OTHERS_MAY_WRITE = 0o002


def check(subject: Subject) -> Iterator[Finding]:
    if subject.is_hidden:
        yield note(
            "configuration.unseen",
            f"user {subject.host.user.name} may not read {subject.file}, so that what it sets "
            "is not looked at",
            "sudo edgectl doctor",
        )
    for line in subject.config_problems:
        yield problem(
            "configuration.wrong",
            line,
            "correct it; `edged config reference` lists every setting and its rule",
        )
    if subject.settings is not None:
        where = "no file, so the defaults" if subject.file is None else str(subject.file)
        models = ", ".join(subject.settings.models)
        yield ok(
            "configuration.read", f"{where}: {len(subject.settings.models)} model(s): {models}"
        )
    if subject.file is not None:
        try:
            found = subject.file.stat()
        except OSError:
            return
        if found.st_mode & _OTHERS_MAY_WRITE:
            yield warning(
                "configuration.writable",
                f"everybody may write to {subject.file}, and by it choose what the daemon runs",
                f"chmod o-w {subject.file}",
            )
