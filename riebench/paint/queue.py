"""One worker before the model: requests wait in line, and one that nobody waits for is dropped. Needs no torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

Work = Callable[["Ticket"], Any]
"""Gives a result, or is a generator: others with a better rank may go first at each ``yield``, the last value of which
is the result."""
MOST_WAITING = 64


class Rank(IntEnum):
    """Who goes first."""

    picture = 0
    look = 1
    later = 2


class Dropped(Exception):
    """Nobody waits for the result any more, because a later request took its place or the client left."""


class Busy(Exception):
    """Too many requests wait already."""


@dataclass(order=True)
class Ticket:
    """A place in the line.

    Attributes:
        rank: who goes first.
        number: of those of one rank, the smallest goes first.
        key: whose it is, and what for; a later ticket of the same key takes its place.
        work: what is done.
        result: of the work; cancelled if the ticket was dropped.
        dropped: whether it is to end.
        steps: denoising steps that were begun.
    """

    rank: int
    number: int
    key: tuple[str, str] = field(compare=False)
    work: Work = field(compare=False)
    result: Future[Any] = field(compare=False, default_factory=Future)
    dropped: bool = field(compare=False, default=False)
    steps: int = field(compare=False, default=0)
    going: Generator[Any, None, None] | None = field(compare=False, default=None)
    latest: Any = field(compare=False, default=None)

    def at_step(self) -> None:
        """Called in each denoising step.

        Raises:
            Dropped: if nobody waits any more.
        """
        if self.dropped:
            raise Dropped
        self.steps += 1


class Queue:
    """One thread that works off tickets, the best first. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._tickets: dict[tuple[str, str], Ticket] = {}
        self._changed = threading.Condition()
        self._count, self._closed = 0, False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, client: str, kind: str, rank: Rank, work: Work) -> Ticket:
        """Stand in line; an earlier ticket of the same client and kind is dropped.

        Raises:
            Busy: if too many wait.
        """
        with self._changed:
            earlier = self._tickets.get((client, kind))
            if earlier is not None:
                self._drop(earlier)
            if self._closed or len(self._tickets) >= MOST_WAITING:
                raise Busy
            self._count += 1
            ticket = Ticket(rank, self._count, (client, kind), work)
            self._tickets[ticket.key] = ticket
            self._changed.notify()
            return ticket

    def drop(self, ticket: Ticket) -> None:
        """Nobody waits for this any more."""
        with self._changed:
            self._drop(ticket)

    def place(self, client: str) -> dict[str, dict[str, int]]:
        """Kind to how many go before a client's ticket and how many denoising steps it has begun."""
        with self._changed:
            own = [ticket for (owner, _), ticket in self._tickets.items() if owner == client]
            return {
                ticket.key[1]: {
                    "before": sum(other < ticket for other in self._tickets.values()) if ticket.steps == 0 else 0,
                    "steps": ticket.steps,
                }
                for ticket in own
            }

    def close(self, seconds: float) -> bool:
        """Drop all and end; says whether the worker has ended within some seconds."""
        with self._changed:
            self._closed = True
            for ticket in list(self._tickets.values()):
                self._drop(ticket)
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _drop(self, ticket: Ticket) -> None:
        ticket.dropped = True
        ticket.result.cancel()
        if self._tickets.get(ticket.key) is ticket:
            del self._tickets[ticket.key]

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._tickets and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                ticket = min(self._tickets.values())
            self._work(ticket)

    def _work(self, ticket: Ticket) -> None:
        """Do all of a ticket's work, or the next part of it."""
        try:
            if ticket.going is None:
                found = ticket.work(ticket)
                if not isinstance(found, Generator):
                    self._finish(ticket, found)
                    return
                ticket.going = found
            ticket.latest = next(ticket.going)
        except StopIteration:
            self._finish(ticket, ticket.latest)
        except Exception as error:  # noqa: BLE001 - the worker lives on, whoever asked is told
            self._finish(ticket, error, failed=True)

    def _finish(self, ticket: Ticket, value: Any, failed: bool = False) -> None:
        with self._changed:
            if self._tickets.get(ticket.key) is ticket:
                del self._tickets[ticket.key]
            if ticket.dropped:
                return
            if failed:
                ticket.result.set_exception(value)
            else:
                ticket.result.set_result(value)
