"""The command `reattend` itself: which commands there are."""

from __future__ import annotations

from importlib import import_module

import click

from reattend import __version__

_COMMANDS = (
    *("demo", "describe", "generate", "evaluate", "calibrate", "compare", "report", "bench"),
    "config",
)


class Commands(click.Group):
    """Commands that are imported when they are used, a file each.

    Parameters
    ----------
    arguments, settings
        As for click.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give their names, in the order in which one meets them.

        Parameters
        ----------
        ctx : Context
            Of click.
        """
        return [*_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command.

        Parameters
        ----------
        ctx : Context
            Of click.
        cmd_name : str
            What was written after ``reattend``.
        """
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"reattend.cli.{cmd_name}").command
        return command


@click.group(
    cls=Commands,
    context_settings={"max_content_width": 100},
    epilog='Shell completion: eval "$(_REATTEND_COMPLETE=bash_source reattend)", or zsh_source, '
    "or fish_source, in your shell's startup file.",
)
@click.version_option(__version__, message="reattend %(version)s")
def commands() -> None:
    """Attention with interventions, on real models."""
