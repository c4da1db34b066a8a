"""Listen at an address, print it, serve until Ctrl-C, and end at once."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Collection, Sequence
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from riebench.paint.guard import Access
from riebench.paint.queue import Queue
from riebench.paint.state import State, fragment_of
from riebench.util.errors import UserError

if TYPE_CHECKING:
    from riebench.paint.studio import Studio

MOST_CONNECTIONS = 128
HEAD_SECONDS = 10.0
"""Longest time for the head of a request."""


class Endpoint(NamedTuple):
    """The socket of the server, and the conditions for access to it."""

    listening: socket.socket
    access: Access

    @classmethod
    def of(cls, host: str, listening: socket.socket, others: Collection[str] = ()) -> Endpoint:
        """The endpoint of a socket that listens at an address; ``others`` as in :class:`Access`."""
        return cls(listening, Access.of(host, listening.getsockname()[1], others))

    def address(self, state: State | None) -> str:
        """The address for a browser, with the token and the state."""
        host, port = self.listening.getsockname()[:2]
        token = f"?token={self.access.token}" if self.access.token else ""
        fragment = f"#{fragment_of(state)}" if state else ""
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/{token}{fragment}"


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens.

    Raises:
        UserError: if the address does not belong to this machine, or the port is taken or not allowed.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.inet_pton(family, host)
    except OSError:
        raise UserError(f"--host is {host!r}; expected a numeric address, such as 127.0.0.1 or 0.0.0.0") from None
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(MOST_CONNECTIONS)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"the port {port} at {host} is taken; give another with --port, or 0 for a free one"
            ) from None
        raise UserError(
            f"cannot listen at {host}, port {port}: {error.strerror}; give another --host or --port"
        ) from None
    return listening


def serve(studios: Sequence[Studio], endpoint: Endpoint, state: State | None) -> NoReturn:
    """Serve until Ctrl-C or SIGTERM; then end the process at once, even inside a generation."""
    from riebench.paint.server import make_app

    config = uvicorn.Config(
        make_app(studios, Queue(), endpoint.access),
        http=Connection,
        log_level="critical",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=0,
        limit_concurrency=MOST_CONNECTIONS,
    )
    server = _Server(config)
    print(f"riebench: open {endpoint.address(state)}  (Ctrl-C ends)", flush=True)
    server.run(sockets=[endpoint.listening])
    # No teardown: a thread inside a long computation would keep the process alive, and freeing a model takes a second.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + server.ended_by)


class Connection(H11Protocol):
    """A connection that is closed when the head of a request takes too long, so no client can occupy all of them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of a new connection."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._look, None)

    def _look(self, before: RequestResponseCycle | None) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is before and (before is None or before.response_complete):
            self.transport.close()
        else:
            self.loop.call_later(HEAD_SECONDS, self._look, self.cycle)


class _Server(uvicorn.Server):
    """A server that ends at the first signal, even inside a request."""

    ended_by = int(signal.SIGINT)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Keep the signal and end."""
        self.ended_by = sig
        self.should_exit = self.force_exit = True
