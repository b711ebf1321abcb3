"""A program that only advertises: `python -m tests.lan.advertise_alone NAME LISTENER TTL_S`. SIGHUP
renews its certificate, as it were."""

import asyncio
import signal
import sys

from edged.clock import MonotonicClock
from edged.log import configure_logging
from edged.node.lan.advertise import Advertiser
from edged.node.lan.dns_sd import Auth, ServiceText
from edged.node.trust.fingerprint import fingerprint


async def main(name: str, listener: str, ttl_s: int) -> None:
    configure_logging("info", "json", sys.stdout)
    texts = [ServiceText("0.0.0", Auth.TOKEN, fingerprint(one)) for one in (b"old", b"new")]
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, texts.reverse)
    Advertiser(name, (listener,), lambda: texts[0], MonotonicClock(), ttl_s=ttl_s).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
