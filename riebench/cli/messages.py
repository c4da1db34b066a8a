"""The program's manners: messages on standard error, ``--quiet`` and ``--verbose``, headings of the help."""

from __future__ import annotations

import inspect
import logging
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from riebench.util.errors import UserError
from riebench.util.files import working_folder

PACKAGE = logging.getLogger("riebench")
"""The parent of every logger of the package. The package installs no handler; the program does, while it runs."""
PREFIX = "RIEBENCH"
"""The beginning of the environment variables that stand for options."""
VARIABLES = ("RIEBENCH_WEIGHTS", "RIEBENCH_PYTHON")
"""The environment variables that are no options: of the weights folder, and of the scripts."""
LISTS = ("k", "expansion", "seeds", "aux", "decoder", "kind", "l1", "l0", "prefixes", "blocks", "together", "budget")
"""The options of commands that take several values in one word."""
_PATHS: set[str] = set()
"""The flags of all commands that take a path."""
_VERBOSITY = {
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print results, warnings and errors only.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Print details, too.")],
}


class _StandardError(logging.Handler):
    """Prints messages on the ``sys.stderr`` of the moment, as a progress bar puts another stream there."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"riebench: {self.format(record)}", file=sys.stderr, flush=True)


@contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Print messages of level INFO and above as ``riebench: MESSAGE`` inside the ``with`` statement."""
    handler, level, propagate = _StandardError(), PACKAGE.level, PACKAGE.propagate
    PACKAGE.addHandler(handler)
    PACKAGE.setLevel(logging.INFO)
    PACKAGE.propagate = False  # open_clip gives the root logger a handler, which would print each message again
    try:
        yield
    finally:
        PACKAGE.removeHandler(handler)
        PACKAGE.setLevel(level)
        PACKAGE.propagate = propagate


def is_quiet() -> bool:
    """Whether ``--quiet`` was given, so that no progress bar is drawn."""
    return not PACKAGE.isEnabledFor(logging.INFO)


class App(typer.Typer):
    """A program, or a group of its commands: each command has ``--quiet`` and ``--verbose``."""

    def command(self, name: str | None = None, **more: Any) -> Callable[[Any], Any]:
        register = super().command(name, cls=_Command, **more)

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            register(_with_verbosity(function))
            return function

        return add


def exit_code(program: Callable[[str | None], App], only: str | None, arguments: list[str]) -> int:
    """The exit code of a program, which is run; bad input becomes a message.

    Args:
        program: makes the program with one command, or with all for None.
        only: the command to make it with.
        arguments: the words of the command line.
    """
    logger = logging.getLogger(__name__)
    with _messages_on_stderr():
        try:
            working_folder()
            made = program(only)
            _refuse_empty_paths(arguments)
            _warn_of_unknown_variables(program)
            code = made(arguments, standalone_mode=False)
            return code if isinstance(code, int) else 0
        except UserError as error:
            logger.error(str(error))
        except BrokenPipeError:  # the reader of our output, as head, has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            logger.debug("", exc_info=True)
            logger.error("%s: %s", error.filename or "a file cannot be read or written", error.strerror or error)
        except typer.Abort:
            logger.error("stopped")
            return 130
        except typer.TyperException as error:
            message = error.format_message()
            if type(error).__name__ == "NoArgsIsHelpError":  # a bare command: its help is the whole answer
                print(message)
            else:
                logger.error(" ".join(message.split()))
    return 2


class _Command(TyperCommand):
    """A command that refuses an option of :data:`LISTS` which is given twice: the last one alone would count."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click: the words that are no options."""
        given = Counter(parameter.name for parameter in self.make_parser(ctx).parse_args(list(args))[2])
        for name in LISTS:
            if given[name] > 1 and not any(each.name == name and each.multiple for each in self.params):
                raise UserError(f"--{name} is given {given[name]} times; give it once, its values with commas between")
        return super().parse_args(ctx, args)


class HeadedCommands(TyperGroup):
    """A program whose help lists its commands below their headings (``rich_help_panel``)."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of the help."""
        headings: dict[str, list[tuple[str, str]]] = {}
        width = formatter.width - 6 - max(map(len, self.commands))
        for name, command in self.commands.items():
            rows = headings.setdefault(str(getattr(command, "rich_help_panel", None) or "Commands"), [])
            rows.append((name, command.get_short_help_str(width)))
        for heading, rows in headings.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


def _refuse_empty_paths(words: Sequence[str]) -> None:
    """Refuse an empty word where a path is expected: it would stand for the working folder.

    Raises:
        UserError: if there is one.
    """
    for before, word in pairwise(["", *words]):
        flag = before if word == "" else word.removesuffix("=")
        if flag in _PATHS and (word == "" or word.endswith("=")):
            raise UserError(f"{flag} is empty; name a path, or leave it out")
        if word == "" and not before.startswith("--"):
            raise UserError("an argument is empty; name a path ('.' is the working folder)")


def _warn_of_unknown_variables(program: Callable[[None], App]) -> None:
    """Warn of environment variables that look like options of the program and are none."""
    names = [name for name in os.environ if name.startswith(PREFIX + "_") and name not in VARIABLES]
    if not names:
        return
    options = {*_variables(typer.main.get_command(program(None)), PREFIX)}
    for name in names:
        if name not in options:
            near = get_close_matches(name, options, n=1)
            hint = f"did you mean {near[0]}?" if near else "no command has such an option"
            logging.getLogger(__name__).warning("the environment variable %s is not read; %s", name, hint)


def _variables(command: Any, prefix: str) -> Iterator[str]:
    """The environment variables of the options of a command, and of the commands below it."""
    for parameter in command.params:
        yield f"{prefix}_{parameter.name.upper()}"
    for name, below in getattr(command, "commands", {}).items():
        yield from _variables(below, f"{prefix}_{name.upper().replace('-', '_')}")


def _refuse_infinite(options: Mapping[str, Any]) -> None:
    """Refuse ``nan`` and ``inf``, which typer takes as numbers, in the options of any command (UserError)."""
    for name, value in options.items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"--{name.replace('_', '-')} is {number}; expected a finite number")


def _with_verbosity(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a command with two more options, which set the level of the messages."""

    @wraps(function)
    def command(*, quiet: bool, verbose: bool, **options: Any) -> Any:
        if quiet or verbose:
            PACKAGE.setLevel(logging.WARNING if quiet else logging.DEBUG)
        _refuse_infinite(options)
        return function(**options)

    signature = inspect.signature(function, eval_str=True)
    for parameter in signature.parameters.values():
        kind, option = get_args(parameter.annotation)[:2]
        if Path in (kind, *get_args(kind)):
            flag = f"--{parameter.name.replace('_', '-')}"
            _PATHS.update(getattr(option, "param_decls", None) or (flag,))
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in _VERBOSITY.items()
    ]
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *added]
    )
    return command
