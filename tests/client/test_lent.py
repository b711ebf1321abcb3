"""Addresses are lent: who is asked where somebody else may be now, and who is not."""

from pathlib import Path

import pytest

from edged.client import AsyncClient
from edged.client.errors import UnreachableError
from tests.client.certificates import certified
from tests.client.paired import environ_of, nobody, peer
from tests.client.scripted import WHOLE, playing, says


@pytest.mark.parametrize("is_known", [True, False], ids=["a peer", "a stranger"])
async def test_who_is_off_is_not_there_though_somebody_has_an_address_of_before(
    tmp_path: Path, is_known: bool
) -> None:
    """The next daemon is asked, and nobody in its place."""
    own, other = certified("edged"), certified("edged")
    spare = other if is_known else certified("edged")
    async with (
        playing(says(*WHOLE), certified=other) as taken,
        playing(says(*WHOLE), certified=spare) as third,
    ):
        next_one = taken if is_known else third
        peers = (
            peer("gpu-box", own, nobody(), taken.address, token="secret"),
            peer("nas", spare, next_one.address, token="its"),
        )
        environ = environ_of(tmp_path, *peers)
        async with AsyncClient(["gpu-box", "nas"], environ=environ, retry=None) as client:
            assert (await client.complete("Hi")).admitted.daemon == "nas"
        assert next_one.metadata[0]["authorization"] == "Bearer its"
        assert (taken.num_calls, third.num_calls) == ((1, 0) if is_known else (0, 1))


async def test_a_peer_that_has_the_current_address_of_another_is_no_alarm(tmp_path: Path) -> None:
    own, other = certified("edged"), certified("edged")
    async with playing(says(*WHOLE), certified=other) as daemon:
        peers = (peer("gpu-box", own, daemon.address), peer("nas", other, daemon.address))
        environ = environ_of(tmp_path, *peers)
        async with AsyncClient("gpu-box", environ=environ, retry=None) as client:
            with pytest.raises(
                UnreachableError, match=f"gpu-box is not at .*{daemon.address}: nas"
            ):
                await client.complete("Hi")
        assert daemon.num_calls == 0


async def test_at_an_address_that_another_had_before_its_holder_is_asked(tmp_path: Path) -> None:
    own, other = certified("edged"), certified("edged")
    async with playing(says(*WHOLE), certified=other) as daemon:
        peers = (
            peer("gpu-box", own, nobody(), daemon.address, token="secret"),
            peer("nas", other, daemon.address, token="its"),
        )
        environ = environ_of(tmp_path, *peers)
        where = f"tls:{daemon.address}"
        async with AsyncClient(where, environ=environ, retry=None) as client:
            assert (await client.complete("Hi")).text == "Paris"
        assert daemon.metadata[0]["authorization"] == "Bearer its"


async def test_who_may_take_over_is_not_there_where_a_stranger_has_an_address_of_before(
    tmp_path: Path,
) -> None:
    own = certified("edged")
    async with playing(says(*WHOLE), certified=certified("edged")) as taken:
        environ = environ_of(tmp_path, peer("nas", own, nobody(), taken.address))
        async with AsyncClient(nobody(), environ=environ, retry=None, fall_over=True) as client:
            with pytest.raises(UnreachableError):
                await client.complete("Hi")
        assert taken.num_calls == 0
