"""What `edgectl discover --probe` asks of whom."""

from dataclasses import replace

import grpc

from edged.cli.probe import (
    MAX_AT_ONCE,
    MAX_PROBED,
    MAX_STRANGER_BYTES,
    NOT_ASKED,
    Answer,
    probe,
    probe_all,
)
from edged.client.connect.peers import Peer
from edged.client.connect.target import TOKEN_VARIABLE
from edged.client.lan.found import FoundDaemon
from edged.node.lan.dns_sd import Auth
from edged.v1 import admin_pb2, admin_pb2_grpc
from tests.client.certificates import Certified, certified
from tests.client.servers import free_port, grpc_server, mute_host

TOKEN = "edged_00000000_secret"


class Admin(admin_pb2_grpc.AdminServiceServicer):
    """Keeps what came with each call."""

    def __init__(self, version: str = "1.0") -> None:
        self.version = version
        self.authorizations: list[str | bytes | None] = []

    async def GetStatus(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # gRPC's shape
        self.authorizations.append(dict(context.invocation_metadata()).get("authorization"))
        return admin_pb2.GetStatusResponse(status=admin_pb2.Status(version=self.version))

    async def ListTiers(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # gRPC's shape
        return admin_pb2.ListTiersResponse(tiers=[admin_pb2.TierInfo()])


async def served(admin: Admin, ours: Certified | None) -> tuple[grpc.aio.Server, str]:
    server = grpc.aio.server()
    admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
    if ours is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        credentials = grpc.ssl_server_credentials([(ours.key_pem, ours.chain_pem)])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    return server, f"127.0.0.1:{port}"


def found(address: str, fingerprint: str = "", peer: str | None = None) -> FoundDaemon:
    auth = Auth.TOKEN if fingerprint else Auth.NONE
    return FoundDaemon("studio", (address,), "1.0", auth, fingerprint, peer)


def peer_of(ours: Certified) -> Peer:
    return Peer(
        name="studio",
        addresses=("192.0.2.1:1",),
        fingerprint=ours.fingerprint,
        certificate_pem=ours.pem.decode(),
        token=TOKEN,
    )


async def test_who_was_paired_with_gets_its_token() -> None:
    ours, admin = certified("edged"), Admin()
    server, address = await served(admin, ours)
    daemon = found(address, ours.fingerprint, "studio")
    answer = await probe(daemon, [peer_of(ours)], {})
    again = await probe(daemon, [peer_of(ours)], {TOKEN_VARIABLE: "another"})
    await server.stop(None)
    assert (answer.address, answer.problem, len(answer.tiers)) == (address, "", 1)
    assert answer.status is not None
    assert again.status is not None
    assert admin.authorizations == [f"Bearer {TOKEN}", "Bearer another"]


async def test_of_several_each_gets_its_own_token_alone() -> None:
    ours, admin = certified("edged"), Admin()
    server, address = await served(admin, ours)
    daemon = found(address, ours.fingerprint, "studio")
    peers = [peer_of(certified("edged")), peer_of(ours)]
    await probe(daemon, peers, {TOKEN_VARIABLE: "another"})
    await server.stop(None)
    assert admin.authorizations == [f"Bearer {TOKEN}"]


async def test_an_address_that_is_none_here_does_not_hide_the_next() -> None:
    ours, admin = certified("edged"), Admin()
    server, address = await served(admin, ours)
    daemon = found(address, ours.fingerprint, "studio")
    gone = "[fe80::1%gone9]:7411"
    answer = await probe(replace(daemon, addresses=(gone, address)), [peer_of(ours)], {})
    nowhere = await probe(replace(daemon, addresses=(gone,)), [peer_of(ours)], {})
    await server.stop(None)
    assert answer.address == address
    assert nowhere == Answer(None, "unreachable")


async def test_an_open_one_gets_no_token() -> None:
    admin = Admin()
    server, address = await served(admin, None)
    answer = await probe(found(address), [], {TOKEN_VARIABLE: TOKEN})
    await server.stop(None)
    assert answer.status is not None
    assert admin.authorizations == [None]


async def test_who_only_claims_to_be_it_gets_nothing() -> None:
    ours, liar, admin = certified("edged"), certified("edged"), Admin()
    server, address = await served(admin, liar)
    answer = await probe(found(address, ours.fingerprint, "studio"), [peer_of(ours)], {})
    await server.stop(None)
    assert answer == Answer(address, "another certificate")
    assert admin.authorizations == []


async def test_of_strangers_it_is_only_tried_whether_they_listen() -> None:
    theirs = certified("edged")
    with grpc_server(theirs) as address:
        assert await probe(found(address, theirs.fingerprint), [], {TOKEN_VARIABLE: TOKEN}) == (
            Answer(address, "not paired")
        )
    nowhere = found(f"127.0.0.1:{free_port()}", theirs.fingerprint)
    assert await probe(nowhere, [], {}) == Answer(None, "unreachable")


async def test_no_stranger_has_others_called_up() -> None:
    assert await probe(found("192.0.2.1:80"), [], {}) == Answer(None, "unreachable")


async def test_so_many_are_asked() -> None:
    daemon = found(f"127.0.0.1:{free_port()}", "SHA256:x")
    answers = await probe_all([daemon] * (MAX_PROBED + 2), [], {})
    assert answers[MAX_PROBED - 1] == Answer(None, "unreachable")
    assert answers[MAX_PROBED:] == [NOT_ASKED, NOT_ASKED]


async def test_so_long_they_are_waited_for() -> None:
    with mute_host() as address:
        answers = await probe_all([found(address)] * (MAX_AT_ONCE + 1), [], {}, longest_s=0.2)
    assert answers == [Answer(None, "no answer")] * MAX_AT_ONCE + [NOT_ASKED]


async def test_of_a_stranger_so_much_is_read() -> None:
    admin = Admin("1" * MAX_STRANGER_BYTES)
    server, address = await served(admin, None)
    answer = await probe(found(address), [], {})
    await server.stop(None)
    assert answer.status is None
    assert "larger than max" in answer.problem


async def test_of_who_was_paired_with_more_is_read() -> None:
    ours, admin = certified("edged"), Admin("1" * MAX_STRANGER_BYTES)
    server, address = await served(admin, ours)
    answer = await probe(found(address, ours.fingerprint, "studio"), [peer_of(ours)], {})
    await server.stop(None)
    assert answer.status is not None
