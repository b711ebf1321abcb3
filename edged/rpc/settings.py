"""What the front is told to do: where to listen, for whom, and its limits."""

from dataclasses import dataclass, field
from pathlib import Path

from edged.core.types import SloTier
from edged.rpc.access.guard import LoopbackAccess
from edged.rpc.admin import AdminLimits
from edged.rpc.doors.arrivals import ArrivalLimits
from edged.rpc.doors.connections import ConnectionLimits
from edged.rpc.doors.network_limits import NetworkLimits
from edged.rpc.doors.relay import RelayLimits
from edged.rpc.inference import InferenceLimits

INSECURE_REMINDER_S = 3600.0


@dataclass(frozen=True, slots=True)
class RpcSettings:
    listen: str | None
    """HOST:PORT, several with commas between them, an IPv6 host in brackets; None listens on no
    TCP port. Which door each is of depends on whether other hosts can reach it."""
    socket_path: Path | None
    network_listen: str | None = None
    """The same, of the network's door whether or not other hosts can reach it."""
    loopback_access: LoopbackAccess = "use"
    insecure: bool = False
    """The network's door has neither TLS nor tokens."""
    insecure_reminder_s: float = INSECURE_REMINDER_S
    """The operator is told so again after this."""
    max_message_bytes: int = 16 * 1024 * 1024
    """Of a request and of an answer."""
    max_other_calls: int = 512
    """Calls that are no Generate, and calls that are being refused; at each door of this host."""
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    """At the doors of this host; `network` has fewer of most."""
    arrivals: ArrivalLimits = field(default_factory=ArrivalLimits)
    """At each door."""
    inference: InferenceLimits = field(default_factory=InferenceLimits)
    admin: AdminLimits = field(default_factory=AdminLimits)
    network: NetworkLimits = field(default_factory=NetworkLimits)
    relay: RelayLimits = field(default_factory=RelayLimits)

    @property
    def max_calls(self) -> int:
        """What gRPC takes at all at a door of this host: room for everything that the front
        refuses by itself."""
        return len(SloTier) * self.inference.max_generate_calls + self.max_other_calls

    @property
    def max_network_calls(self) -> int:
        """The same of the network's door."""
        return len(SloTier) * self.network.max_generate_calls + self.network.max_other_calls
