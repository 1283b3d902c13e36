"""The command metajax, also as python -m metajax."""

import signal
import sys
import traceback

from metajax import hosts
from metajax.errors import ConfigError

AGREED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # where all processes end together


def main() -> int:
    """Runs the command line; of several processes, after they have met, since its imports use JAX already."""
    try:
        hosts.begin(sys.argv[1:])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from metajax import cli

    if not hosts.joined():
        return cli.main()
    code = 1
    try:
        code = cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except Exception:
        traceback.print_exc()
    if code not in (0, *AGREED):
        hosts.leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
