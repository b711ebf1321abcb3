"""Ask whoever on the local network has a model and the least to do:
python examples/lan_picker.py MODEL QUESTION

Daemons that were paired with (`edgectl pair`) are asked what they do; the others are only shown.
"""

import sys

from edged.client import Client, ClientError, discover


def main(model: str, question: str) -> None:
    found = discover()
    candidates = []
    for daemon in found.daemons:
        where = f"{daemon.name} at {daemon.addresses[0]}, version {daemon.version}"
        if daemon.peer is None:
            print(f"{where}: not paired with")
            continue
        try:
            with Client(daemon, retry=None) as client:
                serving = client.status().model(model)
        except ClientError as error:
            print(f"{where}: {error}")
            continue
        if serving is None:
            print(f"{where}: has no model {model}")
        else:
            print(f"{where}: {serving.load.num_requests} requests")
            candidates.append((serving.load.num_requests, daemon))
    if not candidates:
        sys.exit(f"nobody here has {model}" + (f"; {found.problem}" if found.problem else ""))
    least_first = sorted(candidates, key=lambda candidate: candidate[0])
    with Client([daemon for _, daemon in least_first], client="example-lan-picker") as client:
        for event in client.generate(question, model=model, max_tokens=200):
            print(event.text, end="", flush=True)
    print()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
