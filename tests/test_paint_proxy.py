"""The painting page behind a proxy that strips a prefix, and on a forwarded port, in a real browser."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from paint_helpers import LONGEST, pixels, serving, settle, stroke

from riebench.paint import State, picture
from riebench.paint.guard import allowed_name
from riebench.paint.studio import Studio

REPLACED = 409
"""The status of a request that a later one replaced."""
HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class Proxy(ThreadingHTTPServer):
    """A proxy to another port of this machine, which takes a prefix off the path."""

    target, prefix, rewrites_host = 0, "", False


class Forward(BaseHTTPRequestHandler):
    """Passes a request on to the proxy's target."""

    server: Proxy
    protocol_version = "HTTP/1.1"

    def pass_on(self) -> None:
        proxy = self.server
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if not self.path.startswith(f"{proxy.prefix}/"):
            self.send_error(404)
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        if proxy.rewrites_host:
            headers["Host"] = f"127.0.0.1:{proxy.target}"
        connection = http.client.HTTPConnection("127.0.0.1", proxy.target, timeout=60)
        connection.request(self.command, self.path.removeprefix(proxy.prefix), body or None, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = pass_on

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def forwarding(prefix: str, rewrites_host: bool) -> Iterator[Proxy]:
    proxy = Proxy(("127.0.0.1", 0), Forward)
    proxy.prefix, proxy.rewrites_host = prefix, rewrites_host
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join(20)
        proxy.server_close()


@pytest.mark.parametrize(
    ("prefix", "rewrites_host", "allowed"),
    [("/p", True, "localhost:{port}"), ("/a/b%20c", False, "LOCALHOST:{port}"), ("", False, "localhost")],
)
def test_a_stroke_through_a_proxy(browser: Any, studio: Studio, prefix: str, rewrites_host: bool, allowed: str) -> None:
    page, wrong = browser.new_page(), []
    page.set_default_timeout(LONGEST)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("response", lambda answer: None if answer.ok or answer.status == REPLACED else wrong.append(answer.url))
    with forwarding(prefix, rewrites_host) as proxy:
        name = allowed_name(allowed.format(port=proxy.server_port))
        with serving(studio, others=[name]) as served:
            proxy.target = served.port
            try:
                page.goto(f"http://localhost:{proxy.server_port}{prefix}/")
                page.wait_for_selector("#list .row")
                settle(page)
                base = pixels(page)
                page.click("#list .row .add")
                stroke(page, (0.2, 0.3), (0.6, 0.6))
                state = State.model_validate(page.evaluate("import('./store.js').then(({ store }) => store.state)"))
                assert np.array_equal(pixels(page), picture(studio.model, state))
                assert not np.array_equal(pixels(page), base)
                page.click("#list .row .choose")
                page.wait_for_selector("#card .tops canvas >> nth=0")
                page.wait_for_selector("#scores:not(.old) .reader")
                assert page.is_hidden(".unloaded")
            finally:
                page.close()
    assert wrong == []


def test_without_the_slash_the_page_says_what_is_missing(browser: Any, studio: Studio) -> None:
    """A proxy that answers /p as /p/ leaves the browser at /p, from where the files are not found."""
    page = browser.new_page()
    with serving(studio) as served:
        page.route("**/*.*s", lambda route: route.fulfill(status=404))
        page.goto(f"{served.address}/")
        assert page.is_visible(".unloaded")
    page.close()
