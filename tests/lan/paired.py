"""A user who has paired with daemons, without the two persons that it takes."""

from pathlib import Path

from edged.client.connect.certificate import read_pem
from edged.client.connect.peers import Peer, PeerBook
from edged.core.types import SloTier
from edged.node.trust.grant import Grant
from edged.node.trust.identity import CERTIFICATE_FILE
from edged.node.trust.tokens import TOKENS_FILE, TokenStore
from edged.places import peers_file
from tests.e2e.daemon import environment_of


def new_token(state: Path) -> str:
    grant = Grant("laptop", max_tier=SloTier.STANDARD)
    secret, _ = TokenStore(state / TOKENS_FILE).create(grant, 1_800_000_000.0)
    return secret


def pair(name: str, state: Path, secret: str, folder: Path) -> None:
    """As `edgectl pair` leaves this side. The daemon has moved since then."""
    pem = (state / CERTIFICATE_FILE).read_bytes()
    known = Peer(
        name=name,
        addresses=("10.77.0.99:7411",),
        fingerprint=read_pem(pem).fingerprint,
        certificate_pem=pem.decode(),
        token=secret,
    )
    PeerBook(peers_file(environment_of(folder))).put(known)
