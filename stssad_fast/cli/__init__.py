"""The command line: ``app`` reads what was typed, one module per command does it."""

from stssad_fast.cli.app import main

__all__ = ["main"]
