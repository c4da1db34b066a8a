"""Who may talk to the server: checks of Host, Origin and token on every request, and headers on every answer."""

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
"""Values of Sec-Fetch-Site that come from the page itself or from a person."""


@dataclass(frozen=True)
class Access:
    """Who is let in.

    Attributes:
        hosts: what Host may be; any where it is empty, for which there must be a token.
        token: must come along, in a cookie that the printed address sets; None if there is none.
        cookie: name of the cookie.
    """

    hosts: Collection[str]
    token: str | None
    cookie: str

    @classmethod
    def of(cls, host: str, port: int) -> Access:
        """The access to a server at an address: this machine's own names, or a new token."""
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
    """Whether an address is this machine's own, which nobody else can reach."""
    return ipaddress.ip_address(host).is_loopback


class Guard:
    """Around an application: refuses what is not for it.

    Args:
        app: the application.
        access: who is let in.
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
            return PlainTextResponse("this server is not called so", 421)
        if origin is not None and origin.partition("://")[2] != host:
            return PlainTextResponse("only the server's own page may ask", 403)
        if scope["path"] != "/" and headers.get("sec-fetch-site", "none") not in SAME_SITE:
            return PlainTextResponse("only the server's own page may ask", 403)
        return None if self.access.token is None else self._without_token(scope, headers, self.access.token)

    def _without_token(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        """An answer to who has no token yet; who brings it in the address gets it as a cookie."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and _same(given, token):
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


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())
