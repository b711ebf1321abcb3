"""What the network's door is told to show, and when."""

from dataclasses import replace
from pathlib import Path

from edged.node.trust.identity import IdentitySource
from edged.rpc.doors.servers import Certificates
from tests.rpc.front import NOW_S


def test_grpc_is_told_of_a_certificate_once(tmp_path: Path) -> None:
    identity = IdentitySource(tmp_path, "desk").load(NOW_S)
    certificates = Certificates(identity)
    changes = certificates.changes()
    assert changes() is None
    certificates.identity = replace(identity)
    assert changes() is None, "read again, it is the same"
    certificates.identity = replace(identity, certificate_pem=identity.certificate_pem + b"\n")
    assert changes() is not None
    assert changes() is None


def test_each_listener_is_told(tmp_path: Path) -> None:
    identity = IdentitySource(tmp_path, "desk").load(NOW_S)
    certificates = Certificates(identity)
    listeners = [certificates.changes() for _ in range(2)]
    certificates.identity = replace(identity, certificate_pem=identity.certificate_pem + b"\n")
    assert None not in [changes() for changes in listeners]
