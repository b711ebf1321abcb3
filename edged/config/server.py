"""The settings of [server]: where the daemon is reached, by whom, and how it treats its host."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from edged.config.values import (
    AUTO,
    CLOSED,
    check_directory,
    check_listen,
    check_optional_path,
    check_service_name,
    check_socket,
    rule,
)
from edged.places import DEFAULT_LISTEN

_MIB = 1024 * 1024


class ServerSettings(BaseModel):
    """[server] The daemon's front."""

    model_config = CLOSED

    listen: Annotated[str, AfterValidator(check_listen)] = Field(
        default=DEFAULT_LISTEN,
        description='TCP address for gRPC, HOST:PORT or "[IPv6]:PORT", several with commas between '
        'them; port 0 takes a free one; "" turns TCP off. One that other hosts can reach has TLS, '
        "and asks for tokens.",
    )
    socket: Annotated[str, AfterValidator(check_socket)] = Field(
        default=AUTO,
        description='Unix socket for gRPC, an absolute path; "auto" is $RUNTIME_DIRECTORY/'
        "edged.sock in a systemd service (/run/edged/edged.sock), else $XDG_RUNTIME_DIR/edged/"
        'edged.sock, else a private directory under the temporary one; "" turns it off.',
    )
    loopback_access: Literal["use", "admin", "token"] = Field(
        default="use",
        description="What a caller on a loopback address may do without a token: use the models, "
        "administer the daemon (admin), or nothing (token).",
    )
    insecure: bool = Field(
        default=False,
        description="Listen without TLS and tokens where other hosts can reach it.",
    )
    tls_certificate: Annotated[str, AfterValidator(check_optional_path)] = Field(
        default="",
        description='PEM file of a certificate chain, an absolute path; "" is a self-signed one '
        "that is made at the first start.",
    )
    tls_key: Annotated[str, AfterValidator(check_optional_path)] = Field(
        default="", description="PEM file of its private key, an absolute path."
    )
    discovery: bool = Field(
        default=False,
        description="Tell the local network where this daemon is (DNS-SD, _edged._tcp), if it "
        "listens on an address that other hosts can reach.",
    )
    name: Annotated[str, AfterValidator(check_service_name)] = Field(
        default=AUTO,
        description='What it is called there, 1 to 63 bytes; "auto" is the name of the host.',
    )
    state_directory: Annotated[str, AfterValidator(check_directory)] = Field(
        default=AUTO,
        description='Where its key and its tokens are, an absolute path; "auto" is '
        "$STATE_DIRECTORY in a systemd service, else $XDG_STATE_HOME/edged or "
        "~/.local/state/edged.",
    )
    inhibit_suspend: bool = Field(
        default=True,
        description="Keep the host from suspending while requests run, where logind or macOS can.",
    )
    drain_s: Annotated[float, Field(ge=0, le=86400)] = Field(
        default=30.0,
        description="Seconds that running requests may take to finish when the daemon stops or a "
        "model is unloaded; then they are cancelled.",
    )
    max_message_bytes: Annotated[int, Field(ge=4 * _MIB, le=32 * _MIB)] = Field(
        default=16 * _MIB, description="Largest gRPC message taken or sent, 4 to 32 MiB."
    )
    max_concurrent_requests: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=4096,
        description="Most Generate calls of one tier served at once, for each of the socket, "
        "loopback and the network (there at most 1024); more are refused at once.",
    )
    heartbeat_s: Annotated[float, Field(gt=0, le=10)] = Field(
        default=10.0,
        description="Seconds of silence on an answer's stream before a heartbeat, at most 10.",
    )
    max_backlog_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=8192,
        description="Tokens that may wait for a slow reader before its request is cancelled.",
    )
    default_tier: Literal["interactive", "standard", "batch"] = Field(
        default="standard",
        description="Tier of requests that name none: interactive, standard or batch.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged: debug, info, warning or error."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="console, json, or auto: console on a terminal, JSON otherwise."
    )

    @model_validator(mode="after")
    def _listens_somewhere(self) -> Self:
        if not self.listen and not self.socket:
            raise rule("listen and socket are both off: expected at least one", "listen", "socket")
        return self

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if bool(self.tls_certificate) != bool(self.tls_key):
            given = "tls_certificate" if self.tls_certificate else "tls_key"
            raise rule(
                f"only {given} is given: expected both or none", "tls_certificate", "tls_key"
            )
        return self
