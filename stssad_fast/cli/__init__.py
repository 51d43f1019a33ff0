"""The command line: ``app`` reads what was typed, one module per command does it."""

import sys


def main() -> None:
    """Entry point of the command ``stssad-fast``."""
    try:
        from stssad_fast.cli.app import main as begin  # takes seconds
    except KeyboardInterrupt:
        print("Stopped before anything was begun.", file=sys.stderr)
        sys.exit(130)
    begin()
