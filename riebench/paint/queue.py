"""A queue with one worker thread: tickets wait for the model, and unneeded ones are dropped. Needs no torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

Work = Callable[["Ticket"], Any]
"""A function that returns its result, or a generator: tickets of a better rank may go first at each ``yield``, and the
last value that it yields is the result."""
MOST_WAITING = 64


class Rank(IntEnum):
    """Rank of a ticket; the smallest goes first."""

    picture = 0
    look = 1
    later = 2


class Dropped(Exception):
    """The result is not needed any more: a later request replaced it or the client left."""


class Busy(Exception):
    """Too many tickets wait already."""


@dataclass(order=True)
class Ticket:
    """A piece of work in the queue.

    Attributes:
        rank: the smallest rank goes first.
        number: of one rank, the smallest number goes first.
        key: client and kind of work; a later ticket with the same key replaces this one.
        work: the work.
        result: result of the work; cancelled if the ticket was dropped.
        dropped: whether the work shall stop.
        steps: number of denoising steps begun.
        of: number of denoising steps that the work takes at most; 0 if it is not known.
        generator: the work after its first part, if it is a generator.
        latest: the value that the generator yielded last.
    """

    rank: int
    number: int
    key: tuple[str, str] = field(compare=False)
    work: Work = field(compare=False)
    result: Future[Any] = field(compare=False, default_factory=Future)
    dropped: bool = field(compare=False, default=False)
    steps: int = field(compare=False, default=0)
    of: int = field(compare=False, default=0)
    generator: Generator[Any, None, None] | None = field(compare=False, default=None)
    latest: Any = field(compare=False, default=None)

    def at_step(self) -> None:
        """Count a denoising step.

        Raises:
            Dropped: if the ticket was dropped.
        """
        if self.dropped:
            raise Dropped
        self.steps += 1


class Queue:
    """A thread that works through tickets, the best first. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._tickets: dict[tuple[str, str], Ticket] = {}
        self._changed = threading.Condition()
        self._count, self._closed = 0, False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, client: str, kind: str, rank: Rank, work: Work, of: int = 0) -> Ticket:
        """Add a ticket, whose work takes ``of`` denoising steps at most.

        An earlier ticket of the same client and kind is dropped.

        Raises:
            Busy: if too many tickets wait.
        """
        with self._changed:
            earlier = self._tickets.get((client, kind))
            if earlier is not None:
                self._drop(earlier)
            if self._closed or len(self._tickets) >= MOST_WAITING:
                raise Busy
            self._count += 1
            ticket = Ticket(rank, self._count, (client, kind), work, of=of)
            self._tickets[ticket.key] = ticket
            self._changed.notify()
            return ticket

    def drop(self, ticket: Ticket) -> None:
        """Drop a ticket whose result is not needed any more."""
        with self._changed:
            self._drop(ticket)

    def place(self, client: str) -> dict[str, dict[str, int]]:
        """Kind of a client's ticket to the tickets before it, its denoising steps begun, and their largest number."""
        with self._changed:
            own = [ticket for (owner, _), ticket in self._tickets.items() if owner == client]
            return {
                ticket.key[1]: {
                    "before": sum(other < ticket for other in self._tickets.values()) if ticket.steps == 0 else 0,
                    "steps": ticket.steps,
                    "of": ticket.of,
                }
                for ticket in own
            }

    def close(self, seconds: float) -> bool:
        """Drop all tickets and end the thread; whether it ended within some seconds."""
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
        """Do the work of a ticket, or its next part."""
        try:
            if ticket.generator is None:
                result = ticket.work(ticket)
                if not isinstance(result, Generator):
                    self._finish(ticket, result)
                    return
                ticket.generator = result
            ticket.latest = next(ticket.generator)
        except StopIteration:
            self._finish(ticket, ticket.latest)
        except Exception as error:  # noqa: BLE001 - the worker goes on, and the client gets the error
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
