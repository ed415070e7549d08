"""``python -m portal.local``: run everything, or ``exec -- COMMAND`` with the services only."""

from __future__ import annotations

import sys
from pathlib import Path

from portal.local.addresses import home_of
from portal.local.storage import LocalError
from portal.local.supervisor import Supervisor, execute, port_wanted

USAGE = "Usage: python -m portal.local            run the whole product\n" \
        "       python -m portal.local exec -- COMMAND [ARGUMENT…]   run a command with services of its own"  # fmt: skip


def main(arguments: list[str]) -> int:
    home = home_of(Path(__file__).resolve().parent.parent.parent)
    try:
        if not arguments:
            return Supervisor(home, port_wanted()).run()
        if len(arguments) > 2 and arguments[:2] == ["exec", "--"]:
            # Beside the data of `make run`, never in it: these services do not survive a power cut.
            return execute(home / "exec", arguments[2:])
    except LocalError as error:
        print(f"sublet: {error}", file=sys.stderr)
        return 1
    print(USAGE, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
