"""A connection to one daemon, and what its errors mean to a person.

Theory of operation: an error that carries google.rpc.ErrorInfo was made by a daemon; one that does
not was made by gRPC on the way. Only the second kind of UNAVAILABLE means that no daemon answers;
what does instead is then looked at by `edged.client.connect.trust`.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self, TypeVar, cast

import grpc

from edged.cli.exits import CommandError, ExitCode, exit_code_of
from edged.cli.patience import Patience
from edged.client.connect.channel import PINGS, Pings, open_channel
from edged.client.connect.names import LOOK_UP_LIMIT_S
from edged.client.connect.target import Target
from edged.client.connect.told import TOO_LARGE, told_by_daemon
from edged.client.connect.trust import FETCH_TIMEOUT_S, diagnose
from edged.v1 import access_pb2_grpc, admin_pb2_grpc, inference_pb2_grpc

DEFAULT_TIMEOUT_S = 10.0
_OVERLOAD = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED})
"""With a time to try again: a full queue, and a wait that was too long."""
_DENIED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Connection:
    """Use as a context manager. No call is made before the first method is used."""

    def __init__(self, target: Target, timeout_s: float | None, pings: Pings = PINGS) -> None:
        self.address = target.shown
        self._target = target
        self.timeout_s = timeout_s
        """What the user asked for; None leaves it to each call."""
        self._has_answered = False
        self.metadata = target.metadata
        """What every call carries."""
        within_s = LOOK_UP_LIMIT_S if timeout_s is None else timeout_s
        self._channel = open_channel(target, pings, within_s)
        self.admin = admin_pb2_grpc.AdminServiceStub(self._channel)
        self.inference = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self.access = access_pb2_grpc.AccessServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._channel.close()

    def call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[RequestT, ResponseT]",
        request: RequestT,
        usual_limit_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> ResponseT:
        """One answer, within the user's time limit or else within `usual_limit_s`.

        Raises:
            CommandError: the call failed; the sentence says why, the exit code how.
        """
        limit_s = usual_limit_s if self.timeout_s is None else self.timeout_s
        try:
            response = method(request, timeout=limit_s, metadata=self.metadata)
        except grpc.RpcError as error:
            raise self.explain(error, limit_s) from None
        self._has_answered = True
        return response

    def each(
        self,
        stream: Iterator[ResponseT],
        limit_s: float | None = None,
        idle_s: float | None = None,
    ) -> Iterator[ResponseT]:
        """The messages of a stream that was started with `limit_s`. If it has heartbeats, it is
        cancelled when nothing came for `idle_s`.

        Raises:
            CommandError: as `call`.
        """
        with Patience(cast(grpc.Call, stream), idle_s).watching() as patience:
            while True:
                try:
                    with _interrupt_cancels(stream), patience.waiting():
                        response = next(stream, None)
                except grpc.RpcError as error:
                    if patience.lost_s is not None:
                        raise self._silent_for(patience.lost_s) from None
                    raise self.explain(error, limit_s) from None
                if response is None:
                    return
                self._has_answered = True
                yield response

    def _silent_for(self, idle_s: float) -> CommandError:
        return CommandError(
            f"the daemon at {self.address} has said nothing for {idle_s:g} s, "
            "not even that it is alive",
            ExitCode.UNREACHABLE,
        )

    def explain(self, error: grpc.RpcError, limit_s: float | None) -> CommandError:
        """What went wrong with a call, for a person."""
        failed = cast(grpc.Call, error)
        code, detail = failed.code(), (failed.details() or "").strip().rstrip(".")
        told = told_by_daemon(failed.trailing_metadata() or ())
        if told is not None:
            retry_after_s = told.retry_after_s
            again = "" if retry_after_s is None else f"; try again in {retry_after_s:g} s"
            is_overloaded = code in _OVERLOAD and retry_after_s is not None
            exit_code = ExitCode.OVERLOADED if is_overloaded else ExitCode.ERROR
            exit_code = ExitCode.DENIED if code in _DENIED else exit_code
            return CommandError(f"{detail}{again}", exit_code)
        match code:
            case grpc.StatusCode.UNAVAILABLE if self._has_answered:
                sentence = f"the connection to the daemon at {self.address} was lost"
                return CommandError(sentence, ExitCode.UNREACHABLE)
            case grpc.StatusCode.UNAVAILABLE:
                timeout_s = min(limit_s or FETCH_TIMEOUT_S, FETCH_TIMEOUT_S)
                found = diagnose(self._target, timeout_s, limit_s or LOOK_UP_LIMIT_S)
                if found is not None:
                    return CommandError(found.detail, exit_code_of(found))
                return CommandError(
                    f"no daemon answers at {self.address}; start one with `edged serve`, "
                    "or name another with --host",
                    ExitCode.UNREACHABLE,
                )
            case grpc.StatusCode.DEADLINE_EXCEEDED if self._has_answered:
                limit = "it may take" if limit_s is None else f"the {limit_s:g} s it may take"
                return CommandError(f"the answer took longer than {limit}")
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                # Nothing at all came back: for the user the daemon is as good as not there.
                limit = "" if limit_s is None else f" within {limit_s:g} s"
                return CommandError(
                    f"the daemon at {self.address} did not answer{limit}", ExitCode.UNREACHABLE
                )
            case grpc.StatusCode.RESOURCE_EXHAUSTED if TOO_LARGE not in detail:
                return CommandError(detail, ExitCode.OVERLOADED)
            case grpc.StatusCode.UNIMPLEMENTED:
                return CommandError(f"what listens at {self.address} does not know this call")
        return CommandError(detail or code.name)


@contextmanager
def _interrupt_cancels(stream: Iterator[object]) -> Iterator[None]:
    """Meanwhile Ctrl-C cancels the call and is raised afterwards. In the middle of gRPC's own
    bookkeeping it may end the thread that serves the channel, and the next stream waits for ever.

    Raises:
        KeyboardInterrupt: there was one.
    """
    handler = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or handler is not signal.default_int_handler:
        yield
        return
    was_interrupted = False

    def cancel(number: int, frame: FrameType | None) -> None:
        nonlocal was_interrupted
        was_interrupted = True
        cast(grpc.Call, stream).cancel()

    signal.signal(signal.SIGINT, cancel)
    try:
        yield
    except grpc.RpcError:
        if not was_interrupted:
            raise
    finally:
        signal.signal(signal.SIGINT, handler)
    if was_interrupted:
        raise KeyboardInterrupt
