"""Where a command line begins and ends: exit codes, and errors in one line that say what to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from reattend.border.config import show_config
from reattend.models import ModelFileError
from reattend.models.pictures import PictureError
from reattend.optional import MissingPackageError, demand
from reattend.terminal import INTERRUPTED, PIPE_CLOSED, CommandError

_COMPLETION = "_REATTEND_COMPLETE"  # the variable by which a shell asks for words


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and give the exit code: 0, 1 (an error), 2 (wrong usage) or 128 + signal.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``reattend``; those of this process by default.

    Raises
    ------
    SystemExit
        With code 2, if a word is not understood.

    Examples
    --------
    >>> main(["config"])  # doctest: +ELLIPSIS
    reattend ...
    0
    """
    words = sys.argv[1:] if arguments is None else [*arguments]
    try:
        code = _run(words, own_process=arguments is None)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who read our output has gone: nothing to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (CommandError, ModelFileError, PictureError, MissingPackageError) as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(_what_failed(error))
    except MemoryError:
        return _failed("not enough memory: weights take 4 bytes a parameter")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED


def _run(words: list[str], *, own_process: bool) -> int:
    if words == ["config"]:  # needs NumPy alone, as the package does
        show_config()
        return 0
    click = demand("click")
    from reattend.cli.group import commands

    if own_process and (asked := os.environ.get(_COMPLETION)):
        complete = demand("click.shell_completion").shell_complete
        return int(complete(commands, {}, "reattend", _COMPLETION, asked))
    try:
        with commands.make_context("reattend", words, obj=own_process) as context:
            return commands.invoke(context) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show(sys.stderr)
        return 2
    except click.UsageError as error:
        name = "reattend" if error.ctx is None else error.ctx.command_path
        message = error.format_message().removesuffix(".")
        print(f"{name}: {message} ({name} --help says more)", file=sys.stderr)
        raise SystemExit(2) from error
    except click.exceptions.Exit as error:
        return int(error.exit_code)


def _failed(why: str) -> int:
    print(f"reattend: {why}", file=sys.stderr)
    return 1


def _what_failed(error: OSError) -> str:
    """Say in words what the system refused; its own text begins with a number."""
    if error.filename is None or error.strerror is None:
        return str(error)
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} is not a file or folder"
    return f"{error.filename}: {error.strerror}"
