"""Asks daemons that were found on the local network what they serve.

What a daemon says of itself there is a claim. So a token goes to one that was paired with alone,
over TLS with the certificate that was seen then; of others it is only tried whether anybody
listens. One that says that it needs neither TLS nor token is asked without. Strangers are tried
at addresses of this host's own networks only: who tells of others could have them called up.
"""

import asyncio
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc

from edged.client.connect.channel import Options, open_aio_channel
from edged.client.connect.names import NoAddressError
from edged.client.connect.peers import Peer
from edged.client.connect.target import TOKEN_VARIABLE, Pinned, Plaintext, Target
from edged.client.connect.trust import diagnose
from edged.client.lan.found import FoundDaemon
from edged.errors import Reason
from edged.node.lan.dns_sd import Auth
from edged.node.lan.interfaces import on_link, usable_interfaces
from edged.v1 import admin_pb2, admin_pb2_grpc

PROBE_TIMEOUT_S = 2.0
"""For one address."""
MAX_ADDRESSES_TRIED = 4
MAX_AT_ONCE = 32
MAX_PROBED = 512
"""Of one list; the first are those that were paired with."""
LONGEST_S = 15.0
"""For one list: of fakes that never answer there may be many."""
MAX_STRANGER_BYTES = 64 * 1024
"""Of an answer of a daemon that was not paired with; each is kept until the list is shown."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking one daemon."""

    address: str | None
    """That answered, or took a connection."""
    problem: str
    """Why there is no status, in a few words; "" if there is one."""
    status: admin_pb2.Status | None = None
    tiers: tuple[admin_pb2.TierInfo, ...] = ()


NOT_ASKED = Answer(None, "not asked")


async def probe_all(
    daemons: Sequence[FoundDaemon],
    peers: Sequence[Peer],
    environ: Mapping[str, str],
    *,
    longest_s: float = LONGEST_S,
) -> list[Answer]:
    """In their order, MAX_AT_ONCE at a time; NOT_ASKED beyond MAX_PROBED and `longest_s`."""
    room = asyncio.Semaphore(MAX_AT_ONCE)
    answers = [NOT_ASKED] * len(daemons)

    async def ask(place: int) -> None:
        async with room:
            answers[place] = Answer(None, "no answer")
            answers[place] = await probe(daemons[place], peers, environ)

    async with asyncio.TaskGroup() as asking:
        tasks = [asking.create_task(ask(place)) for place in range(min(len(daemons), MAX_PROBED))]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=longest_s)
            for task in late:
                task.cancel()
    return answers


async def probe(daemon: FoundDaemon, peers: Sequence[Peer], environ: Mapping[str, str]) -> Answer:
    """Within PROBE_TIMEOUT_S for each of MAX_ADDRESSES_TRIED addresses."""
    answer = Answer(None, "unreachable")
    addresses = daemon.addresses
    if daemon.peer is None:
        addresses = tuple(one for one in addresses if _is_near(one))
    for address in addresses[:MAX_ADDRESSES_TRIED]:
        target = _target(daemon, address, peers, environ)
        if target is None:
            if await _takes_connections(address):
                return Answer(address, "not paired")
            continue
        answer = await _ask(target, is_known=daemon.peer is not None)
        if answer.address is not None:
            return answer
    return answer


def _target(
    daemon: FoundDaemon, address: str, peers: Sequence[Peer], environ: Mapping[str, str]
) -> Target | None:
    """None if it may not be asked."""
    if not daemon.fingerprint:
        is_open = daemon.auth is Auth.NONE
        return Target(daemon.name, address, Plaintext()) if is_open else None
    peer = next((one for one in peers if one.fingerprint == daemon.fingerprint), None)
    if peer is None:
        return None
    # Which of several is meant by $EDGED_TOKEN cannot be known, and the others must not learn it.
    given = environ.get(TOKEN_VARIABLE) if len(peers) == 1 else None
    token = given or peer.token or None
    return Target(daemon.name, address, Pinned(peer.certificate_pem.encode(), peer.name), token)


def _is_near(address: str) -> bool:
    host = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    return host.is_loopback or on_link(host, usable_interfaces())


async def _ask(target: Target, *, is_known: bool) -> Answer:
    limit: Options = (("grpc.max_receive_message_length", MAX_STRANGER_BYTES),)
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            opened = await open_aio_channel(target, () if is_known else limit)
    except (NoAddressError, TimeoutError):
        return Answer(None, "unreachable")
    async with opened as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        metadata = target.metadata
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                status = await admin.GetStatus(admin_pb2.GetStatusRequest(), metadata=metadata)
                tiers = await admin.ListTiers(admin_pb2.ListTiersRequest(), metadata=metadata)
        except TimeoutError:
            return Answer(None, "no answer")
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return await _without_answer(target)
            return Answer(target.address, (error.details() or error.code().name).strip())
    return Answer(target.address, "", status.status, tuple(tiers.tiers))


async def _without_answer(target: Target) -> Answer:
    """Nobody is there, or somebody else."""
    if not await _takes_connections(target.address):
        return Answer(None, "unreachable")
    why = await asyncio.to_thread(diagnose, target, PROBE_TIMEOUT_S)
    is_changed = why is not None and why.reason is Reason.PEER_CHANGED
    return Answer(target.address, "another certificate" if is_changed else "not edged")


async def _takes_connections(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
