"""A session of a run: what it counts, and ``run.json``, which tells of all sessions of a folder. Needs no torch."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from riebench.engine.pair_task import LoadedRun
from riebench.engine.request import Request
from riebench.engine.run_options import RunOptions
from riebench.methods.registry import find
from riebench.records import Record, RunFolder
from riebench.records.code import code_version
from riebench.util.errors import UserError

logger = logging.getLogger(__name__)


@dataclass
class Session:
    """The work of one process on a run folder.

    Attributes:
        folder: of the records.
        tasks: pairs of which a record was missing.
        pairs: how many of them are done.
        statuses: key to status of every record of the run that is in the folder now.
        written: number of records that this session wrote.
        failed: number of those that are failures.
        failed_pairs: number of pairs with a failure.
        seconds: time of the work.
        ended: why the session ended.
        signal: the signal that ended it early, if one did.
    """

    folder: Path
    tasks: int = 0
    pairs: int = 0
    statuses: dict[str, str] = field(default_factory=dict)
    written: int = 0
    failed: int = 0
    failed_pairs: int = 0
    seconds: float = 0.0
    ended: str = "finished"
    signal: signal.Signals | None = None

    def count(self, records: Sequence[Record]) -> None:
        """Count the records of a further pair."""
        failed = sum(record.status == "failed" for record in records)
        self.pairs += 1
        self.written += len(records)
        self.failed += failed
        self.failed_pairs += failed > 0
        self.statuses |= {record.key: record.status for record in records}


@contextmanager
def writing_run_file(
    folder: RunFolder, run: LoadedRun, request: Request, options: RunOptions, session: Session
) -> Iterator[None]:
    """Write ``run.json`` at the beginning and at any end of a session.

    The top of the file holds the settings and pairs of all sessions together, what they share, and ``command``,
    ``code``, ``device``, ``started`` and ``finished`` of the last session; ``seconds`` is the sum of all sessions.
    ``sessions`` holds command, options, request, code, ``made_with``, host and times of each; a killed session has no
    ``finished``.
    """
    old = folder.run() if folder.records else {}
    earlier = old.get("sessions") or []
    shared = _together(old, run, request, folder)
    clock = time.perf_counter()
    facts: dict[str, Any] = {
        "command": sys.argv,
        "options": options.as_json(),
        "request": request.model_dump(mode="json"),
        "seeds": {task.pair.id: task.seed for task in run.tasks},
        "code": code_version(),
        "device": run.device,
        "made_with": made_with(run, request),
        "locations": dict(run.locations),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "records_before": len(folder.records),
        "started": datetime.now().isoformat(timespec="seconds"),
    }
    last = ("command", "code", "device", "started")
    folder.write_run(shared | {name: facts[name] for name in last} | {"sessions": [*earlier, facts]})
    ended = ""
    try:
        yield
    except BaseException as error:
        ended = f"{type(error).__name__}: {error}".strip(": ")
        if isinstance(error, KeyboardInterrupt):
            logger.warning("stopped at once; the current pair is lost, the same command goes on")
        raise
    finally:
        facts |= {
            "ended": ended or session.ended,
            "written": session.written,
            "failed": session.failed,
            "finished": datetime.now().isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 1),
        }
        seconds = round(sum(entry.get("seconds", 0.0) for entry in [*earlier, facts]), 1)
        top = {name: facts[name] for name in (*last, "finished")} | {"seconds": seconds}
        try:
            folder.write_run(shared | top | {"sessions": [*earlier, facts]})
        except UserError:
            if not ended:  # otherwise the first fault is raised
                raise


def made_with(run: LoadedRun, request: Request) -> dict[str, Any]:
    """The weights, conditions, code and pictures of a run, and what measures its metrics; a repetition has the same."""
    needs_sae = any(find(condition.method).needs_sae for condition in request.conditions)
    return {
        "parts": {name: part for name, part in run.shared["parts"].items() if needs_sae or name != "sae"},
        "conditions": run.shared["conditions"],
        "made_by": run.made_by,
        "measured_by": dict(run.measured_by),
        **({"pictures": {t.pair.id: getattr(t.pair, "picture", "") for t in run.tasks}} if request.images else {}),
    }


def _together(old: dict[str, Any], run: LoadedRun, request: Request, folder: RunFolder) -> dict[str, Any]:
    """What earlier sessions and this one share, and the settings of them all; equal arms become one."""
    now = dict(run.shared)
    by_name: dict[str, dict[str, Any]] = {}
    for arm in [*(old.get("arms") or []), *now["arms"]]:
        name = repr((arm["method"], sorted(arm["options"].items()), list(arm["blocks"])))
        known = by_name.setdefault(name, {**arm, "strengths": [], "on_steps": []})
        known["strengths"] = sorted({*known["strengths"], *arm["strengths"]})
        intervals = arm.get("on_steps", [None])  # of an earlier version: all steps
        known["on_steps"] += [interval for interval in intervals if interval not in known["on_steps"]]
    arms = list(by_name.values())
    return now | {
        "parts": {**(old.get("parts") or {}), **now["parts"]},
        "arms": arms,
        "methods": list(dict.fromkeys(arm["method"] for arm in arms)),
        "blocks": sorted({block for arm in arms for block in arm["blocks"]}),
        "strengths": sorted({strength for arm in arms for strength in arm["strengths"]}),
        "pair_file": str(request.pair_file or ("handed in" if "pairs" in request.handed_in else "the model's own")),
        "pair_hash": request.pair_hash,
        "pairs": len({record.pair_id for record in folder.records} | {task.pair.id for task in run.tasks}),
    }
