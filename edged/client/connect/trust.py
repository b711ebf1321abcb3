"""Which certificate a host shows, and why a connection that was refused was refused.

gRPC tells all that can go wrong with a connection in one word, UNAVAILABLE. So after such an end
the address is looked at once more, by hand: nothing is sent to it but the greeting of TLS.
"""

import socket
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from edged.client.connect.authorities import CA_VARIABLE
from edged.client.connect.certificate import Certificate, read_der, read_pem
from edged.client.connect.names import LOOK_UP_LIMIT_S, Found, NoAddressError, look_up
from edged.client.connect.peers import PeerBook
from edged.client.connect.target import Pinned, Plaintext, Target, Trusted
from edged.errors import ConfigError, EdgedError, Reason

FETCH_TIMEOUT_S = 5.0
"""From the first connection to the certificate. To look a name up has a limit of its own."""
MAX_GREETING_BYTES = 64 * 1024
"""Of the other side's, its certificates with it."""
_CHUNK_BYTES = 16 * 1024
_TLS_RECORDS = (0x15, 0x16)
"""First byte of what TLS answers a greeting with: an alert, or a greeting."""


class NoTlsError(EdgedError):
    """Something listens there, and does not speak TLS."""

    def __init__(self, host_port: str, what: str) -> None:
        super().__init__(Reason.UNREACHABLE, f"what listens at {host_port} {what}")


