"""Files of JSON lines: append so that a kill tears at most the last line, read without a torn last line."""

from __future__ import annotations

import gzip
import io
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Generic, NamedTuple, TypeVar, cast

from riebench.util.errors import UserError

T = TypeVar("T")
log = logging.getLogger(__name__)


class Lines(NamedTuple, Generic[T]):
    """The lines of a file.

    Attributes:
        values: a value for each whole line, in order.
        size: bytes up to the end of the last whole line. If only the final newline is missing it is counted too, so
            that this may be the size of the file + 1.
        torn: the bytes after the last whole line: a line that a killed process left half written; mostly empty.
    """

    values: list[T]
    size: int
    torn: bytes


def parse_lines(data: bytes, parse: Callable[[bytes], T], file: Path) -> Lines[T]:
    """Parse each line of a file's content; a last line that cannot be parsed is torn.

    Args:
        data: the content.
        parse: gives the value of a line; raises ValueError for a damaged one.
        file: named in the error.

    Raises:
        UserError: if a line other than the last is damaged; the message gives its number.
    """
    return _parse(io.BytesIO(data), parse, file)


def _parse(stream: IO[bytes], parse: Callable[[bytes], T], file: Path) -> Lines[T]:
    """As :func:`parse_lines`, of a stream."""
    values: list[T] = []
    size, torn = 0, b""
    for number, line in enumerate(stream, 1):
        try:
            values.append(parse(line))
        except ValueError:
            rest = stream.read()
            if rest.strip():
                raise UserError(f"{file}: line {number} is damaged; restore the file or run again") from None
            torn = line + rest
            break
        size += len(line) + (not line.endswith(b"\n"))
    return Lines(values, size, torn)


def read_lines(file: Path, parse: Callable[[bytes], T]) -> list[T]:
    """The values of all whole lines of a file, packed by gzip or not; a torn last line is left out with a warning.

    The file is read line by line: a million records would be more than a gigabyte at once.

    Raises:
        UserError: if a line other than the last is damaged, or the file cannot be read.
        FileNotFoundError: if there is no such file.
    """
    with _opened(file) as stream:
        lines = _parse(stream, parse, file)
    if lines.torn.strip():
        log.warning("the torn last line of %s is left out", file)
    return lines.values


def read_content(file: Path) -> bytes:
    """The bytes of a file, unpacked if its name ends in ``.gz``.

    Raises:
        UserError: if the file cannot be read.
        FileNotFoundError: if there is no such file.
    """
    with _opened(file) as stream:
        return stream.read()


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """A file to read, unpacked if its name ends in ``.gz``; errors as of :func:`read_content`."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            yield cast(IO[bytes], opened)
    except FileNotFoundError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read ({error}); restore the file or run again") from None


def mend_lines(
    file: Path, parse: Callable[[bytes], T], cut: Callable[[bytes, Lines[T]], int] = lambda _, lines: lines.size
) -> list[T]:
    """The values of a file that a killed process may have left torn, whose end is mended so that it can be appended to.

    A torn last line is taken off with a warning; a final newline that alone is missing is added.

    Args:
        file: made if it is missing.
        parse: see :func:`parse_lines`.
        cut: gives, from the content and its lines, how many bytes stay if the last line is torn.

    Raises:
        UserError: if a line other than the last is damaged.
        OSError: if the file cannot be read or written.
    """
    file.touch()
    data = file.read_bytes()
    lines = parse_lines(data, parse, file)
    if lines.torn:
        log.warning("the torn last line of %s is dropped", file)
        os.truncate(file, cut(data, lines))
        return parse_lines(file.read_bytes(), parse, file).values
    if lines.size > len(data):
        append_whole(file, b"\n")
    return lines.values


def append_lines(file: Path, lines: Iterable[str]) -> None:
    """Append lines of JSON as :func:`append_whole` does; each is given without its newline.

    Raises:
        OSError: if they cannot be written; the earlier content is then as before.
    """
    append_whole(file, joined_lines(lines))


def append_whole(file: Path, data: bytes) -> None:
    """Append all of some data, or nothing, and have it on the disk before returning.

    Raises:
        OSError: if it cannot be written; the earlier content is then as before.
    """
    with file.open("ab", buffering=0) as end:
        before = end.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[end.write(data) :]
            os.fsync(end.fileno())
        except BaseException:
            end.truncate(before)  # half of the data would be glued to the next line
            raise


def joined_lines(lines: Iterable[str]) -> bytes:
    """The bytes of lines, each ended by a newline."""
    return "".join(f"{line}\n" for line in lines).encode()
