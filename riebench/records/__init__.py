"""The run folder: what is written, how it is read back. Needs no torch."""

from riebench.records.folder import RunFolder, only_writer, read_records, read_run
from riebench.records.schema import Record, Setting, record_key

__all__ = ["Record", "RunFolder", "Setting", "only_writer", "read_records", "read_run", "record_key"]
