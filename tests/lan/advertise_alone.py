"""A program that only advertises: `python -m tests.lan.advertise_alone NAME LISTENER TTL_S`."""

import asyncio
import sys

from edged.clock import MonotonicClock
from edged.log import configure_logging
from edged.node.advertise import Advertiser
from edged.node.dns_sd import Auth, ServiceText


async def main(name: str, listener: str, ttl_s: int) -> None:
    configure_logging("info", "json", sys.stdout)
    text = ServiceText("0.0.0", Auth.TOKEN, "SHA256:" + "A" * 43)
    Advertiser(name, (listener,), lambda: text, MonotonicClock(), ttl_s=ttl_s).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
