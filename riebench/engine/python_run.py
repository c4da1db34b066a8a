""":func:`riebench.run`: a run from Python, with the options of :class:`RunOptions`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from inspect import signature
from typing import TYPE_CHECKING, Any

from riebench.engine.request import resolve
from riebench.engine.run import carry_out
from riebench.engine.run_options import ALL, OPTIONS, TYPES, RunOptions
from riebench.engine.session import Session
from riebench.models.arguments import batch_kept
from riebench.records import Record, read_records
from riebench.report.frame import load_records
from riebench.util.errors import unknown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class RunResult:
    """A finished run.

    Attributes:
        session: folder, counts and time.
        records: one for each pair and setting that the folder holds.
    """

    session: Session
    records: list[Record]

    def frame(self) -> pd.DataFrame:
        """The records as :func:`riebench.load_records` gives them; one row a record."""
        return load_records(self.session.folder)

    def __repr__(self) -> str:
        failed = sum(record.status == "failed" for record in self.records)
        counted = f"{len(self.records)} records" + (f", {failed} failed" if failed else "")
        return f"<result of a run: {counted}, in {self.session.folder}>"

    def _repr_html_(self) -> str:
        """The records as a notebook shows them."""
        return f"<p>{escape(repr(self))}</p>" + (self.frame().to_html(max_rows=20) if self.records else "")


def run(method: str | Sequence[str] | None = None, block: str | Sequence[str] = ALL, **more: Any) -> RunResult:
    """Run methods over pairs; records that ``out`` holds already are not made again."""
    for name in more:
        if name not in OPTIONS:
            raise unknown("option", name, OPTIONS, "of riebench.run")
    options = RunOptions(method, block, **more)
    with batch_kept(options.handed_in.model):
        session = carry_out(*resolve(options), options)
    if session.signal is not None:
        raise KeyboardInterrupt
    return RunResult(session, read_records(session.folder))


def _describe_run() -> None:
    """Give :func:`run` the signature and the documentation of the fields of :class:`RunOptions`."""
    own = signature(run)
    parameters = [
        own.parameters.get(name) or parameter.replace(annotation=TYPES[name])
        for name, parameter in signature(RunOptions).parameters.items()
    ]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    arguments = "\n".join(f"    {name}: {option.help}" for name, option in OPTIONS.items())
    run.__doc__ = f"""{run.__doc__}

Args:
{arguments}

Returns:
    The session and all records of the folder.

Raises:
    UserError: if an option does not exist, or the request cannot be run, before anything is computed; or if the folder
        can no longer be written.
    KeyboardInterrupt: at Ctrl-C (or SIGTERM) after the current pair, whose records are then in the folder.
"""


_describe_run()
