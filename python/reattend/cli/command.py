"""What all commands are made of: examples in the help, options with several values, sleep."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import click

Options = SimpleNamespace  # what a command with many options was asked for, by name


class Several(click.Option):
    """An option that takes one or more values: ``--pool A B``, and ``--pool A --pool B`` as well.

    Parameters
    ----------
    names : sequence of str
        As for click.
    settings
        As for click.
    """

    def __init__(self, names: Sequence[str], **settings: Any) -> None:
        super().__init__(names, multiple=True, **settings)


class Command(click.Command):
    """A command with examples in its help.

    Parameters
    ----------
    name : str
        What is written after ``reattend``.
    examples : sequence of str
        Command lines.
    runs_models : bool
        Whether threads of the process shall sleep while they wait.
    settings
        As for click.
    """

    def __init__(
        self, name: str, *, examples: Sequence[str], runs_models: bool = False, **settings: Any
    ) -> None:
        shown = {"show_default": True, "max_content_width": 100}
        super().__init__(name, context_settings=shown, **settings)
        self._examples = examples
        self._runs_models = runs_models

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words after the command's name.

        Parameters
        ----------
        ctx : Context
            Of click.
        args : list of str
            The words.
        """
        names = {name for each in self.params if isinstance(each, Several) for name in each.opts}
        return super().parse_args(ctx, [*_repeated(args, names)])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples.

        Parameters
        ----------
        ctx : Context
            Of click.
        formatter : HelpFormatter
            Of click.
        """
        with formatter.section("Examples"):
            for example in self._examples:
                for line in example.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def read_examples(self) -> Iterator[str]:
        """Give each example as one line, as a shell joins it."""
        for example in self._examples:
            yield example.replace("\\\n", " ")

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Parameters
        ----------
        ctx : Context
            Of click; its ``obj`` says whether the process is this command's own.
        """
        if self._runs_models and ctx.obj:
            _wait_asleep()
        return super().invoke(ctx)


def _repeated(words: Sequence[str], names: Collection[str]) -> Iterator[str]:
    """Write an option before each of its values."""
    option, values = None, 0
    for position, word in enumerate(words):
        if word == "--":
            yield from words[position:]
            return
        if word.startswith("-") and word != "-":
            option, values = (word if word in names else None), 0
        elif option is not None:
            values += 1
            if values > 1:
                yield option
        yield word


def _wait_asleep() -> None:
    """Start this process anew with OpenMP threads that sleep while they wait, if nobody chose.

    The default is to spin, on the cores that NumPy's BLAS needs for its own threads: a prompt of 45
    tokens took 270 ms instead of 110, a step with ACT 300 instead of 30 (2 cores). OpenMP reads the
    setting when it is loaded, with the package, so it cannot be changed from here.
    """
    chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
    if os.name == "posix" and not chosen:
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        os.execve(sys.executable, sys.orig_argv, environment)
