"""The commands that look at a daemon and operate it: their text, their JSON, their exit codes."""

import json

import pytest

from edged.errors import EdgedError, Reason
from edged.v1 import admin_pb2, inference_pb2
from tests.cli.fake_daemon import REQUEST_ID, FakeDaemon, model
from tests.cli.program import Program

MIB = 1024 * 1024
FAILED = model(
    "broken",
    is_default=False,
    state=admin_pb2.MODEL_STATE_FAILED,
    failure="not a GGUF file",
    engine_pid=0,
)


def request(request_id: str, **fields: object) -> admin_pb2.RequestInfo:
    made = admin_pb2.RequestInfo(
        request_id=request_id,
        model="tiny",
        client="app",
        tier=inference_pb2.TIER_BATCH,
        state=admin_pb2.REQUEST_STATE_PREEMPTED,
        num_prompt_tokens=70,
        num_computed_tokens=87,
        max_tokens=256,
        age_s=187.0,
        num_preemptions=2,
    )
    made.MergeFrom(admin_pb2.RequestInfo(**fields))  # type: ignore[arg-type]  # fields by name
    return made


def test_status_tells_the_daemon_and_each_model(edgectl: Program, daemon: FakeDaemon) -> None:
    daemon.status.models.append(FAILED)
    done = edgectl.run("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("edged 9.8.7  ready  up 1m15s  policy strict  80 MiB resident\n")
    bar = "[--------------------]"
    assert f"kv q8_0, 12288 bytes per token: {bar} 0/16384 tokens, 0/16 slots" in done.stdout
    assert "not a GGUF file" in done.stdout
    assert "\x1b" not in done.stdout


def test_status_tells_the_work_of_a_model_that_has_worked(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    assert "steps" not in edgectl.run("status").stdout
    load = admin_pb2.TierStatus(tier=inference_pb2.TIER_BATCH, num_running=3, num_finished=12)
    load.MergeFrom(admin_pb2.TierStatus(num_promised=9, num_broken=1, num_relegated=2))
    daemon.status.models[0].MergeFrom(
        admin_pb2.Model(
            num_steps=50,
            num_interrupted_steps=4,
            num_parks=3,
            num_swaps=2,
            decode_tokens_per_s=87.25,
            tiers=[load],
        )
    )
    text = edgectl.run("status").stdout
    assert "87.2 tokens/s, 50 steps, 4 cut short, 3 parked, 2 swaps, 0 recomputes" in text
    assert text.splitlines()[-1].split() == ["batch", "0", "3", "0", "12", "0", "9", "1", "2"]


def test_status_as_json_has_every_field_by_its_proto_name(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    daemon.status.models.append(admin_pb2.Model(name="other"))
    status = json.loads(edgectl.run("status", "--json").stdout)
    assert set(status) == set(admin_pb2.Status.DESCRIPTOR.fields_by_name)
    assert (status["state"], status["resident_bytes"]) == ("ready", 80 * 1024 * 1024)
    tiny, other = status["models"]
    assert set(tiny) == set(admin_pb2.Model.DESCRIPTOR.fields_by_name)
    assert (tiny["state"], tiny["kv"]["effective_type"]) == ("ready", "q8_0")
    assert (other["state"], other["kv"]) == ("unspecified", None)


MEMORY = model(
    memory=[
        admin_pb2.MemoryUse(pool="cuda:0", weights_bytes=100 * MIB, kv_bytes=192 * MIB),
        admin_pb2.MemoryUse(pool="host", compute_bytes=10 * MIB),
    ],
    pools_at_load=[
        admin_pb2.MemoryPool(
            name="cuda:0",
            free_bytes=8000 * MIB,
            reserved_bytes=200 * MIB,
            margin_bytes=512 * MIB,
            weights_bytes=100 * MIB,
        )
    ],
    device="cuda:0",
    kv=admin_pb2.KvStatus(
        effective_type="q8_0",
        bytes_per_token=12288,
        capacity_tokens=16384,
        used_tokens=8192,
        parked_tokens=1,
        cached_tokens=4096,
        snapshot_bytes=12288 * 100,
        snapshot_bytes_per_token=12288,
        max_snapshot_bytes=12288 * 200,
        max_disk_bytes=12288 * 1000,
        max_bytes=7188 * MIB,
        max_bytes_is_auto=True,
    ),
)


def rows(text: str) -> list[str]:
    """Its lines without the head, each with single blanks."""
    return [" ".join(line.split()) for line in text.splitlines()[1:]]


def test_kv_tells_where_kv_is_what_is_allocated_and_why(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    daemon.status.models[0].CopyFrom(MEMORY)
    states, pools, reasons = edgectl.run("kv").stdout.split("\n\n")
    assert rows(states) == [
        "tiny cuda:0 running [##########----------] 50% 8192 96 MiB 192 MiB",
        "tiny cuda:0 parked [#-------------------] 0% 1 12 KiB 192 MiB",
        "tiny cuda:0 cached [#####---------------] 25% 4096 48 MiB 192 MiB",
        "tiny cuda:0 free [#####---------------] 25% 4095 48 MiB 192 MiB",
        "tiny host swapped [##########----------] 50% 100 1 MiB 2 MiB",
        "tiny host cached [--------------------] 0% 0 0 B 2 MiB",
        "tiny disk cached [--------------------] 0% 0 0 B 12 MiB",
    ]
    assert rows(pools) == [
        "cuda:0 tiny 100 MiB 192 MiB 0 B 0 B 292 MiB",
        "host tiny 0 B 0 B 10 MiB 1 MiB 11 MiB",
    ]
    assert reasons.splitlines() == [
        "tiny on cuda:0: 7.8 GiB free - 200 MiB reserved for other models - 512 MiB margin - "
        "100 MiB weights",
        "tiny: so KV can have 7.0 GiB; 16384 tokens of q8_0 take 192 MiB",
    ]


def test_kv_adds_up_what_models_take_of_one_pool(edgectl: Program, daemon: FakeDaemon) -> None:
    other = admin_pb2.Model()
    other.CopyFrom(MEMORY)
    other.name = "other"
    other.kv.max_bytes_is_auto = False
    daemon.status.models[0].CopyFrom(MEMORY)
    daemon.status.models.extend([other, FAILED])
    _, pools, reasons = edgectl.run("kv").stdout.split("\n\n")
    assert "cuda:0 (all) 200 MiB 384 MiB 0 B 0 B 584 MiB" in rows(pools)
    assert "other: at most 7.0 GiB of KV, as kv_memory says" in reasons


def test_kv_tells_of_saved_kv_whatever_the_model_lies_in(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    model = daemon.status.models[0]
    model.CopyFrom(MEMORY)
    del model.memory[1]
    _, pools, _ = edgectl.run("kv").stdout.split("\n\n")
    assert rows(pools)[1] == "host tiny 0 B 0 B 0 B 1 MiB 1 MiB"


def test_kv_without_a_loaded_model_says_so(edgectl: Program, daemon: FakeDaemon) -> None:
    daemon.status.models[0].CopyFrom(FAILED)
    daemon.status.models[0].ClearField("kv")
    assert edgectl.run("kv").stdout == "no model is loaded\n"
    told = json.loads(edgectl.run("kv", "--json").stdout)
    assert [one["name"] for one in told["models"]] == ["broken"]


def test_watching_prints_each_status_until_the_stream_ends(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    loading = model(state=admin_pb2.MODEL_STATE_LOADING, load_progress=0.25)
    daemon.watched = [admin_pb2.Status(models=[loading]), daemon.status]
    text = edgectl.run("status", "--watch").stdout
    assert text.index("loading 25%") < text.index("edged 9.8.7")
    lines = edgectl.run("status", "--watch", "--json").stdout.splitlines()
    assert [json.loads(line)["models"][0]["state"] for line in lines] == ["loading", "ready"]


def test_ps_lists_requests_with_place_and_progress(edgectl: Program, daemon: FakeDaemon) -> None:
    daemon.requests = [
        request("aaaa-1", state=admin_pb2.REQUEST_STATE_RUNNING),
        request("bbbb-2", position=0, eta_s=2.5, promised=True),
    ]
    heads, running, waiting = edgectl.run("ps").stdout.splitlines()
    assert heads.split() == [
        *("ID", "CLIENT", "TIER", "STATE", "POSITION", "ETA", "PROMISED"),
        *("TOKENS", "AGE", "PREEMPTIONS"),
    ]
    assert running.split() == [
        *("aaaa-1", "app", "batch", "running", "-", "-", "-", "87/70+256", "3m07s", "2")
    ]
    assert waiting.split()[3:7] == ["preempted", "0", "2.5s", "yes"]


def test_ps_names_the_models_where_there_are_several(edgectl: Program, daemon: FakeDaemon) -> None:
    daemon.requests = [request("aaaa-1"), request("bbbb-2", model="other")]
    heads, _, second = edgectl.run("ps").stdout.splitlines()
    assert (heads.split()[-1], second.split()[-1]) == ("MODEL", "other")


def test_ps_as_json_tells_a_running_request_by_a_null_position(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    daemon.requests = [request("aaaa-1", state=admin_pb2.REQUEST_STATE_RUNNING)]
    (row,) = json.loads(edgectl.run("ps", "--json").stdout)["requests"]
    assert (row["tier"], row["state"], row["position"]) == ("batch", "running", None)


def test_tiers_lists_targets_and_limits(edgectl: Program, daemon: FakeDaemon) -> None:
    daemon.tiers = [
        admin_pb2.TierInfo(
            tier=inference_pb2.TIER_INTERACTIVE, ttft_target_s=1.0, max_waiting=64, is_default=True
        ),
        admin_pb2.TierInfo(tier=inference_pb2.TIER_BATCH, preemptible=True, min_share=0.05),
    ]
    _, interactive, batch = edgectl.run("tiers").stdout.splitlines()
    assert interactive.split()[:4] == ["interactive", "1", "s", "-"]
    assert interactive.split()[-1] == "yes"
    assert batch.split() == ["batch", "-", "-", "-", "0", "0", "-", "yes", "0.05"]
    tiers = json.loads(edgectl.run("tiers", "--json").stdout)["tiers"]
    assert [tier["ttft_target_s"] for tier in tiers] == [1.0, None]


def test_models_lists_what_is_configured(edgectl: Program, daemon: FakeDaemon) -> None:
    daemon.status.models.append(FAILED)
    done = edgectl.run("models")
    assert "tiny (default)  ready" in done.stdout
    assert "not a GGUF file" in done.stdout
    names = [row["name"] for row in json.loads(edgectl.run("models", "--json").stdout)["models"]]
    assert names == ["tiny", "broken"]


def test_loading_a_model_waits_until_it_is_ready(edgectl: Program, daemon: FakeDaemon) -> None:
    loading = model(state=admin_pb2.MODEL_STATE_LOADING, load_progress=0.5)
    daemon.loading = [model(state=admin_pb2.MODEL_STATE_UNLOADED), loading, model()]
    done = edgectl.run("models", "load", "tiny")
    assert (done.returncode, done.stdout, done.stderr) == (0, "tiny is ready\n", "loading tiny\n")
    lines = edgectl.run("models", "load", "tiny", "--json").stdout.splitlines()
    states = [json.loads(line)["state"] for line in lines]
    assert states == ["unloaded", "loading", "ready"]


def test_a_model_that_cannot_be_loaded_is_an_error_with_its_reason(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    daemon.loading = [FAILED]
    done = edgectl.run("models", "load", "broken")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "edgectl: not a GGUF file\n"


def test_unloading_a_model_says_so(edgectl: Program) -> None:
    assert edgectl.run("models", "unload", "tiny").stdout == "tiny is unloaded\n"
    unloaded = json.loads(edgectl.run("models", "unload", "tiny", "--json").stdout)
    assert (unloaded["name"], unloaded["state"]) == ("tiny", "unloaded")


def test_cancel_takes_a_prefix_and_tells_the_whole_id(edgectl: Program, daemon: FakeDaemon) -> None:
    assert edgectl.run("cancel", "req-").stdout == f"{REQUEST_ID} is cancelled\n"
    assert json.loads(edgectl.run("cancel", "req-", "--json").stdout) == {"request_id": REQUEST_ID}
    assert daemon.cancel_ids == ["req-", "req-"]


def test_an_unknown_request_is_an_error(edgectl: Program, daemon: FakeDaemon) -> None:
    daemon.error = EdgedError(Reason.UNKNOWN_REQUEST, "there is no request 'zzzz'")
    done = edgectl.run("cancel", "zzzz")
    assert (done.returncode, done.stderr) == (1, "edgectl: there is no request 'zzzz'\n")


def test_drain_leaves_the_time_to_the_daemon_unless_it_is_given(
    edgectl: Program, daemon: FakeDaemon
) -> None:
    assert edgectl.run("drain").stdout == "draining: 3 request(s) to finish\n"
    assert json.loads(edgectl.run("drain", "--timeout", "0", "--json").stdout) == {
        "num_requests": 3
    }
    assert [drain.HasField("drain_s") for drain in daemon.drains] == [False, True]


def test_reload_tells_what_came_of_it(edgectl: Program, daemon: FakeDaemon) -> None:
    assert edgectl.run("reload").stdout == "nothing has changed\n"
    daemon.reloaded = admin_pb2.ReloadResponse(changes=["a is b"], waiting=["c needs a restart"])
    done = edgectl.run("reload")
    assert (done.returncode, done.stdout) == (0, "a is b\nwaits: c needs a restart\n")
    daemon.reloaded = admin_pb2.ReloadResponse(problems=["d is wrong", "so is e"])
    done = edgectl.run("reload", "--json")
    assert (done.returncode, done.stderr) == (1, "edgectl: d is wrong\nedgectl: so is e\n")
    told = json.loads(done.stdout)
    assert told == {"changes": [], "waiting": [], "problems": ["d is wrong", "so is e"]}


def test_version_tells_both_sides(edgectl: Program) -> None:
    lines = edgectl.run("version").stdout.splitlines()
    assert lines[0].startswith("edgectl ")
    assert lines[1].startswith("edged 9.8.7 at 127.0.0.1:")
    assert json.loads(edgectl.run("version", "--json").stdout)["server"] == "9.8.7"


@pytest.mark.parametrize("place", ["before", "after", "variable"])
def test_a_daemon_on_a_unix_socket_is_reached(
    environ: dict[str, str], served: object, place: str
) -> None:
    address = f"unix:{environ['HOME']}/edged.sock"
    program = Program("edgectl", environ)
    match place:
        case "before":
            done = program.run("--host", address, "models")
        case "after":
            done = program.run("models", "--host", address)
        case _:
            done = program.run("models", EDGED_HOST=address)
    assert (done.returncode, done.stderr) == (0, "")
