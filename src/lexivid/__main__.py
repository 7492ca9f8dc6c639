"""`lexivid` and `python -m lexivid`."""

import sys


def main() -> None:
    """The command line. (Ctrl-C may come while its modules are read.)"""
    try:
        from lexivid.cli import main as run

        run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
