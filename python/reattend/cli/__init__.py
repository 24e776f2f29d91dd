"""The command line, one command a file."""

from reattend.cli.entry import main

__all__ = ["main"]
