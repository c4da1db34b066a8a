"""The run folder: what is written, how it is read back. Needs no torch."""

from riebench.records.folder import RunFolder, read_records
from riebench.records.schema import Record, Setting, record_key

__all__ = ["Record", "RunFolder", "Setting", "read_records", "record_key"]
