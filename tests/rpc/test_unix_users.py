"""Over the unix socket the system says who calls: the owner operates, others use."""

from pathlib import Path

import grpc

from edged.errors import Reason
from edged.node.trust.grant import Grant
from edged.v1 import access_pb2, admin_pb2
from tests.rpc.as_user import NOBODY, as_user, open_folder, require_root
from tests.rpc.fakes import finished
from tests.rpc.front import Front, ended, over_socket, running_front, text_request, told_by


def other_front(front: Front, channel: grpc.aio.Channel) -> Front:
    """The same front as a client over that channel sees it."""
    return Front(
        front.server,
        front.models,
        front.daemon,
        front.clock,
        front.target,
        channel,
        front.trust,
        front.secrets,
    )


async def test_another_user_uses_the_models_under_its_own_name_and_operates_nothing() -> None:
    require_root()
    with open_folder() as folder:
        path = folder / "e.sock"
        async with running_front(over_socket(path)) as front:
            path.chmod(0o666)
            async with as_user(path) as target, front.open(target) as channel:
                theirs = other_front(front, channel)
                whoami = await theirs.access.GetIdentity(access_pb2.GetIdentityRequest())
                assert (whoami.grant.name, whoami.grant.is_admin) == ("nobody", False)
                call = theirs.inference.Generate(text_request(client="editor"))
                stream = await front.models.next_stream()
                assert stream.submission.client_id == "user:nobody/editor"
                stream.put(finished(stream))
                assert await ended(call) == grpc.StatusCode.OK
                told = await told_by(theirs.admin.Drain(admin_pb2.DrainRequest()))
                assert told.reason == Reason.ADMIN_ONLY
            whoami = await front.access.GetIdentity(access_pb2.GetIdentityRequest())
            assert whoami.grant.is_admin, "the owner's own connection is another"


async def test_a_user_without_a_name_is_a_number() -> None:
    require_root()
    with open_folder() as folder:
        path = folder / "e.sock"
        async with running_front(over_socket(path)) as front:
            path.chmod(0o666)
            async with as_user(path, 43210) as target, front.open(target) as channel:
                answer = await other_front(front, channel).access.GetIdentity(
                    access_pb2.GetIdentityRequest()
                )
                assert answer.grant.name == "uid43210"


async def test_a_token_lets_another_user_operate() -> None:
    require_root()
    with open_folder() as folder:
        path = folder / "e.sock"
        async with running_front(over_socket(path), Grant("boss", is_admin=True)) as front:
            path.chmod(0o666)
            async with as_user(path, NOBODY) as target, front.open(target) as channel:
                theirs = other_front(front, channel)
                await theirs.admin.Drain(admin_pb2.DrainRequest(), metadata=front.bearer("boss"))
    assert front.daemon.asked_drains_s == [None]


def names_in(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


async def test_the_inner_socket_is_the_daemons_alone(tmp_path: Path) -> None:
    inner = tmp_path / ".e.sock.d"
    async with running_front(over_socket(tmp_path / "e.sock")):
        assert inner.stat().st_mode & 0o777 == 0o700
        assert names_in(inner) == ["grpc"]
    assert names_in(tmp_path) == [], "nothing is left"


async def test_what_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    inner = tmp_path / ".e.sock.d"
    inner.mkdir(mode=0o700)
    for name in ("grpc", "17"):
        (inner / name).touch()
    async with running_front(over_socket(tmp_path / "e.sock")) as front:
        assert await front.access.GetIdentity(access_pb2.GetIdentityRequest())
        assert names_in(inner) == ["grpc"]
