"""Run an audit: make the missing runs, compute every part, write the report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from riebench.audit.evidence import Evidence, gather
from riebench.audit.findings import Findings, find
from riebench.audit.own_runs import FAULT, own_runs
from riebench.engine.run import carry_out
from riebench.engine.run_options import RunOptions
from riebench.records.folder import records_file
from riebench.util.errors import UserError

RUNS = "runs"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Audited:
    """The result of an audit.

    Attributes:
        folder: the folder that holds its files.
        findings: its results; None if a signal ended it early.
        failed: number of failed records in its own runs.
        signal: the signal that ended it early, or None.
    """

    folder: Path
    findings: Findings | None = None
    failed: int = 0
    signal: Signals | None = None


def audit(
    runs: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path = "audit",
    limit: int | None = None,
    seeds: int | None = None,
    workers: int | None = None,
    budget: float = 0.05,
    quiet: bool = False,
) -> Audited:
    """Compute what the benchmark's scores can tell, from how many pairs on, and where they mislead.

    Without ``runs`` the audit makes its own runs on mini in ``out/runs``; existing records there are kept.

    Args:
        runs: folders of finished runs, or files of records, or a single one. The first is audited, together with those
            of its protocol and seeds. The others must have the same pairs with other seeds or by another protocol. A
            part that the runs do not allow is left out, with the reason.
        out: folder for text, page, tables and figures.
        limit: largest number of pairs of each category in the audit's own runs; None for all.
        seeds: number of its own runs with other seeds; None for 2.
        workers: number of processes for its own runs; None for 1.
        budget: LPIPS at which the arms are compared.
        quiet: whether to hide the progress of its own runs.

    Raises:
        UserError: if a run cannot be read, ``limit``, ``seeds`` or ``workers`` stand beside ``runs``, fewer than two
            arms reach the budget, or the folder cannot be written.
    """
    from riebench.audit.audit_files import write_audit

    folder, failed = Path(out), 0
    runs = [runs] if isinstance(runs, str | Path) else runs
    _check(folder, [Path(run) for run in runs], budget)
    if runs:
        if (limit, seeds, workers) != (None, None, None):
            raise UserError(
                "--limit, --seeds and --workers are for the audit's own runs; leave them out, or name no run"
            )
        evidence = gather([Path(run) for run in runs])
    else:
        planned = own_runs(limit, 2 if seeds is None else seeds, budget)
        for run in planned:
            log.info("run %s", run.name)
            options = RunOptions(out=folder / RUNS / run.name, quiet=quiet, workers=workers or 1)
            done = carry_out(run.request, run.pairs, options)
            failed += list(done.statuses.values()).count("failed")
            if done.signal is not None:
                return Audited(folder, None, failed, done.signal)
        evidence = _own_evidence(folder / RUNS, [run.name for run in planned])
    findings = find(evidence, budget)
    log.info("report")
    write_audit(findings, folder)
    return Audited(folder, findings, failed)


def _check(folder: Path, runs: Sequence[Path], budget: float) -> None:
    """Check the folders and the budget before anything is computed."""
    if not 0 < budget < float("inf"):
        raise UserError(f"--budget is {budget:g}; expected an LPIPS above 0, such as 0.05")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; give a folder")
    if any(folder.resolve() in (run.resolve(), records_file(run).parent.resolve()) for run in runs):
        raise UserError(f"--out {folder} is a folder of one of the runs; give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"the folder {folder} cannot be written ({reason}); give another --out") from None


def _own_evidence(folder: Path, names: Sequence[str]) -> Evidence:
    """The records of the audit's own runs, by what they can tell."""
    plain, faulty = ([folder / name for name in names if name.startswith(FAULT) == fault] for fault in (False, True))
    return gather(plain, faulty)
