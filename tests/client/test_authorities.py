"""The authorities of EDGED_CA: what they vouch for is trusted, and nothing else is."""

from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
import pytest

from edged.client.connect.address import parse_address
from edged.client.connect.authorities import CA_VARIABLE, read_authorities
from edged.client.connect.channel import open_channel
from edged.client.connect.target import target_of
from edged.client.connect.trust import diagnose
from edged.errors import ConfigError, Reason
from edged.v1 import admin_pb2, admin_pb2_grpc
from tests.client.certificates import authority, certified
from tests.client.servers import VERSION, WAIT_S, grpc_server

OURS, OTHER = authority("Our Company"), authority("Another Company")
DAEMON = certified("127.0.0.1", issuer=OURS)
Put = Callable[[Path, bytes], Mapping[str, str]]
"""Adds authorities to a system; the variables that name the place."""


def system(folder: Path, **places: str) -> dict[str, str]:
    """Of a user whose system has what is said, and nothing else."""
    nowhere = {"SSL_CERT_FILE": str(folder / "none.pem"), "SSL_CERT_DIR": str(folder / "none")}
    return {"HOME": str(folder), CA_VARIABLE: "system", **nowhere, **places}


def in_file(folder: Path, pem: bytes) -> dict[str, str]:
    (folder / "authorities.pem").write_bytes(pem)
    return {"SSL_CERT_FILE": str(folder / "authorities.pem")}


def in_folder(folder: Path, pem: bytes) -> dict[str, str]:
    """As c_rehash leaves it; looked for after another one that is not there."""
    (folder / "hashed").mkdir()
    (folder / "Our_Company.pem").write_bytes(pem)
    (folder / "hashed" / "0a1b2c3d.0").symlink_to(folder / "Our_Company.pem")
    return {"SSL_CERT_DIR": f"{folder / 'none'}:{folder / 'hashed'}"}


def outcome(address: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """What a call comes to, and what is said of it afterwards."""
    target = target_of(parse_address(f"tls:{address}"), environ)
    why = diagnose(target)
    with open_channel(target) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        try:
            told = stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=WAIT_S).status.version
        except grpc.RpcError as error:
            told = error.code().name
    return told, "" if why is None else why.detail


@pytest.mark.parametrize("put", [in_file, in_folder])
def test_what_was_added_to_the_system_is_trusted(put: Put, tmp_path: Path) -> None:
    with grpc_server(DAEMON) as address:
        assert outcome(address, system(tmp_path, **put(tmp_path, OURS.pem))) == (VERSION, "")


@pytest.mark.parametrize("put", [in_file, in_folder])
def test_what_was_not_is_not(put: Put, tmp_path: Path) -> None:
    with grpc_server(DAEMON) as address:
        told, why = outcome(address, system(tmp_path, **put(tmp_path, OTHER.pem)))
    assert told == "UNAVAILABLE"
    assert "is not trusted: unable to get local issuer certificate" in why


def test_a_certificate_that_is_in_both_places_is_read_once(tmp_path: Path) -> None:
    places = {**in_file(tmp_path, OTHER.pem + OURS.pem), **in_folder(tmp_path, OURS.pem)}
    read = read_authorities("system", system(tmp_path, **places))
    assert read == OTHER.pem + OURS.pem


def test_a_system_without_any_is_told_with_what_is_expected(tmp_path: Path) -> None:
    environ = system(tmp_path, **in_file(tmp_path, b"no certificate"))
    with pytest.raises(ConfigError, match="expected PEM there, or where") as raised:
        read_authorities("system", environ)
    assert raised.value.reason is Reason.BAD_CONFIG
    assert environ["SSL_CERT_FILE"] in raised.value.detail
    assert environ["SSL_CERT_DIR"] in raised.value.detail


def test_where_the_system_has_them_is_known(tmp_path: Path) -> None:
    """As far as this one has any."""
    try:
        read = read_authorities("system", {"HOME": str(tmp_path)})
    except ConfigError as error:
        pytest.skip(error.detail)
    assert read.count(b"BEGIN CERTIFICATE") > 1


def test_what_is_written_between_certificates_is_for_people(tmp_path: Path) -> None:
    path = tmp_path / "authorities.pem"
    path.write_bytes("# Főtanúsítvány\n".encode() + OURS.pem)
    environ = {"HOME": str(tmp_path), CA_VARIABLE: str(path)}
    with grpc_server(DAEMON) as address:
        assert outcome(address, environ) == (VERSION, "")
