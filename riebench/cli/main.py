"""The program ``riebench``."""

from __future__ import annotations

import sys

import click
import typer

from riebench.cli.listing import blocks_command, methods_command, pairs_app
from riebench.cli.mini import mini_app
from riebench.cli.run import run_command
from riebench.errors import UserError

app = typer.Typer(
    name="riebench",
    help="Measure representation-based image editing: CLIP against LPIPS, with the truth where it is known.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"auto_envvar_prefix": "RIEBENCH", "help_option_names": ["-h", "--help"]},
)
app.command("run")(run_command)
app.command("methods")(methods_command)
app.command("blocks")(blocks_command)
app.add_typer(pairs_app, name="pairs")
app.add_typer(mini_app, name="mini")


def main(arguments: list[str] | None = None) -> None:
    """Run the program: exit code 0, 1 if some pairs failed, 2 for bad input (one line, no traceback)."""
    try:
        code = app(arguments, standalone_mode=False)
    except UserError as error:
        fail(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help())
        sys.exit(2)
    except click.ClickException as error:
        fail(error.format_message().replace("\n", " "))
    except click.Abort:
        fail("stopped", code=130)
    sys.exit(code if isinstance(code, int) else 0)


def fail(message: str, code: int = 2) -> None:
    """Say what is wrong in one line and leave."""
    print(f"riebench: {message}", file=sys.stderr)
    sys.exit(code)
