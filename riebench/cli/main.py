"""The program ``riebench``."""

from __future__ import annotations

import gc
import logging
import sys

import typer

from riebench.cli.ablate_command import ablate_command
from riebench.cli.audit_command import audit_command
from riebench.cli.bench_command import bench_command
from riebench.cli.blocks_command import blocks_command
from riebench.cli.messages import App, messages_on_stderr
from riebench.cli.methods_command import methods_command, new_method_command
from riebench.cli.mini_command import mini_app
from riebench.cli.paint_command import paint_command
from riebench.cli.pairs_command import pairs_app
from riebench.cli.report_command import compare_command, report_command, results_app
from riebench.cli.rerun_command import rerun_command
from riebench.cli.run_command import run_command
from riebench.cli.sae_command import sae_app
from riebench.cli.score_command import metrics_command, score_command
from riebench.cli.settings_command import settings_command
from riebench.cli.standin_command import standin_command
from riebench.cli.table_command import table_command
from riebench.cli.weights_command import doctor_command, fetch_command
from riebench.util.errors import UserError

app = App(
    name="riebench",
    help="Measure representation-based image editing: CLIP against LPIPS, with the truth where it is known.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"auto_envvar_prefix": "RIEBENCH", "help_option_names": ["-h", "--help"]},
)
app.command("run")(run_command)
app.command("score")(score_command)
app.command("rerun")(rerun_command)
app.command("bench")(bench_command)
app.command("ablate")(ablate_command)
app.command("audit")(audit_command)
app.command("settings")(settings_command)
app.command("fetch")(fetch_command)
app.command("doctor")(doctor_command)
app.command("standin")(standin_command)
app.command("table")(table_command)
app.command("report")(report_command)
app.command("compare")(compare_command)
app.command("methods")(methods_command)
app.command("metrics")(metrics_command)
app.command("new-method")(new_method_command)
app.command("blocks")(blocks_command)
app.command("paint")(paint_command)
app.add_typer(pairs_app, name="pairs")
app.add_typer(results_app, name="results")
app.add_typer(mini_app, name="mini")
app.add_typer(sae_app, name="sae")


def main(arguments: list[str] | None = None) -> None:
    """Run the program.

    Exit codes: 0; 1 if some pairs failed; 2 for bad input (one line, no traceback); 130 after Ctrl-C; 143 after
    SIGTERM.
    """
    # Importing torch, diffusers and open_clip makes a million objects that stay. Full garbage collections meanwhile
    # find nothing and take a sixth of the time, so they are made rare; those of young objects stay as they are.
    gc.set_threshold(*gc.get_threshold()[:2], 1000)
    with messages_on_stderr():
        sys.exit(_exit_code(arguments))


def _exit_code(arguments: list[str] | None) -> int:
    """Run the program; bad input becomes a message."""
    logger = logging.getLogger(__name__)
    try:
        code = app(arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except UserError as error:
        logger.error(str(error))
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
