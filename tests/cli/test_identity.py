"""`edgectl identity`."""

import json

import pytest
from cryptography.hazmat.primitives.hashes import SHA256

from edged.errors import EdgedError, Reason
from edged.v1 import access_pb2, inference_pb2
from tests.cli.fake_access import OWN, FakeAccess
from tests.cli.program import Program


@pytest.fixture
def edgectl(there: Program) -> Program:
    return Program("edgectl", {**there.environ, "TZ": "UTC"})


def rows(text: str) -> dict[str, str]:
    return {line.split("  ")[0]: line.split("  ", 1)[1].strip() for line in text.splitlines()}


def test_it_tells_who_the_daemon_is_and_what_the_caller_may_do(
    edgectl: Program, access: FakeAccess
) -> None:
    access.identity.grant.MergeFrom(
        access_pb2.Grant(
            models=["tiny", "large"],
            max_tier=inference_pb2.TIER_STANDARD,
            max_requests_per_minute=30,
            max_concurrent_requests=2,
        )
    )
    done = edgectl.run("identity")
    assert (done.returncode, done.stderr) == (0, "")
    digest = OWN.certificate.fingerprint(SHA256()).hex(":").upper()
    assert rows(done.stdout) == {
        "name": "gpu box",
        "version": "9.8.7",
        "fingerprint": OWN.fingerprint,
        "": digest,
        "listening": "192.0.2.7:7411, unix:/run/edged/edged.sock",
        "advertised": "yes",
        "local": "may use tiny, large up to tier standard, 30 requests per minute, 2 at once, and "
        "operate the daemon",
    }


def test_a_daemon_without_a_certificate_says_so(edgectl: Program, access: FakeAccess) -> None:
    access.identity.fingerprint = access.identity.certificate_pem = ""
    told = rows(edgectl.run("identity").stdout)
    assert told["fingerprint"] == "none: it listens nowhere with TLS"
    assert told["local"] == "may use every model up to tier interactive, and operate the daemon"


def test_as_json_it_is_the_message_of_the_protocol(edgectl: Program) -> None:
    told = json.loads(edgectl.run("identity", "--json").stdout)
    assert set(told) == set(access_pb2.GetIdentityResponse.DESCRIPTOR.fields_by_name)
    assert (told["fingerprint"], told["grant"]["is_admin"]) == (OWN.fingerprint, True)


def test_who_may_not_ask_is_told_and_gets_a_code_of_its_own(
    edgectl: Program, access: FakeAccess
) -> None:
    access.error = EdgedError(Reason.TOKEN_MISSING, "the call has no token")
    done = edgectl.run("identity")
    assert (done.returncode, done.stderr) == (5, "edgectl: the call has no token\n")


def test_a_name_cannot_move_the_cursor(edgectl: Program, access: FakeAccess) -> None:
    access.identity.name = "\x1b[2Jbox"
    assert "\x1b" not in edgectl.run("identity").stdout
