"""Is there a GPU that llama.cpp could use and does not: no driver, no permission, built without?

All of it is worth a warning and no more: models run on the CPU instead, only slower.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edged.node.doctor.environment import daemon_host
from edged.node.doctor.finding import Finding, note, ok, warning
from edged.node.doctor.host import Host, group_name
from edged.node.doctor.runtime import build_command, compiler_command, package_folder
from edged.node.doctor.subject import Subject
from edged.node.doctor.unit import EDIT

_DISPLAY, _ACCELERATOR = "0x03", "0x12"
"""First byte of a PCI class."""
_PASSING_ON = ("vfio-pci", "pci-stub", "pciback")
"""Drivers that keep a device for a virtual machine."""


@dataclass(frozen=True, slots=True)
class Maker:
    name: str
    option: str
    """Of CMake, with which llama.cpp is built for it."""
    libraries: tuple[str, ...]
    """In the file names of llama.cpp's libraries that can use it."""
    tool: str
    """The command that such a build needs."""
    toolkit: str
    """Where that is from."""


MAKERS: Mapping[str, Maker] = {
    "0x10de": Maker(
        "NVIDIA", "-DGGML_CUDA=on", ("ggml-cuda", "ggml-vulkan"), "nvcc", "the CUDA toolkit"
    ),
    "0x1002": Maker(
        "AMD", "-DGGML_HIP=on", ("ggml-hip", "ggml-vulkan"), "hipcc", "ROCm's HIP toolkit"
    ),
}
"""By the vendor's number on the PCI bus."""

_CUDA_LIBRARIES = (
    "usr/lib/*-linux-gnu/libcuda.so.1",
    "usr/lib64/libcuda.so.1",
    "usr/lib/libcuda.so.1",
    "usr/lib/wsl/lib/libcuda.so.1",
    "usr/local/nvidia/lib64/libcuda.so.1",
    "run/opengl-driver/lib/libcuda.so.1",
)


def check(subject: Subject) -> Iterator[Finding]:
    host = subject.host
    if "llama_cpp" not in subject.backends:
        yield ok("gpu.unused", "no model is run by llama.cpp")
        return
    if host.system == "darwin":
        yield from _metal(host)
        return
    makers = _makers(host)
    if not makers:
        yield ok("gpu.none", "no GPU of NVIDIA or AMD: models run on the CPU")
        return
    if subject.models and all(m.engine.gpu_layers == 0 for m in subject.models.values()):
        yield ok("gpu.off", "there is a GPU, and engine.gpu_layers = 0 leaves it alone")
        return
    of_host = [maker for maker in MAKERS.values() if maker.name in makers]
    # A processor has a small GPU of its own: a build for the large one is not to be replaced.
    looked_at = _built_for(subject) or of_host
    for maker in looked_at:
        if maker.name == "NVIDIA":
            yield from _nvidia(subject, makers[maker.name])
        else:
            yield from _amd(subject)
    of_daemon = daemon_host(subject)
    if of_daemon is not None:
        yield from _build(of_daemon, looked_at[0])


def has_usable_build(subject: Subject) -> bool:
    """Whether llama.cpp may well put layers on a GPU here."""
    is_unseen = daemon_host(subject) is None
    return bool(_makers(subject.host) if is_unseen else _built_for(subject))


def _built_for(subject: Subject) -> list[Maker]:
    """Whose GPU is here and can be used by the daemon's llama.cpp, as far as that can be seen."""
    of_daemon, here = daemon_host(subject), _makers(subject.host)
    folder = None if of_daemon is None else package_folder(of_daemon, "llama_cpp")
    return [
        maker
        for maker in MAKERS.values()
        if maker.name in here and _libraries(folder, maker.libraries)
    ]


def _makers(host: Host) -> dict[str, list[Path]]:
    """The GPUs on the PCI bus by their maker; under WSL, that of the Windows below."""
    found: dict[str, list[Path]] = {}
    for device in host.glob("/sys/bus/pci/devices", "*"):
        inside = f"/sys/bus/pci/devices/{device.name}"
        kind = host.read(f"{inside}/class") or ""
        maker = MAKERS.get(host.read(f"{inside}/vendor") or "")
        if (device / "driver").resolve().name in _PASSING_ON:
            continue
        if maker is not None and kind.startswith((_DISPLAY, _ACCELERATOR)):
            found.setdefault(maker.name, []).append(device)
    if host.exists("/dev/dxg") and host.exists("/usr/lib/wsl/lib/libcuda.so.1"):
        found.setdefault("NVIDIA", [])
    return found


