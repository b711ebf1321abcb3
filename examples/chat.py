"""A chat in the terminal: python examples/chat.py [DAEMON]

An empty line or the end of input ends it; Ctrl-C ends an answer, which is kept as far as it came.
"""

import sys

from edged.client import Client, ClientError, Message


def main(where: str | None) -> None:
    history: list[Message] = []
    with Client(where, client="example-chat") as client:
        while question := ask_person():
            history.append(Message("user", question))
            with client.generate(history, tier="interactive", max_tokens=400) as answer:
                try:
                    for event in answer:
                        print(event.text, end="", flush=True)
                except KeyboardInterrupt:
                    pass
                except ClientError as error:
                    print(f"[{error}]", file=sys.stderr)
                print()
                if answer.text:
                    history.append(Message("assistant", answer.text))
                else:
                    history.pop()


def ask_person() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except (EOFError, KeyboardInterrupt):
        return ""


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
