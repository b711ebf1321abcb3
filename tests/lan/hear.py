"""A program that asks for daemons and prints every record of the answers, as JSON, for a second:
`python -m tests.lan.hear`."""

import asyncio
import json

from zeroconf import DNSOutgoing, DNSQuestion

from edged.clock import MonotonicClock
from edged.node.lan.dns_sd import SERVICE_TYPE
from edged.node.lan.interfaces import usable_interfaces
from edged.node.lan.multicast import (
    CLASS_IN,
    FLAGS_QUERY,
    TYPE_PTR,
    Budgets,
    Gate,
    Intake,
    Sender,
    is_response,
    open_multicast,
    parse,
    put_gates,
)

LISTEN_S = 1.0


async def main() -> None:
    budgets = Budgets(MonotonicClock(), bytes_per_s=1e9, sender_bytes_per_s=1e9)

    def listen(data: bytes, sender: Sender) -> None:
        for record in parse(data, sender).answers():
            print(json.dumps({"name": record.name, "type": record.type, "ttl_s": record.ttl}))

    def make(_: Intake) -> Gate:
        return Gate(
            listen, wants=lambda data, _: is_response(data), budgets=budgets, failed=lambda _: None
        )

    zeroconf = open_multicast(usable_interfaces())
    await zeroconf.zeroconf.async_wait_for_start()
    put_gates(zeroconf.zeroconf, make)
    query = DNSOutgoing(FLAGS_QUERY)
    query.add_question(DNSQuestion(SERVICE_TYPE, TYPE_PTR, CLASS_IN))
    zeroconf.zeroconf.async_send(query)
    await asyncio.sleep(LISTEN_S)
    await zeroconf.async_close()


if __name__ == "__main__":
    asyncio.run(main())
