"""Daemons that a user has paired with, as `edgectl` keeps them."""

from edged.client.connect.peers import Peer
from tests.cli.fake_access import OWN
from tests.client.certificates import certified

ANOTHER = certified("edged")
GIVEN = ("--fingerprint", OWN.fingerprint)


def known(name: str, host_port: str, fingerprint: str, token: str = "") -> Peer:
    return Peer(
        name=name,
        addresses=(host_port,),
        fingerprint=fingerprint,
        certificate_pem=OWN.pem.decode(),
        token=token,
    )
