"""`edgectl profile`: what the daemon has learned about a model's steps."""

from pathlib import Path

import pytest

from edged.errors import EdgedError, Reason
from edged.simulate.profile import DeviceProfile, find_profile
from edged.v1 import admin_pb2
from tests.cli.fake_daemon import FakeDaemon, model
from tests.cli.program import Program

LEARNED = DeviceProfile(
    name="tiny",
    step_s=0.005,
    prefill_token_s=0.004,
    decode_token_s=0.003,
    cell_s=2e-5,
    prefill_cell_s=1e-5,
    swap_byte_s=1e-9,
    bytes_per_cell=12000,
    num_slots=16,
    num_cells=16384,
    max_step_tokens=512,
    can_interrupt=True,
)


def in_service(num_steps: int, times: float = 1.0) -> admin_pb2.Model:
    """A model whose steps take so many times as long as those of `LEARNED`."""
    status = model(num_steps=num_steps, max_step_tokens=512, can_interrupt=True)
    status.kv.snapshot_bytes_per_token = 12000
    status.step_costs.base_s = 0.005 * times
    status.step_costs.prefill_token_s = 0.004 * times
    status.step_costs.decode_s = 0.003 * times
    status.step_costs.cell_s = 2e-5 * times
    status.step_costs.prefill_cell_s = 1e-5 * times
    status.step_costs.transfer_byte_s = 1e-9
    return status


def told(*models: admin_pb2.Model) -> list[admin_pb2.Status]:
    return [admin_pb2.Status(models=[one]) for one in models]


def test_a_profile_is_what_a_simulation_reads(
    edgectl: Program, daemon: FakeDaemon, tmp_path: Path
) -> None:
    daemon.status.models[0].CopyFrom(in_service(200))
    for words in (("profile",), ("profile", "tiny")):
        done = edgectl.run(*words)
        assert done.returncode == 0
        path = tmp_path / "device.json"
        path.write_text(done.stdout)
        assert find_profile(str(path)) == LEARNED


@pytest.mark.parametrize(
    ("name", "status", "sentence"),
    [
        ("nobody", in_service(999), "there is no model 'nobody'; expected one of tiny"),
        ("tiny", in_service(199), "model 'tiny' has run 199 steps; expected 200 or more"),
        ("tiny", model(), "model 'tiny' has run 0 steps; expected 200 or more"),
    ],
)
def test_what_has_no_profile_says_so(
    edgectl: Program, daemon: FakeDaemon, name: str, status: admin_pb2.Model, sentence: str
) -> None:
    daemon.status.models[0].CopyFrom(status)
    done = edgectl.run("profile", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr


def test_the_mean_is_weighed_by_steps_and_lasts_as_long_as_asked(
    edgectl: Program, daemon: FakeDaemon, tmp_path: Path
) -> None:
    # 300 steps at twice the time, 100 at six times: three times on the whole.
    daemon.watched = told(in_service(100, 9.0), in_service(400, 2.0), in_service(500, 6.0))
    daemon.holds_watch = True
    done = edgectl.run("profile", "--seconds", "1")
    assert "400 steps" in done.stderr
    path = tmp_path / "device.json"
    path.write_text(done.stdout)
    profile = find_profile(str(path))
    assert profile.step_s == pytest.approx(0.015)
    assert profile.cell_s == pytest.approx(6e-5)
    assert profile.swap_byte_s == LEARNED.swap_byte_s


@pytest.mark.parametrize("watched", [told(in_service(700)), told(in_service(900), in_service(700))])
def test_a_time_without_a_step_tells_the_last(
    edgectl: Program, daemon: FakeDaemon, watched: list[admin_pb2.Status]
) -> None:
    daemon.watched = watched
    assert '"step_s": 0.005' in edgectl.run("profile", "--seconds", "9").stdout


def test_a_daemon_that_ends_is_told(edgectl: Program, daemon: FakeDaemon) -> None:
    done = edgectl.run("profile", "--seconds", "9")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the daemon ended" in done.stderr
    daemon.watch_error = EdgedError(Reason.DRAINING, "the daemon is draining")
    assert "draining" in edgectl.run("profile", "--seconds", "9").stderr
