"""Methods as arguments: names of the package's and of installed ones, or module:Class."""

from __future__ import annotations

import os
import sys

import click
from click.shell_completion import CompletionItem

from reattend.method import Method
from reattend.named_methods import make_method, method_names
from reattend.terminal import CommandError


class MethodName(click.types.StringParamType):
    """The name of a method, which a shell can complete; it is looked up when it is used."""

    name = "method"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Give the names that begin so.

        Parameters
        ----------
        ctx, param
            Of click.
        incomplete : str
            What is written so far.
        """
        return [CompletionItem(each) for each in method_names() if each.startswith(incomplete)]


def method_help() -> str:
    """Say what names a method."""
    return f"{', '.join(method_names())}, or module:Class of your own"


def make_chosen(name: str) -> Method:
    """Make a method that an argument names.

    Parameters
    ----------
    name : str
        What the user wrote.

    Raises
    ------
    CommandError
        If it is not there.

    Examples
    --------
    >>> make_chosen("vhr").alpha
    2.0
    """
    if ":" in name and os.getcwd() not in sys.path:  # a module that lies where one works
        sys.path.insert(0, os.getcwd())
    try:
        return make_method(name)
    except ValueError as error:
        raise CommandError(f"--method {error}") from error
