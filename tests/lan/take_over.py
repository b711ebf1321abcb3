"""A program that asks the daemon NAME, with others to take over, and prints who admits its request
and how many tokens came: `python -m tests.lan.take_over NAME`."""

import sys

from edged.client import Admitted, Client

PROMPT = "Hello~"


def main(name: str) -> None:
    with Client(name, fall_over=True) as client:
        stream = client.generate(PROMPT, max_tokens=8)
        for event in stream:
            if isinstance(event, Admitted):
                print(event.daemon, flush=True)
        print(len(stream.answer().token_ids))


if __name__ == "__main__":
    main(sys.argv[1])
