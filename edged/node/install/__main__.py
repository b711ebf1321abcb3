"""`python -m edged.node.install [--user]`: removes edged from a checkout, as `edged install-service
--uninstall` does.

Theory of operation: nothing but the standard library is needed, and nothing that is installed, so
that it works whatever has become of the program.
"""

import os
import sys

from edged.errors import EdgedError
from edged.node.install import installation, steps


def main() -> None:
    host = installation.Host(
        environ=os.environ,
        run=steps.run_command,
        uid=os.geteuid(),
        is_user="--user" in sys.argv[1:],
        is_macos=sys.platform == "darwin",
    )
    refusal = installation.why_nowhere(host) or installation.why_not(host)
    if refusal is not None:
        sys.exit(f"install: {refusal}")
    try:
        for step in installation.plan_uninstall(host):
            print(step, flush=True)
            steps.perform(step, host.run)
    except EdgedError as error:
        sys.exit(f"install: {error.detail}")


if __name__ == "__main__":
    main()
