"""The order of work: base and source run, masks, plans, edited runs, metrics, records."""

from riebench.engine.crew import Workers
from riebench.engine.instruments import Given, load_instruments
from riebench.engine.pairwork import PairResult, PairWorker
from riebench.engine.request import Request, requests_of
from riebench.engine.run import RunSpec, prepare
from riebench.engine.session import Session, carry_out
from riebench.engine.tasks import Task, open_tasks
from riebench.instruments import Instruments

__all__ = [
    "Given",
    "Instruments",
    "PairResult",
    "PairWorker",
    "Request",
    "RunSpec",
    "Session",
    "Task",
    "Workers",
    "carry_out",
    "load_instruments",
    "open_tasks",
    "prepare",
    "requests_of",
]