def _nvidia(subject: Subject, devices: list[Path]) -> Iterator[Finding]:
    host = subject.host
    if not devices:
        yield ok("gpu.driver", "NVIDIA's driver of the Windows below")
        return
    drivers = {(device / "driver").resolve().name for device in devices}
    if not (host.exists("/proc/driver/nvidia/version") or host.exists("/dev/nvidiactl")):
        instead = ", which the driver nouveau has" if "nouveau" in drivers else ""
        yield warning(
            "gpu.driver",
            f"there is an NVIDIA GPU{instead}, and NVIDIA's driver is not loaded",
            _nvidia_driver_command(host),
        )
        return
    nodes = ["/dev/nvidiactl", "/dev/nvidia-uvm"]
    nodes += [f"/dev/{node.name}" for node in host.glob("/dev", "nvidia[0-9]*")] or ["/dev/nvidia0"]
    missing = [node for node in nodes if not host.exists(node)]
    if missing:
        yield warning(
            "gpu.devices",
            f"NVIDIA's driver is loaded, and {' and '.join(missing)} cannot be seen here",
            "sudo nvidia-modprobe -c0 -u; in a container, start it with the GPU (--gpus all)",
        )
        return
    yield from _access(subject, nodes, "an NVIDIA GPU")
    if not any(host.glob("/", pattern) for pattern in _CUDA_LIBRARIES):
        yield warning(
            "gpu.library",
            "NVIDIA's driver is loaded, and its library libcuda.so.1 is in no usual folder",
            "install the driver's libraries, of the same version as the driver; in a container, "
            "start it with NVIDIA's container runtime",
        )


def _amd(subject: Subject) -> Iterator[Finding]:
    host = subject.host
    renderers = [f"/dev/dri/{node.name}" for node in host.glob("/dev/dri", "renderD*")]
    if not host.exists("/dev/kfd") or not renderers:
        missing = "/dev/kfd" if renderers else "/dev/dri/renderD*"
        yield warning(
            "gpu.driver",
            f"there is an AMD GPU, and {missing} is not there: its driver is not loaded, or "
            "hidden from here",
            "sudo modprobe amdgpu; in a container, start it with --device /dev/kfd "
            "--device /dev/dri",
        )
        return
    yield from _access(subject, ["/dev/kfd", *renderers], "an AMD GPU")


def _access(subject: Subject, nodes: list[str], gpu: str) -> Iterator[Finding]:
    host, user = subject.host, subject.user
    closed = [node for node in nodes if not host.may("use", host.path(node), user)]
    if not closed:
        yield ok("gpu.access", f"{gpu}, and {user.name} may use it")
        return
    groups = {group_name(found.st_gid) for node in closed if (found := host.stat(node))}
    groups = groups - {"root"} or {"render", "video"}
    yield warning(
        "gpu.access",
        f"there is {gpu}, and user {user.name} may not use {' and '.join(closed)}",
        f"{EDIT}: SupplementaryGroups={' '.join(sorted(groups))}"
        if subject.is_service
        else f"sudo usermod -aG {','.join(sorted(groups))} {user.name}, then log in again",
    )


def _build(host: Host, maker: Maker) -> Iterator[Finding]:
    folder = package_folder(host, "llama_cpp")
    if folder is None:
        return  # that it is missing is told under "runtime"
    libraries = _libraries(folder, maker.libraries)
    if libraries:
        yield ok("gpu.build", f"llama.cpp was built for it: {', '.join(libraries)}")
        return
    needs = "" if _has_tool(host, maker) else f"; it needs {maker.toolkit} ({maker.tool}) first"
    if host.which("c++", "g++", "clang++") is None:
        needs += f"; and a compiler: {compiler_command(host)}"
    yield warning(
        "gpu.build",
        f"there is a GPU of {maker.name}, and llama.cpp was built without support for it",
        build_command(host, maker.option) + needs,
    )


def _libraries(folder: Path | None, names: tuple[str, ...]) -> list[str]:
    if folder is None:
        return []
    files = (file.name for file in folder.glob("lib/lib*"))
    return sorted({file.partition(".")[0] for file in files if any(n in file for n in names)})


def _has_tool(host: Host, maker: Maker) -> bool:
    usual = (f"/usr/local/cuda/bin/{maker.tool}", f"/opt/rocm/bin/{maker.tool}")
    return host.which(maker.tool) is not None or any(host.exists(path) for path in usual)


def _nvidia_driver_command(host: Host) -> str:
    if host.which("ubuntu-drivers"):
        return "sudo ubuntu-drivers install, then restart"
    if host.which("apt-get"):
        return "sudo apt-get install nvidia-driver (of the archive's non-free part), then restart"
    if host.which("pacman"):
        return "sudo pacman -S nvidia, then restart"
    return "install NVIDIA's driver as the distribution says, then restart"


def _metal(host: Host) -> Iterator[Finding]:
    if host.machine != "arm64":
        yield note("gpu.none", "no Apple Silicon: models run on the CPU")
        return
    folder = package_folder(host, "llama_cpp")
    if folder is None or _libraries(folder, ("ggml-metal",)):
        yield ok("gpu.build", "Apple Silicon, whose GPU llama.cpp uses as it is built")
        return
    yield warning(
        "gpu.build",
        "llama.cpp was built without Metal, so the GPU is idle",
        build_command(host, "-DGGML_METAL=on"),
    )