def fetch_certificate(
    host_port: str, timeout_s: float = FETCH_TIMEOUT_S, look_up_s: float = LOOK_UP_LIMIT_S
) -> Certificate:
    """The certificate that HOST:PORT shows. Nothing vouches for it.

    Raises:
        NoTlsError: something else listens there.
        EdgedError: UNREACHABLE, nothing answers there.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    found = look_up(host_port, look_up_s)
    deadline_s = time.monotonic() + timeout_s
    with _connected(found, host_port, deadline_s) as connection:
        der = _greet(connection, context, host_port, deadline_s)
    try:
        return read_der(der)
    except ValueError as error:
        raise NoTlsError(host_port, f"shows a certificate that cannot be read: {error}") from error


def diagnose(
    target: Target, timeout_s: float = FETCH_TIMEOUT_S, look_up_s: float = LOOK_UP_LIMIT_S
) -> EdgedError | None:
    """Why a channel to `target` could not be opened; None if nothing is known but that.

    The error is PEER_CHANGED, it has another certificate than it must have; PEER_UNKNOWN, nobody
    vouches for its certificate, or that is out of date; UNREACHABLE, nothing, something else or
    another peer listens there.
    """
    if target.address.startswith("unix:"):
        return None
    try:
        shown = fetch_certificate(target.address, timeout_s, look_up_s)
    except NoTlsError as error:
        return None if isinstance(target.security, Plaintext) else _no_tls(error)
    except NoAddressError as error:
        return error
    except EdgedError as error:
        return None if isinstance(target.security, Plaintext) else error
    match target.security:
        case Plaintext():
            return EdgedError(
                Reason.UNREACHABLE,
                f"what listens at {target.address} speaks TLS; reach it as tls:{target.address}",
            )
        case Pinned() as pinned:
            known = read_pem(pinned.certificate_pem)
            if known.fingerprint != shown.fingerprint:
                return not_the_peer(
                    pinned.book, pinned.peer, target.address, known.fingerprint, shown.fingerprint
                )
            return _out_of_date(target, shown)
        case Trusted():
            return _out_of_date(target, shown) or _not_vouched_for(target, timeout_s, look_up_s)


def not_the_peer(
    book: PeerBook | None, name: str, host_port: str, known: str, shown: str
) -> EdgedError:
    """What shows another certificate than the peer `name`, at one of its addresses, or of those
    where it was said to be. Addresses are lent: where it was before, or where another peer is now,
    it is just not there, UNREACHABLE. At its current address anybody else is PEER_CHANGED."""
    try:
        peer = book.named(name) if book is not None else None
        other = book.showing(shown) if book is not None else None
    except ConfigError:
        peer = other = None
    if peer is None or (other is not None and other.name == name):
        return _changed(name, host_port, known, shown)
    if other is None and host_port == peer.addresses[0]:
        return _changed(name, host_port, known, shown)
    who = other.name if other is not None else "a daemon that was not paired with"
    return EdgedError(
        Reason.UNREACHABLE, f"{name} is not at {host_port}: {who} is, and nothing was sent to it"
    )


def _changed(name: str, host_port: str, known: str, shown: str) -> EdgedError:
    forget = f"run `edgectl pair --forget {name}` and pair again" if name else "pair again"
    return EdgedError(
        Reason.PEER_CHANGED,
        f"THE CERTIFICATE OF {name or host_port} HAS CHANGED. Nothing was sent to it.\n"
        f"known: {known}\n"
        f"shown: {shown} at {host_port}\n"
        "Somebody may be between you and the daemon and read along; another machine may have its "
        "address; or the daemon was given a new certificate.\n"
        "Ask on its machine: `edgectl identity` shows the certificate it has. If it is the one "
        f"shown here, {forget}.",
    )


def _no_tls(error: NoTlsError) -> EdgedError:
    return EdgedError(
        error.reason, f"{error.detail}; a daemon with TLS was expected, and nothing was sent"
    )


def _out_of_date(target: Target, certificate: Certificate) -> EdgedError | None:
    now = datetime.now(UTC)
    if certificate.begins <= now <= certificate.ends:
        return None
    return EdgedError(
        Reason.PEER_UNKNOWN,
        f"the certificate of {target.shown} is valid from {_day(certificate.begins)} to "
        f"{_day(certificate.ends)}, and it is {_day(now)} by the clock of this host; "
        "whichever is wrong has to be renewed or set",
    )


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _not_vouched_for(target: Target, timeout_s: float, look_up_s: float) -> EdgedError | None:
    """What is wrong with a certificate that authorities should vouch for; None if it is right."""
    assert isinstance(target.security, Trusted)
    # What stands between the certificates may be in any encoding, and is for people.
    authorities = target.security.authorities_pem.decode("ascii", "ignore")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=authorities)
        found = look_up(target.address, look_up_s)
        deadline_s = time.monotonic() + timeout_s
        with _connected(found, target.address, deadline_s) as connection:
            _greet(connection, context, target.address, deadline_s)
    except ssl.SSLCertVerificationError as error:
        return EdgedError(
            Reason.PEER_UNKNOWN,
            f"the certificate of {target.shown} is not trusted: {error.verify_message}; "
            f"`edgectl pair {target.shown}` trusts it for itself",
        )
    except (ssl.SSLError, ValueError) as error:
        return EdgedError(
            Reason.PEER_UNKNOWN, f"the authorities of ${CA_VARIABLE} cannot be read: {error}"
        )
    except EdgedError as error:
        return error
    return None


def _connected(found: Sequence[Found], host_port: str, deadline_s: float) -> socket.socket:
    """Tries every address of the host, and leaves time for each."""
    why = "it has no address"
    for place, one in enumerate(found):
        try:
            return _connected_to(one, _left_s(deadline_s) / (len(found) - place))
        except OSError as error:
            is_late = isinstance(error, TimeoutError)
            why = "it does not answer" if is_late else (error.strerror or str(error))
    raise EdgedError(Reason.UNREACHABLE, f"no daemon answers at {host_port}: {why}")


def _connected_to(found: Found, timeout_s: float) -> socket.socket:
    """Raises OSError: it cannot be."""
    family, address = found
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _greet(
    connection: socket.socket, context: ssl.SSLContext, host_port: str, deadline_s: float
) -> bytes:
    """Shake hands, within a limit of time and of bytes; the other side's certificate.

    Raises:
        ssl.SSLCertVerificationError: `context` asks for more than this certificate is.
        EdgedError: as `fetch_certificate`.
    """
    host = host_port.rpartition(":")[0].strip("[]")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=host)
    num_bytes = 0
    while True:
        try:
            session.do_handshake()
            break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError:
            raise
        except ssl.SSLError as error:
            raise NoTlsError(host_port, f"breaks TLS off: {error.reason or error}") from error
        chunk = _exchanged(connection, outgoing.read(), host_port, deadline_s)
        if not num_bytes:
            _check_is_tls(chunk, host_port)
        num_bytes += len(chunk)
        if num_bytes > MAX_GREETING_BYTES:
            raise NoTlsError(host_port, f"sends more than {MAX_GREETING_BYTES} bytes to greet")
        incoming.write(chunk)
    return session.getpeercert(binary_form=True) or b""


def _exchanged(
    connection: socket.socket, greeting: bytes, host_port: str, deadline_s: float
) -> bytes:
    """What it answers; never empty."""
    try:
        connection.settimeout(_left_s(deadline_s))
        connection.sendall(greeting)
        connection.settimeout(_left_s(deadline_s))
        chunk = connection.recv(_CHUNK_BYTES)
    except TimeoutError as error:
        raise NoTlsError(host_port, "does not answer a greeting of TLS in time") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise NoTlsError(host_port, f"does not speak TLS: {why}") from error
    if not chunk:
        raise NoTlsError(host_port, "does not speak TLS: it closes the connection")
    return chunk


def _check_is_tls(chunk: bytes, host_port: str) -> None:
    if chunk[0] in _TLS_RECORDS:
        return
    # HTTP/2, and so gRPC, begins with SETTINGS: three bytes of length, type 4, no flags.
    kind = ", but gRPC" if chunk[3:5] == b"\x04\x00" else ""
    kind = ", but HTTP" if chunk.startswith(b"HTTP/") else kind
    raise NoTlsError(host_port, f"does not speak TLS{kind}")


def _left_s(deadline_s: float) -> float:
    """Raises TimeoutError: nothing is left."""
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
