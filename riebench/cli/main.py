"""The program ``riebench``."""

from __future__ import annotations

import ast
import gc
import os
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from riebench.cli.messages import PREFIX, App, HeadedCommands, exit_code
from riebench.version import __version__


def _print_version(version: bool) -> None:
    if version:
        print(f"riebench {__version__}")
        raise typer.Exit


COMMANDS: Mapping[str, Mapping[str, str]] = {
    "Run and report": {
        "run": "run_command:run_command",
        "rerun": "run_command:rerun_command",
        "score": "score_command:score_command",
        "table": "report_command:table_command",
        "report": "report_command:report_command",
        "compare": "report_command:compare_command",
        "results": "report_command:results_app",
    },
    "SAEs": {"sae": "sae_command:sae_app", "paint": "paint_command:paint_command"},
    "Studies": {"ablate": "studies_command:ablate_command", "audit": "studies_command:audit_command"},
    "Models and weights": {
        "models": "models_command:models_command",
        "blocks": "models_command:blocks_command",
        "settings": "models_command:settings_command",
        "fetch": "models_command:fetch_command",
        "doctor": "models_command:doctor_command",
        "standin": "models_command:standin_command",
        "mini": "mini_command:mini_app",
    },
    "Pairs, methods, metrics": {
        "pairs": "pairs_command:pairs_app",
        "methods": "methods_command:methods_command",
        "new-method": "methods_command:new_method_command",
        "metrics": "score_command:metrics_command",
    },
    "Tools": {"bench": "bench_command:bench_command"},
}
"""Commands by the headings of ``riebench --help``, each with its file in this room and its name there."""


HELP, COMPLETION = "--help", f"_{PREFIX}_COMPLETE"


def program(only: str | None = None) -> App:
    """The program with all commands, or with one alone, whose file alone is imported.

    Of :data:`HELP` alone it has all commands by name and description, which are read from their files as texts.
    """
    app = App(
        name="riebench",
        cls=HeadedCommands,
        help="Measure representation-based image editing: CLIP against LPIPS, with the truth where it is known.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"auto_envvar_prefix": PREFIX, "help_option_names": ["-h", "--help"]},
    )
    app.callback()(_program)
    places = [(heading, name, place) for heading, commands in COMMANDS.items() for name, place in commands.items()]
    for heading, name, place in sorted(places, key=lambda each: each[2].endswith("_app")):  # groups last, as typer does
        if only == HELP:
            app.command(name, help=_description(place), rich_help_panel=heading)(_nothing)
        elif only in (None, name):
            file, _, attribute = place.partition(":")
            command = getattr(import_module(f"riebench.cli.{file}"), attribute)
            if isinstance(command, App):
                app.add_typer(command, name=name, rich_help_panel=heading)
            else:
                app.command(name, rich_help_panel=heading)(command)
    return app


def _nothing() -> None: ...


def _description(place: str) -> str:
    """The docstring of a command, or the help of a group of commands, without an import."""
    file, _, name = place.partition(":")
    for node in _statements(file):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node) or ""
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name and isinstance(node.value, ast.Call):
            return next(str(ast.literal_eval(word.value)) for word in node.value.keywords if word.arg == "help")
    raise LookupError(place)


@cache
def _statements(file: str) -> list[ast.stmt]:
    return ast.parse(Path(__file__).with_name(f"{file}.py").read_text(encoding="utf-8")).body


def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            allow_from_autoenv=False,
            help="Print the version and stop.",
        ),
    ] = False,
) -> None: ...


def main(arguments: list[str] | None = None) -> None:
    """Run the program.

    Exit codes: 0; 1 if some pairs failed; 2 for bad input (one line, no traceback); 130 after Ctrl-C; 143 after
    SIGTERM.
    """
    # Importing torch, diffusers and open_clip makes a million objects that stay. Full garbage collections meanwhile
    # find nothing and take a sixth of the time, so they are made rare; those of young objects stay as they are.
    gc.set_threshold(*gc.get_threshold()[:2], 1000)
    words = sys.argv[1:] if arguments is None else arguments
    known = {name for commands in COMMANDS.values() for name in commands}
    only = words[0] if words and words[0] in {*known, "--version"} else None
    if words in ([], [HELP], ["-h"]) and COMPLETION not in os.environ:
        only = HELP
    sys.exit(exit_code(program, only, words))
