"""Servers of every kind that a client may meet at an address: on loopback, in threads."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from edged.v1 import admin_pb2, admin_pb2_grpc
from tests.client.certificates import Certified

WAIT_S = 20.0
VERSION = "9.8.7"


class _Admin(admin_pb2_grpc.AdminServiceServicer):
    def GetStatus(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # gRPC's shape
        return admin_pb2.GetStatusResponse(status=admin_pb2.Status(version=VERSION))


@contextmanager
def grpc_server(
    certified: Certified | None, port: int = 0, unix: Path | None = None
) -> Iterator[str]:
    """Its HOST:PORT; without a certificate it listens without TLS, and at a socket if one is
    named."""
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    admin_pb2_grpc.add_AdminServiceServicer_to_server(_Admin(), server)
    if unix is not None:
        server.add_insecure_port(f"unix:{unix}")
    if certified is None:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        credentials = grpc.ssl_server_credentials([(certified.key_pem, certified.chain_pem)])
        port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait(WAIT_S)


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """`talk` is given the first connection, which is closed afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                talk(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join(WAIT_S)
        assert not thread.is_alive(), "the server talks on though its client has left"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def mute_host() -> Iterator[str]:
    """It takes connections, and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
