"""A server of the painting page in this process, plain requests to it, and what a browser shows of it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from base64 import b64decode
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import uvicorn

from riebench.paint.guard import Access
from riebench.paint.listening import Connection, listen
from riebench.paint.queue import Queue
from riebench.paint.server import make_app
from riebench.paint.studio import Studio

CLIENT = "0123456789abcdef"
LONGEST = 60_000
"""Milliseconds that anything may take on a busy machine."""


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
def serving(studio: Studio, access: Access | None = None, others: Collection[str] = ()) -> Iterator[Served]:
    """The server, in a thread of its own; ``others`` are values of ``--allow-host``."""
    socket = listen("127.0.0.1", 0)
    port = socket.getsockname()[1]
    access = access or Access.of("127.0.0.1", port, others)
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


def settle(page: Any) -> None:
    """Wait until the picture is that of the state and the address too."""
    until(page, "!document.body.hasAttribute('data-busy') && document.getElementById('picture').width > 100")
    until(
        page,
        "async () => { const { store } = await import('./store.js');"
        " return document.body.dataset.linked === JSON.stringify(store.state); }",
    )
    until(page, "!document.body.hasAttribute('data-busy')")


def until(page: Any, expression: str, seconds: float = LONGEST / 1000) -> None:
    """Wait until an expression of JavaScript is true; the page's policy forbids Playwright's own way of waiting."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"it never came to {expression}"
        page.wait_for_timeout(30)


def pixels(page: Any, canvas: str = "picture") -> np.ndarray:
    """What a canvas shows ``[height, width, 3]``."""
    size, text = page.evaluate(
        "(name) => { const canvas = document.getElementById(name);"
        " const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        " return [canvas.width, btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(''))]; }",
        canvas,
    )  # as text, since Playwright checks each number of an array by itself
    return np.frombuffer(b64decode(text), np.uint8).reshape(size, size, 4)[..., :3]


def at(page: Any, x: float, y: float) -> tuple[float, float]:
    box = page.locator("#over").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def stroke(page: Any, *places: tuple[float, float]) -> None:
    page.mouse.move(*at(page, *places[0]))
    page.mouse.down()
    for place in places:
        page.mouse.move(*at(page, *place), steps=4)
    page.mouse.up()
    settle(page)
