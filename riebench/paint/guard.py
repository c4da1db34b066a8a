"""Access to the server: checks of Host, Origin and token on every request, and security headers on every answer."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
SAME_SITE = ("same-origin", "none")
"""Values of Sec-Fetch-Site of requests by the page itself or by a person."""


@dataclass(frozen=True)
class Access:
    """The conditions for access.

    Attributes:
        hosts: allowed values of Host; if empty, any value is allowed and a token is required.
        token: required token, sent in a cookie that the printed address sets; None if no token is required.
        cookie: name of the cookie.
    """

    hosts: Collection[str]
    token: str | None
    cookie: str

    @classmethod
    def of(cls, host: str, port: int) -> Access:
        """The conditions for a server at an address: this machine's own names, or a new token."""
        names = ("127.0.0.1", "localhost", "[::1]")
        if is_local(host):
            return cls([f"{name}:{port}" for name in names] + (list(names) if port == 80 else []), None, "")
        hosts = (
            []
            if ipaddress.ip_address(host).is_unspecified
            else [f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
        )
        return cls(hosts, secrets.token_urlsafe(24), f"riebench-paint-{port}")


def is_local(host: str) -> bool:
    """Whether an address is a loopback address, which other machines cannot reach."""
    return ipaddress.ip_address(host).is_loopback


class Guard:
    """Wraps an application and refuses requests without access.

    Args:
        app: the application.
        access: the conditions for access.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refusal(scope)
        await (refused or self.app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.access.hosts and host not in self.access.hosts:
            return PlainTextResponse("Host is not an address of this server", 421)
        if origin is not None and origin.partition("://")[2] != host:
            return PlainTextResponse("only the server's own page may send requests", 403)
        if scope["path"] != "/" and headers.get("sec-fetch-site", "none") not in SAME_SITE:
            return PlainTextResponse("only the server's own page may send requests", 403)
        return None if self.access.token is None else self._without_token(scope, headers, self.access.token)

    def _without_token(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        """The answer to a request without the token in its cookie; a token in the address sets the cookie."""
        token_in_address = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and _same(token_in_address, token):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self.access.cookie, token, httponly=True, samesite="strict")
            return answer
        try:
            kept = SimpleCookie(headers.get("cookie", "")).get(self.access.cookie)
        except CookieError:
            kept = None
        if kept is None or not _same(kept.value, token):
            return PlainTextResponse("open the address that the terminal shows, with its token", 401)
        return None


def _same(sent: str, token: str) -> bool:
    """Whether a token is right, in a time that does not depend on where it is wrong."""
    return secrets.compare_digest(sent.encode(), token.encode())
