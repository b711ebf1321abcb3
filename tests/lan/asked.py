"""A program that waits until so many questions came to a host's address by multicast, from one port
that is not that of multicast DNS: `python -m tests.lan.asked ADDRESS COUNT`."""

import socket
import sys
from collections import Counter

from edged.node.lan.multicast import IPV4_GROUP, PORT, is_response


def main(address: str, count: int) -> None:
    ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    ear.bind((IPV4_GROUP, PORT))
    member = socket.inet_aton(IPV4_GROUP) + socket.inet_aton(address)
    ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    asked: Counter[tuple[str, int]] = Counter()
    while max(asked.values(), default=0) < count:
        data, sender = ear.recvfrom(9000)
        if not is_response(data) and sender[1] != PORT:
            asked[sender] += 1


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
