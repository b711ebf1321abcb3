"""`edgectl profile`: how fast a model is in service, as its scheduler has learned it."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import grpc
import msgspec

from edged.cli.exits import CommandError
from edged.cli.output import emit, note
from edged.cli.remote import Connection
from edged.simulate.profile import DeviceProfile, as_json
from edged.v1 import admin_pb2

LEAST_STEPS = 200
"""Before that, what was assumed at first is still a part of what is told."""
_LEARNED = ("step_s", "prefill_token_s", "decode_token_s", "cell_s", "prefill_cell_s")
"""Of a profile, what follows the load; a swap is told as it was last measured."""


def print_profile(connection: Connection, name: str, seconds: float | None) -> None:
    """Print the profile of a model, the default one for "", as JSON: as it is now, or the average
    over so many seconds from now on.

    Raises:
        CommandError: there is no such model, or it is not loaded, or has not run for long enough.
    """
    if seconds is None:
        answer = connection.call(connection.admin.GetStatus, admin_pb2.GetStatusRequest())
        seen = [_chosen(answer.status, name)]
    else:
        note(f"watching for {seconds:g} s")
        seen = [_chosen(status, name) for status in _watched(connection, seconds)]
    if not seen:
        raise CommandError("the daemon ended before it told anything")
    last = seen[-1]
    if not last.HasField("step_costs") or last.num_steps < LEAST_STEPS:
        raise CommandError(
            f"model {last.name!r} has run {last.num_steps} steps; expected {LEAST_STEPS} or more,"
            f" to know what they take: use it for a while, or measure it alone with"
            f" `edged profile {last.name}`"
        )
    known = [model for model in seen if model.HasField("step_costs")]
    num_steps = last.num_steps - known[0].num_steps
    weighed = f"the mean over {num_steps} steps" if num_steps else "of recent steps"
    note(
        f"{weighed}; the last ones are predicted within {100 * last.cost_model_error:.0f}% (median)"
    )
    emit(as_json(mean_profile(known)))


def mean_profile(models: Sequence[admin_pb2.Model]) -> DeviceProfile:
    """Of one model as the daemon told it again and again, weighed by the steps between; the last
    one if there were none."""
    last = _profile(models[-1])
    sums, num_steps = dict.fromkeys(_LEARNED, 0.0), 0
    for before, model in pairwise(models):
        between = max(0, model.num_steps - before.num_steps)  # a new engine counts from 0
        profile = _profile(model)
        for field in _LEARNED:
            sums[field] += between * getattr(profile, field)
        num_steps += between
    if not num_steps:
        return last
    return msgspec.structs.replace(last, **{field: sums[field] / num_steps for field in _LEARNED})


def _watched(connection: Connection, seconds: float) -> Iterator[admin_pb2.Status]:
    """The daemon's status, again and again."""
    request = admin_pb2.WatchStatusRequest()
    was_told = False
    try:
        for answer in connection.admin.WatchStatus(
            request, timeout=seconds, metadata=connection.metadata
        ):
            was_told = True
            yield answer.status
    except grpc.RpcError as error:
        is_over = was_told and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if not is_over:
            raise connection.explain(error, seconds) from None


def _chosen(status: admin_pb2.Status, name: str) -> admin_pb2.Model:
    for model in status.models:
        if model.name == name or (not name and model.is_default):
            return model
    known = ", ".join(model.name for model in status.models)
    raise CommandError(f"there is no model {name!r}; expected one of {known}")


def _profile(model: admin_pb2.Model) -> DeviceProfile:
    costs = model.step_costs
    return DeviceProfile(
        name=model.name,
        step_s=costs.base_s,
        prefill_token_s=costs.prefill_token_s,
        decode_token_s=costs.decode_s,
        cell_s=costs.cell_s,
        prefill_cell_s=costs.prefill_cell_s,
        swap_byte_s=costs.transfer_byte_s,
        bytes_per_cell=max(1, model.kv.snapshot_bytes_per_token),
        num_slots=model.kv.num_slots,
        num_cells=model.kv.capacity_tokens,
        max_step_tokens=model.max_step_tokens,
        can_interrupt=model.can_interrupt,
    )
