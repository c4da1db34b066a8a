"""The run folder: what is written, how it is read back. Needs no torch."""

from riebench.records.folder import RunFolder, read_records, read_run
from riebench.records.schema import ACTS, ALL_STEPS, INSIDE, OUTSIDE, Record, Setting, interval_name, record_key

__all__ = [
    "ACTS",
    "ALL_STEPS",
    "INSIDE",
    "OUTSIDE",
    "Record",
    "RunFolder",
    "Setting",
    "interval_name",
    "read_records",
    "read_run",
    "record_key",
]
