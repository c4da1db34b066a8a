"""The program ``riebench``."""

from __future__ import annotations

import gc
import sys
from typing import Annotated, Any

import typer

from riebench.cli.bench_command import bench_command
from riebench.cli.messages import PREFIX, App, HeadedCommands, exit_code
from riebench.cli.methods_command import methods_command, new_method_command
from riebench.cli.mini_command import mini_app
from riebench.cli.models_command import (
    blocks_command,
    doctor_command,
    fetch_command,
    models_command,
    settings_command,
    standin_command,
)
from riebench.cli.paint_command import paint_command
from riebench.cli.pairs_command import pairs_app
from riebench.cli.report_command import compare_command, report_command, results_app, table_command
from riebench.cli.run_command import rerun_command, run_command
from riebench.cli.sae_command import sae_app
from riebench.cli.score_command import metrics_command, score_command
from riebench.cli.studies_command import ablate_command, audit_command
from riebench.version import __version__


def _print_version(version: bool) -> None:
    if version:
        print(f"riebench {__version__}")
        raise typer.Exit


COMMANDS: dict[str, dict[str, Any]] = {
    "Run and report": {
        "run": run_command,
        "rerun": rerun_command,
        "score": score_command,
        "table": table_command,
        "report": report_command,
        "compare": compare_command,
        "results": results_app,
    },
    "SAEs": {"sae": sae_app, "paint": paint_command},
    "Studies": {"ablate": ablate_command, "audit": audit_command},
    "Models and weights": {
        "models": models_command,
        "blocks": blocks_command,
        "settings": settings_command,
        "fetch": fetch_command,
        "doctor": doctor_command,
        "standin": standin_command,
        "mini": mini_app,
    },
    "Pairs, methods, metrics": {
        "pairs": pairs_app,
        "methods": methods_command,
        "new-method": new_method_command,
        "metrics": metrics_command,
    },
    "Tools": {"bench": bench_command},
}
"""The commands by the headings of ``riebench --help``."""
app = App(
    name="riebench",
    cls=HeadedCommands,
    help="Measure representation-based image editing: CLIP against LPIPS, with the truth where it is known.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"auto_envvar_prefix": PREFIX, "help_option_names": ["-h", "--help"]},
)


@app.callback()
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


for heading, commands in COMMANDS.items():
    for name, command in commands.items():
        if isinstance(command, App):
            app.add_typer(command, name=name, rich_help_panel=heading)
        else:
            app.command(name, rich_help_panel=heading)(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the program.

    Exit codes: 0; 1 if some pairs failed; 2 for bad input (one line, no traceback); 130 after Ctrl-C; 143 after
    SIGTERM.
    """
    # Importing torch, diffusers and open_clip makes a million objects that stay. Full garbage collections meanwhile
    # find nothing and take a sixth of the time, so they are made rare; those of young objects stay as they are.
    gc.set_threshold(*gc.get_threshold()[:2], 1000)
    sys.exit(exit_code(app, arguments))
