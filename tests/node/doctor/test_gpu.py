"""GPUs that are there and not used."""

from pathlib import Path

import pytest

from edged.node.doctor.gpu import check
from edged.node.doctor.host import group_name
from edged.node.install.layout import TREE_MARK
from tests.node.doctor.machine import ME, ROOT, Machine, found, levels

NVIDIA, AMD, INTEL = "0x10de", "0x1002", "0x8086"


@pytest.fixture
def nvidia(machine: Machine) -> Machine:
    """With a GPU, its driver and its libraries."""
    machine.device("0000:01:00.0", NVIDIA)
    machine.write("/proc/driver/nvidia/version", "NVRM version: 570")
    machine.write("/usr/lib/x86_64-linux-gnu/libcuda.so.1")
    for node in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        machine.write(f"/dev/{node}", mode=0o666)
    return machine


@pytest.fixture
def amd(machine: Machine) -> Machine:
    """With a GPU and its driver, open to a group alone."""
    machine.device("0000:03:00.0", AMD)
    machine.write("/dev/kfd", mode=0o660)
    machine.write("/dev/dri/renderD128", mode=0o660)
    return machine


def test_without_a_gpu_models_run_on_the_cpu(machine: Machine) -> None:
    machine.device("0000:00:02.0", INTEL)
    assert levels(check, machine.subject()) == {"gpu.none": "ok"}


def test_other_devices_of_a_maker_are_no_gpu(machine: Machine) -> None:
    machine.device("0000:01:00.1", NVIDIA, kind="0x040300")
    assert levels(check, machine.subject()) == {"gpu.none": "ok"}


def test_a_gpu_with_all_that_it_needs_is_in_order(nvidia: Machine) -> None:
    nvidia.llama("libggml-cuda.so")
    assert levels(check, nvidia.subject()) == {"gpu.access": "ok", "gpu.build": "ok"}


def test_a_gpu_without_its_driver_is_a_warning(machine: Machine) -> None:
    folder = machine.device("0000:01:00.0", NVIDIA)
    driver = machine.folder("/sys/bus/pci/drivers/nouveau")
    Path(machine.root / folder.lstrip("/") / "driver").symlink_to(driver)
    machine.command("apt-get", "")
    finding = found(check, machine.subject())["gpu.driver"]
    assert finding.level == "warning"
    assert "nouveau" in finding.text
    assert "nvidia-driver" in finding.fix


def test_devices_that_are_hidden_are_a_warning(nvidia: Machine) -> None:
    (nvidia.root / "dev/nvidia-uvm").unlink()
    finding = found(check, nvidia.subject())["gpu.devices"]
    assert "/dev/nvidia-uvm" in finding.text
    assert "nvidia-modprobe" in finding.fix


def test_a_driver_without_its_library_is_a_warning(nvidia: Machine) -> None:
    (nvidia.root / "usr/lib/x86_64-linux-gnu/libcuda.so.1").unlink()
    assert levels(check, nvidia.subject())["gpu.library"] == "warning"


def test_a_gpu_that_the_user_may_not_use_comes_with_the_groups_to_join(amd: Machine) -> None:
    finding = found(check, amd.subject())["gpu.access"]
    assert finding.level == "warning"
    assert "/dev/kfd and /dev/dri/renderD128" in finding.text
    group = group_name((amd.root / "dev/kfd").stat().st_gid)
    groups = "render,video" if group == "root" else group
    assert finding.fix == f"sudo usermod -aG {groups} somebody, then log in again"


def test_who_is_in_the_group_may_use_the_gpu(amd: Machine) -> None:
    (amd.root / "dev/kfd").chmod(0o666)
    (amd.root / "dev/dri/renderD128").chmod(0o666)
    assert levels(check, amd.subject())["gpu.access"] == "ok"


def test_an_amd_gpu_without_its_driver_is_a_warning(machine: Machine) -> None:
    machine.device("0000:03:00.0", AMD, kind="0x120000")
    assert levels(check, machine.subject()) == {"gpu.driver": "warning"}


