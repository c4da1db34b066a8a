"""Carry an audit out: make the runs that are missing, work out every part, write the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from riebench.audit.evidence import Evidence, gather
from riebench.audit.findings import Findings, find
from riebench.audit.own_runs import FAULT, own_runs
from riebench.engine.run import carry_out
from riebench.engine.run_options import RunOptions
from riebench.report.frame import records_file
from riebench.util.errors import UserError

RUNS = "runs"


@dataclass(frozen=True)
class Audited:
    """What became of an audit.

    Attributes:
        folder: that holds it.
        findings: None if it was ended early.
        failed: records that failed in its own runs.
        signal: that ended it early, if one did.
    """

    folder: Path
    findings: Findings | None = None
    failed: int = 0
    signal: Signals | None = None


def audit(
    runs: Sequence[str | Path] = (),
    *,
    out: str | Path = "audit",
    limit: int | None = None,
    seeds: int | None = None,
    workers: int | None = None,
    budget: float = 0.05,
    quiet: bool = False,
    step: Callable[[str], object] = lambda what: None,
) -> Audited:
    """Audit the benchmark: what can its scores tell, from how many pairs on, and where do they mislead?

    Without runs it makes its own on mini, in ``out/runs``; records that are there already are not made again.

    Args:
        runs: folders of finished runs, or files of records. The first is audited; others are the same pairs with other
            seeds or by another protocol. What they cannot tell is left out, with the reason.
        out: folder for text, page, tables and figures.
        limit: pairs of each category at most, of its own runs.
        seeds: how many of its own runs have other seeds; 2 unless given.
        workers: processes that its own runs take; 1 unless given.
        budget: LPIPS at which the arms are compared.
        quiet: whether to show no progress.
        step: called with the name of each own run and each part before it begins.

    Raises:
        UserError: if a run cannot be read, options of its own runs are given beside runs, fewer than two arms have the
            budget, or the folder cannot be written.
    """
    from riebench.audit.audit_files import write_audit

    folder, failed = Path(out), 0
    _check(folder, [Path(run) for run in runs], budget)
    if runs:
        if (limit, seeds, workers) != (None, None, None):
            raise UserError("limit, seeds and workers are of the audit's own runs; leave them out, or the runs")
        evidence = gather([Path(run) for run in runs])
    else:
        asked = own_runs(limit, 2 if seeds is None else seeds, budget)
        for one in asked:
            step(f"run {one.name}")
            path = folder / RUNS / one.name
            done = carry_out(one.request, one.pairs, RunOptions(out=path, quiet=quiet, workers=workers or 1))
            failed += list(done.statuses.values()).count("failed")
            if done.signal is not None:
                return Audited(folder, None, failed, done.signal)
        evidence = _own_evidence(folder / RUNS, [one.name for one in asked])
    findings = find(evidence, budget, step)
    step("report")
    write_audit(findings, folder)
    return Audited(folder, findings, failed)


def _check(folder: Path, runs: Sequence[Path], budget: float) -> None:
    """Refuse what cannot be done before anything is computed."""
    if not 0 < budget < float("inf"):
        raise UserError(f"budget is {budget:g}; expected an LPIPS above 0, as 0.05")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; give a folder")
    if any(folder.resolve() in (run.resolve(), records_file(run).parent.resolve()) for run in runs):
        raise UserError(f"--out {folder} is one of the runs; give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"the folder {folder} cannot be written ({reason}); give another --out") from None


def _own_evidence(folder: Path, names: Sequence[str]) -> Evidence:
    """The evidence of the audit's own runs."""
    plain, faulty = ([folder / name for name in names if name.startswith(FAULT) == fault] for fault in (False, True))
    return gather(plain, faulty)
