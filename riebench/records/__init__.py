"""The run folder: what is written, how it is read back. Needs no torch."""

from riebench.records.folder import RunFolder, read_records, read_run
from riebench.records.lock import only_writer
from riebench.records.schema import Record, Setting, record_key

__all__ = ["Record", "RunFolder", "Setting", "only_writer", "read_records", "read_run", "record_key"]
