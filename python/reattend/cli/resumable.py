"""Commands that keep a journal: stopped at any moment, the same command goes on from there."""

from __future__ import annotations

import sys
from typing import Any

import click

from reattend.cli.command import Command
from reattend.evaluation.runner.journal import JournalError
from reattend.terminal import INTERRUPTED, CommandError


class ResumableCommand(Command):
    """A command whose journal is valid whenever it ends; settings as for `Command`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and say how it goes on.

        Parameters
        ----------
        ctx : Context
            Of click.
        """
        try:
            return super().invoke(ctx)
        except JournalError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            print("\ninterrupted: the same command goes on from here", file=sys.stderr)
            return INTERRUPTED
