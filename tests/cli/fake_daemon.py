"""A daemon that says what a test tells it to, over real gRPC, in threads of the test's process."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from edged.errors import EdgedError
from edged.rpc.status import from_edged_error
from edged.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc

LETS_PING = (("grpc.http2.min_ping_interval_without_data_ms", 1),)
"""As a daemon lets its clients."""
REQUEST_ID = "req-0001-abcdef"
WAIT_S = 20.0
"""Longest wait for anything; reached only by a test that fails."""


def delta(index: int, text: str) -> inference_pb2.GenerateResponse:
    token = inference_pb2.TokenDelta(index=index, text=text, token_ids=[index])
    return inference_pb2.GenerateResponse(token=token)


def admitted() -> inference_pb2.GenerateResponse:
    return inference_pb2.GenerateResponse(
        admitted=inference_pb2.Admitted(
            request_id=REQUEST_ID, position=2, predicted_ttft_s=0.5, num_prompt_tokens=7
        )
    )


def finished() -> inference_pb2.GenerateResponse:
    return inference_pb2.GenerateResponse(
        finished=inference_pb2.Finished(
            reason=inference_pb2.FINISH_REASON_STOP,
            usage=inference_pb2.Usage(num_prompt_tokens=7, num_generated_tokens=2),
            timings=inference_pb2.Timings(
                queue_s=0.1, ttft_s=0.2, tpot_s=0.05, total_s=0.3, num_preemptions=1
            ),
        )
    )


def model(name: str = "tiny", **fields: object) -> admin_pb2.Model:
    ready: dict[str, object] = {
        "is_default": True,
        "state": admin_pb2.MODEL_STATE_READY,
        "backend": "sim",
        "description": "llama 135M Q4_1",
        "num_bytes": 98 * 1024 * 1024,
        "device": "cpu",
        "engine_pid": 4242,
        "kv": admin_pb2.KvStatus(
            effective_type="q8_0", bytes_per_token=12288, capacity_tokens=16384, num_slots=16
        ),
    }
    made = admin_pb2.Model(name=name)
    made.MergeFrom(admin_pb2.Model(**(ready | fields)))  # type: ignore[arg-type]  # fields by name
    return made


class FakeDaemon:
    """What it answers is set before a call, what it was asked is read after one."""

    def __init__(self) -> None:
        self.status = admin_pb2.Status(
            version="9.8.7",
            state=admin_pb2.DAEMON_STATE_READY,
            uptime_s=75.0,
            policy="strict",
            listeners=["127.0.0.1:1"],
            resident_bytes=80 * 1024 * 1024,
            models=[model()],
        )
        self.watched: list[admin_pb2.Status] = []
        """What WatchStatus streams."""
        self.holds_watch = False
        """WatchStatus stays open after that."""
        self.watch_error: EdgedError | None = None
        """Ends every WatchStatus."""
        self.loading: list[admin_pb2.Model] = []
        """What LoadModel streams."""
        self.requests: list[admin_pb2.RequestInfo] = []
        self.tiers: list[admin_pb2.TierInfo] = []
        self.answers: list[inference_pb2.GenerateResponse] = [
            admitted(),
            delta(0, "Hello"),
            delta(1, " world"),
            finished(),
        ]
        self.error: EdgedError | None = None
        """Ends every call but the status; a Generate after its answers."""
        self.holds = False
        """Generate waits after its answers, and then sends further tokens if it is released."""
        self.released = threading.Event()
        self.stalls_status = False
        self.asked: list[inference_pb2.GenerateRequest] = []
        self.limits_s: list[float | None] = []
        """Of each Generate: the time the client left it."""
        self.cancelled = threading.Event()
        """A Generate's call was cancelled by its client."""
        self.cancel_ids: list[str] = []
        self.drains: list[admin_pb2.DrainRequest] = []
        self.reloaded = admin_pb2.ReloadResponse()

    def abort_if_told(self, context: grpc.ServicerContext, error: EdgedError | None = None) -> None:
        error = error or self.error
        if error is not None:
            failure = from_edged_error(error)
            context.set_trailing_metadata(failure.trailers)
            context.abort(failure.code, failure.detail)


class _Admin(admin_pb2_grpc.AdminServiceServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon

    def GetStatus(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # gRPC's shape
        if self._daemon.stalls_status:
            self._daemon.released.wait(WAIT_S)
        return admin_pb2.GetStatusResponse(status=self._daemon.status)

    def WatchStatus(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        if self._daemon.watch_error is not None:
            self._daemon.abort_if_told(context, self._daemon.watch_error)
        for status in self._daemon.watched:
            yield admin_pb2.WatchStatusResponse(status=status)
        if self._daemon.holds_watch:
            context.add_callback(self._daemon.released.set)
            self._daemon.released.wait(WAIT_S)

    def ListRequests(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        self._daemon.abort_if_told(context)
        return admin_pb2.ListRequestsResponse(requests=self._daemon.requests)

    def Cancel(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        self._daemon.cancel_ids.append(request.request_id)
        self._daemon.abort_if_told(context)
        return admin_pb2.CancelResponse(request_id=REQUEST_ID)

    def ListModels(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        return admin_pb2.ListModelsResponse(models=self._daemon.status.models)

    def LoadModel(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        self._daemon.abort_if_told(context)
        for state in self._daemon.loading:
            yield admin_pb2.LoadModelResponse(model=state)

    def UnloadModel(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        unloaded = model(request.model, state=admin_pb2.MODEL_STATE_UNLOADED)
        return admin_pb2.UnloadModelResponse(model=unloaded)

    def ListTiers(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        return admin_pb2.ListTiersResponse(tiers=self._daemon.tiers)

    def Reload(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        self._daemon.abort_if_told(context)
        return self._daemon.reloaded

    def Drain(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        self._daemon.drains.append(request)
        return admin_pb2.DrainResponse(num_requests=3)


class _Inference(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon

    def Generate(self, request, context) -> Iterator[inference_pb2.GenerateResponse]:  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        daemon = self._daemon
        daemon.asked.append(request)
        daemon.limits_s.append(context.time_remaining())
        if daemon.holds:
            context.add_callback(daemon.cancelled.set)
            context.add_callback(daemon.released.set)
        yield from daemon.answers
        if daemon.holds:
            daemon.released.wait(WAIT_S)
            index = len(daemon.answers)
            while context.is_active():
                yield delta(index, "more ")
                index += 1
        daemon.abort_if_told(context)


class Served:
    """A fake daemon that listens on TCP and on a unix socket."""

    def __init__(self, daemon: FakeDaemon, socket: Path) -> None:
        self._server = grpc.server(ThreadPoolExecutor(max_workers=8), options=LETS_PING)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(_Admin(daemon), self._server)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(_Inference(daemon), self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.add_insecure_port(f"unix:{socket}")
        self._server.start()
        self.address = f"127.0.0.1:{port}"

    def stop(self) -> None:
        self._server.stop(grace=None).wait(WAIT_S)
