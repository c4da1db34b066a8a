"""A server of the painting page in this process, and plain requests to it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn

from riebench.paint.guard import Access
from riebench.paint.listening import Connection, listen
from riebench.paint.queue import Queue
from riebench.paint.server import make_app
from riebench.paint.studio import Studio

CLIENT = "0123456789abcdef"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> str:
        error: str = json.loads(self.body)["error"]
        return error

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served(NamedTuple):
    port: int
    queue: Queue
    access: Access

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, path: str, body: Any = None, *, method: str | None = None, client: str = CLIENT, **headers: str
    ) -> Answer:
        """One request; a body that is no bytes goes as JSON. Headers have _ for -, and an empty one is left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"X-Client": client, **({} if body is None else {"Content-Type": "application/json"})}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(
                method or ("GET" if body is None else "POST"), path, data, {k: v for k, v in sent.items() if v}
            )
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()


@contextmanager
def serving(studio: Studio, access: Access | None = None) -> Iterator[Served]:
    """The server, in a thread of its own."""
    socket = listen("127.0.0.1", 0)
    port = socket.getsockname()[1]
    access = access or Access.of("127.0.0.1", port)
    queue = Queue()
    config = uvicorn.Config(
        make_app([studio], queue, access),
        http=Connection,
        log_level="critical",
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=0,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Served(port, queue, access)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)
        assert queue.close(20)
