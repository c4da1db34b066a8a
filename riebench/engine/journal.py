"""``run.json``: what the records of a folder share, and every session that wrote to it."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from riebench.engine.request import Request
from riebench.engine.run_options import RunOptions
from riebench.engine.tasks import Survey
from riebench.records import RunFolder
from riebench.records.code import code_version
from riebench.util.errors import UserError

if TYPE_CHECKING:
    from riebench.engine.session import Session


@contextmanager
def writing_journal(
    folder: RunFolder, survey: Survey, request: Request, options: RunOptions, session: Session
) -> Iterator[None]:
    """Write ``run.json`` when a session begins and when it ends, however it ends.

    At the top of the file stand the settings and pairs of all sessions together, what they share, and (as ``command``,
    ``code``, ``device``, ``started``, ``finished``) the last session; ``seconds`` is the sum of all. In ``sessions``
    each has its command, options, request, code, host and times; one that was killed has no ``finished``.
    """
    old = folder.run() if folder.records else {}
    earlier = [one for one in old.get("sessions") or [] if isinstance(one, dict)]
    shared = _together(old, survey, request, folder)
    clock = time.perf_counter()
    about: dict[str, Any] = {
        "command": sys.argv,
        "options": options.as_json(),
        "request": request.model_dump(mode="json"),
        "seeds": {task.pair.id: task.seed for task in survey.tasks},
        "code": code_version(),
        "device": survey.device,
        "locations": dict(survey.locations),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "records_before": len(folder.records),
        "started": datetime.now().isoformat(timespec="seconds"),
    }
    last = ("command", "code", "device", "started")
    folder.write_run(shared | {name: about[name] for name in last} | {"sessions": [*earlier, about]})
    ended = ""
    try:
        yield
    except BaseException as error:
        ended = f"{type(error).__name__}: {error}".strip(": ")
        if isinstance(error, KeyboardInterrupt):
            logging.getLogger(__name__).warning("stopped at once; the current pair is lost, the same command goes on")
        raise
    finally:
        about |= {
            "ended": ended or session.ended,
            "written": session.written,
            "failed": session.failed,
            "finished": datetime.now().isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 1),
        }
        seconds = round(sum(one.get("seconds", 0.0) for one in [*earlier, about]), 1)
        top = {name: about[name] for name in (*last, "finished")} | {"seconds": seconds}
        try:
            folder.write_run(shared | top | {"sessions": [*earlier, about]})
        except UserError:
            if not ended:  # the first fault is the one to tell
                raise


def _together(old: dict[str, Any], survey: Survey, request: Request, folder: RunFolder) -> dict[str, Any]:
    """What the sessions before and this one share, and all that was tried in them; equal arms are made one."""
    now = dict(survey.shared)
    found: dict[str, dict[str, Any]] = {}
    for arm in [*(old.get("arms") or []), *now["arms"]]:
        name = repr((arm["method"], sorted(arm["options"].items()), list(arm["blocks"])))
        known = found.setdefault(name, {**arm, "strengths": [], "on_steps": []})
        known["strengths"] = sorted({*known["strengths"], *arm["strengths"]})
        intervals = arm.get("on_steps", [None])  # of an earlier version: all steps
        known["on_steps"] += [interval for interval in intervals if interval not in known["on_steps"]]
    arms = list(found.values())
    return now | {
        "parts": {**(old.get("parts") or {}), **now["parts"]},
        "arms": arms,
        "methods": list(dict.fromkeys(arm["method"] for arm in arms)),
        "blocks": sorted({block for arm in arms for block in arm["blocks"]}),
        "strengths": sorted({strength for arm in arms for strength in arm["strengths"]}),
        "pair_file": str(request.pair_file or ("handed in" if "pairs" in request.handed_in else "the model's own")),
        "pair_hash": request.pair_hash,
        "pairs": len({record.pair_id for record in folder.records} | {task.pair.id for task in survey.tasks}),
    }
