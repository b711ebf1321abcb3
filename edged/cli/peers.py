"""`edgectl pair --list` and `--forget`: the daemons that this user has paired with."""

import os
import sys

from edged.cli.columns import Column, laid_out
from edged.cli.exits import CommandError
from edged.cli.output import Json, emit, emit_json, harmless, wants_colour
from edged.client.connect.peers import PeerBook
from edged.places import peers_file


def print_peers(*, json: bool) -> None:
    """What is known, but for the tokens."""
    peers = PeerBook(peers_file(os.environ)).all()
    if json:
        told: list[Json] = [
            {
                "name": peer.name,
                "addresses": list(peer.addresses),
                "fingerprint": peer.fingerprint,
                "has_token": bool(peer.token),
            }
            for peer in peers
        ]
        emit_json({"peers": told})
        return
    columns = (Column("NAME"), Column("ADDRESSES"), Column("FINGERPRINT"), Column("TOKEN"))
    rows = [
        [peer.name, ",".join(peer.addresses), peer.fingerprint, "yes" if peer.token else "no"]
        for peer in peers
    ]
    emit(laid_out(columns, rows, colour=wants_colour(sys.stdout)))


def forget(name: str) -> None:
    """
    Raises:
        CommandError: it is not known.
    """
    if not PeerBook(peers_file(os.environ)).forget(name):
        raise CommandError(f"no daemon was paired with under the name {name!r}")
    emit(f"{harmless(name)} is forgotten\n")
