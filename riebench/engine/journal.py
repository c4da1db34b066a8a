"""``run.json``: what the records of a folder share, and every session that wrote to it."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeGuard

from riebench.engine.resume import Survey
from riebench.records import Record, RunFolder
from riebench.records.code import code_version
from riebench.spec.request import Request

if TYPE_CHECKING:
    from riebench.engine.run import Session


class Journal:
    """Keeps ``run.json`` of a folder for one session.

    At the top of the file stand the settings and pairs of all sessions together, what they share, and (as ``command``,
    ``code``, ``device``, ``started``, ``finished``) the last session; ``seconds`` is the sum of all. In ``sessions``
    each has its command, request, code, host and times; one that was killed has no ``finished``.

    Args:
        folder: that is written to.
        survey: the run as its worker knows it.
        request: what was asked for.
        before: the records that the folder holds already.
    """

    def __init__(self, folder: RunFolder, survey: Survey, request: Request, before: Sequence[Record]) -> None:
        old = folder.run() if before else {}
        self._folder = folder
        self._clock = time.perf_counter()
        sessions = old.get("sessions")
        self._sessions: list[dict[str, Any]] = sessions if _is_list_of_mappings(sessions) else []
        self._session: dict[str, Any] = {
            "command": sys.argv,
            "request": request.model_dump(mode="json"),
            "seeds": dict(survey.seeds),
            "code": code_version(),
            "device": survey.device,
            "locations": dict(survey.locations),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "records_before": len(before),
            "started": _now(),
        }
        now = dict(survey.shared)
        arms = _together([*(old.get("arms") or []), *now["arms"]])
        self._shared = now | {
            "parts": {**(old.get("parts") or {}), **now["parts"]},
            "arms": arms,
            "methods": list(dict.fromkeys(arm["method"] for arm in arms)),
            "blocks": sorted({block for arm in arms for block in arm["blocks"]}),
            "strengths": sorted({strength for arm in arms for strength in arm["strengths"]}),
            "pair_file": str(request.pair_file or "the model's own"),
            "pair_hash": request.pair_hash,
            "pairs": len({record.pair_id for record in before} | set(survey.wanted)),
        }
        self._write()

    def close(self, ended: str, session: Session) -> None:
        """Keep how the session ended, and how many records it wrote and how many of them are failures."""
        self._session |= {
            "ended": ended,
            "written": session.written,
            "failed": session.failed,
            "finished": _now(),
            "seconds": round(time.perf_counter() - self._clock, 1),
        }
        self._write()

    def _write(self) -> None:
        sessions = [*self._sessions, self._session]
        last = {name: self._session[name] for name in ("command", "code", "device", "started")}
        if "finished" in self._session:
            last["finished"] = self._session["finished"]
            last["seconds"] = round(sum(session.get("seconds", 0.0) for session in sessions), 1)
        self._folder.write_run(self._shared | last | {"sessions": sessions})


def _together(arms: Collection[dict[str, Any]]) -> list[dict[str, Any]]:
    """Arms with equal ones made one, which has the strengths of all."""
    found: dict[str, dict[str, Any]] = {}
    for arm in arms:
        name = repr((arm["method"], sorted(arm["options"].items()), list(arm["blocks"])))
        known = found.setdefault(name, {**arm, "strengths": []})
        known["strengths"] = sorted({*known["strengths"], *arm["strengths"]})
    return list(found.values())


def _now() -> str:
    return datetime.now().isoformat(timespec="seconds")


def _is_list_of_mappings(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)
