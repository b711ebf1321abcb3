"""The daemons that this user has paired with: which certificate each must have, and the tokens for
them. Kept in one file, as OpenSSH keeps known_hosts.

The file holds tokens, so it is the user's alone; it is replaced as a whole, under a lock, so that
two programs that pair at once lose nothing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from edged.errors import ConfigError
from edged.node.trust.private_files import locked, read_private, replace_private

MAX_PEERS = 1024
_MAX_FILE_BYTES = 16 * 1024 * 1024


MAX_ADDRESSES = 4
"""Kept of one peer."""


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A daemon that was paired with."""

    name: str
    """As the user knows it; unique in the file."""
    addresses: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """HOST:PORT, the one that answered last first: the current one."""
    fingerprint: str
    """Of its certificate, as `edged.node.trust.fingerprint` writes it."""
    certificate_pem: str
    token: str = ""
    """"" if it has none."""


class _File(msgspec.Struct, frozen=True):
    peers: tuple[Peer, ...] = ()
    version: int = 1


class PeerBook:
    """The file at `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> tuple[Peer, ...]:
        """Raises ConfigError: the file cannot be read, somebody else can have written it, or it
        is no file of peers."""
        raw = read_private(self._path, _MAX_FILE_BYTES)
        if raw is None:
            return ()
        try:
            return msgspec.json.decode(raw, type=_File).peers
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._path} is no file of peers: {error}") from error

    def named(self, name: str) -> Peer | None:
        return next((peer for peer in self.all() if peer.name == name), None)

    def showing(self, fingerprint: str) -> Peer | None:
        return next((peer for peer in self.all() if peer.fingerprint == fingerprint), None)

    def at(self, host_port: str) -> Peer | None:
        """Whose current address it is, else who had it before; of several who was kept last."""
        having = [peer for peer in reversed(self.all()) if host_port in peer.addresses]
        return min(having, key=lambda peer: peer.addresses.index(host_port) > 0, default=None)

    def put(self, peer: Peer) -> None:
        """Add it, or replace the one of its name.

        Raises:
            ConfigError: the file cannot be read or written, or holds as many as it may.
        """

        def with_peer(peers: tuple[Peer, ...]) -> tuple[Peer, ...]:
            others = tuple(one for one in peers if one.name != peer.name)
            if len(others) >= MAX_PEERS:
                raise ConfigError(f"{self._path} holds {len(others)} peers, the most it may")
            return (*others, peer)

        self._change(with_peer)

    def moved(self, peer: Peer) -> None:
        """Take over its addresses, unless it was forgotten or paired with anew meanwhile.

        Raises:
            ConfigError: the file cannot be read or written.
        """

        def with_addresses(peers: tuple[Peer, ...]) -> tuple[Peer, ...]:
            known = next((one for one in peers if one.name == peer.name), None)
            if known is None or known.fingerprint != peer.fingerprint:
                return peers
            others = tuple(one for one in peers if one is not known)
            return (*others, msgspec.structs.replace(known, addresses=peer.addresses))

        self._change(with_addresses)

    def forget(self, name: str) -> bool:
        """Remove it; whether it was there. Raises ConfigError as `put`."""
        if self.named(name) is None:
            return False
        self._change(lambda peers: tuple(one for one in peers if one.name != name))
        return True

    def _change(self, change: Callable[[tuple[Peer, ...]], tuple[Peer, ...]]) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self._path):
                content = msgspec.json.encode(_File(change(self.all())))
                replace_private(self._path, msgspec.json.format(content, indent=2))
        except OSError as error:
            raise ConfigError(f"cannot write {self._path}: {error.strerror}") from error