def test_a_build_without_the_gpu_comes_with_the_command_to_rebuild(nvidia: Machine) -> None:
    nvidia.llama()
    fix = found(check, nvidia.subject())["gpu.build"].fix
    assert fix.startswith("CMAKE_ARGS=-DGGML_CUDA=on /venv/bin/python -m pip install ")
    assert "--force-reinstall llama-cpp-python==" in fix
    assert "the CUDA toolkit (nvcc) first" in fix
    nvidia.command("nvcc", "")
    assert "nvcc" not in found(check, nvidia.subject())["gpu.build"].fix


@pytest.mark.parametrize(
    ("folder", "mark", "command"),
    [
        ("/opt/edged", TREE_MARK, "sudo CMAKE_ARGS=-DGGML_CUDA=on scripts/install, in the"),
        ("/srv/x", TREE_MARK, "CMAKE_ARGS=-DGGML_CUDA=on scripts/install --user, in the checkout"),
        (
            "/srv/x",
            "installed-llama",
            "CMAKE_ARGS=-DGGML_CUDA=on scripts/bootstrap, in the checkout",
        ),
    ],
)
def test_an_environment_of_the_scripts_is_built_anew_by_them(
    nvidia: Machine, folder: str, mark: str, command: str
) -> None:
    nvidia.llama()
    nvidia.write(f"{folder}/{mark}")
    subject = nvidia.subject(executable=f"{folder}/bin/python")
    assert found(check, subject)["gpu.build"].fix.startswith(command)


def test_a_build_for_another_maker_does_not_count(nvidia: Machine) -> None:
    nvidia.llama("libggml-hip.so")
    assert levels(check, nvidia.subject())["gpu.build"] == "warning"


def test_a_build_for_one_of_two_gpus_is_left_alone(nvidia: Machine) -> None:
    nvidia.device("0000:06:00.0", AMD)
    nvidia.llama("libggml-cuda.so")
    assert levels(check, nvidia.subject()) == {"gpu.access": "ok", "gpu.build": "ok"}


def test_of_two_gpus_without_a_build_one_is_built_for(nvidia: Machine) -> None:
    nvidia.device("0000:06:00.0", AMD)
    nvidia.llama()
    builds = [one for one in check(nvidia.subject()) if one.check == "gpu.build"]
    assert len(builds) == 1
    assert "-DGGML_CUDA=on" in builds[0].fix


@pytest.mark.parametrize("name", ["vfio-pci", "pci-stub"])
def test_a_gpu_that_is_passed_to_a_virtual_machine_is_none_of_this_host(
    machine: Machine, name: str
) -> None:
    folder = machine.device("0000:01:00.0", NVIDIA)
    driver = machine.folder(f"/sys/bus/pci/drivers/{name}")
    Path(machine.root / folder.lstrip("/") / "driver").symlink_to(driver)
    machine.llama()
    assert levels(check, machine.subject()) == {"gpu.none": "ok"}


def test_the_service_s_groups_count_whoever_asks(amd: Machine) -> None:
    amd.service({"SupplementaryGroups": "render"})
    amd.write("/etc/passwd", "edged:x:54322:54322::/:\n")
    amd.write("/etc/group", "edged:x:54322:\nrender:x:54323:\n")
    for user in (ME, ROOT):
        finding = found(check, amd.subject("[engine]\n", user=user))["gpu.access"]
        assert finding.level == "warning"
        assert finding.fix.startswith("sudo systemctl edit edged: SupplementaryGroups=")
    amd.write("/etc/group", f"render:x:{(amd.root / 'dev/kfd').stat().st_gid}:\n")
    assert levels(check, amd.subject("[engine]\n"))["gpu.access"] == "ok"


def test_a_gpu_that_is_turned_off_is_left_alone(nvidia: Machine) -> None:
    assert levels(check, nvidia.subject("[engine]\ngpu_layers = 0\n")) == {"gpu.off": "ok"}


def test_a_mac_built_without_metal_is_a_warning(machine: Machine) -> None:
    machine.llama()
    subject = machine.subject(system="darwin", machine="arm64")
    assert "-DGGML_METAL=on" in found(check, subject)["gpu.build"].fix
    machine.llama("libggml-metal.dylib")
    assert levels(check, subject) == {"gpu.build": "ok"}


def test_access_is_what_the_system_says_of_the_one_who_asks(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    file = machine.write("/dev/kfd", mode=0o600)
    host = machine.host()
    assert not host.may("use", file)
    assert machine.host(user=ME).may("use", file)
