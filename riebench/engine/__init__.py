"""The order of work: base and source run, masks, plans, edited runs, metrics, records."""

from riebench.engine.instruments import load_instruments
from riebench.engine.pairwork import PairResult, PairWorker
from riebench.engine.run import RunSpec, prepare, run
from riebench.instruments import Instruments

__all__ = ["Instruments", "PairResult", "PairWorker", "RunSpec", "load_instruments", "prepare", "run"]
