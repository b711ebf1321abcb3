"""Ask whoever on the local network has a model and the least to do:
python examples/lan_picker.py MODEL QUESTION

Daemons that were paired with (`edgectl pair`) are asked what they do; the others are only shown.
"""

import sys

from edged.client import Client, ClientError, discover


def main(model: str, question: str) -> None:
    loads: dict[str, int] = {}
    found = discover()
    for daemon in found.daemons:
        where = f"{daemon.name} at {daemon.addresses[0]}, version {daemon.version}"
        if daemon.peer is None:
            print(f"{where}: not paired with")
            continue
        try:
            with Client(daemon, retry=None) as client:
                has = client.status().model(model)
        except ClientError as error:
            print(f"{where}: {error}")
            continue
        if has is None:
            print(f"{where}: has no model {model}")
        else:
            print(f"{where}: {has.load.num_requests} requests")
            loads[daemon.peer] = has.load.num_requests
    if not loads:
        sys.exit(f"nobody here has {model}" + (f"; {found.problem}" if found.problem else ""))
    picked = sorted(loads, key=lambda name: loads[name])
    with Client(picked, client="example-lan-picker") as client:
        for event in client.generate(question, model=model, max_tokens=200):
            print(event.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
