"""Access to the server: checks of Host, Origin and token on every request, and security headers on every answer."""

from __future__ import annotations

import ipaddress
import logging
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from riebench.util.errors import UserError

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
LONGEST_NAME = 100
MOST_NAMES_LOGGED = 20
NAME = re.compile(r"(?P<name>[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """The conditions for access.

    Attributes:
        hosts: allowed values of Host, in lower case; if empty, any value is allowed and a token is required.
        token: required token, sent in a cookie that the printed address sets; None if no token is required.
        cookie: name of the cookie.
        others: further values of Host and of the host in Origin, of a proxy or a forwarded port; one without a port
            allows every port.
    """

    hosts: Collection[str]
    token: str | None
    cookie: str
    others: Collection[str] = ()

    @classmethod
    def of(cls, host: str, port: int, others: Collection[str] = ()) -> Access:
        """The conditions for a server at an address: this machine's own names, or a new token."""
        own = f"[{host}]" if ":" in host else host
        if is_local(host):
            names = dict.fromkeys(["127.0.0.1", "localhost", "[::1]", own])
            return cls([*(f"{name}:{port}" for name in names), *(names if port == 80 else ())], None, "", others)
        hosts = [] if ipaddress.ip_address(host).is_unspecified else [f"{own}:{port}"]
        return cls(hosts, secrets.token_urlsafe(24), f"riebench-paint-{port}", others)

    def allows_host(self, host: str) -> bool:
        """Whether a request may have this value of Host."""
        return not self.hosts or host.lower() in self.hosts or self._is_other(host)

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether a request with this value of Host may come from a page of this origin."""
        scheme, _, address = origin.lower().partition("://")
        return address == host.lower() or (scheme in {"http", "https"} and self._is_other(address))

    def _is_other(self, host: str) -> bool:
        parts = NAME.fullmatch(host.lower())
        return parts is not None and (parts["name"] in self.others or host.lower() in self.others)


def allowed_name(text: str) -> str:
    """A value of ``--allow-host`` as :class:`Access` compares it.

    Raises:
        UserError: if it is not the name or numeric address of a host, with or without a port.
    """
    text = text.lower()
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"  # an IPv6 address without a port
    parts = NAME.fullmatch(text)
    if parts is None or int(parts["port"] or 1) not in range(1, 65536):
        raise UserError(f"--allow-host is {text!r}; expected NAME or NAME:PORT, such as lab.example or localhost:9000")
    return text


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
        self._logged: set[str] = set()

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
        if not self.access.allows_host(host):
            return self._unknown("Host", host, host, 421)
        if origin is not None and not self.access.allows_origin(origin, host):
            name = origin.partition("://")[2] if origin.startswith(("http://", "https://")) else ""
            return self._unknown("Origin", origin, name, 403)
        if scope["path"] != "/" and headers.get("sec-fetch-site", "none") not in SAME_SITE:
            return PlainTextResponse("only the server's own page may send requests", 403)
        return None if self.access.token is None else self._without_token(scope, headers, self.access.token)

    def _unknown(self, header: str, value: str, name: str, status: int) -> Response:
        """The answer to a request from another address; it names the option that allows the address."""
        said = f"{header} {value[:LONGEST_NAME]!a} is not an address of this server"
        if len(name) <= LONGEST_NAME and NAME.fullmatch(name):
            said += f"; if you use a proxy or a forwarded port there, start it with --allow-host {name.lower()}"
        if said not in self._logged and len(self._logged) < MOST_NAMES_LOGGED:
            self._logged.add(said)
            log.warning("refused a request: %s", said)
        return PlainTextResponse(said, status)

    def _without_token(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        """The answer to a request without the token in its cookie; a token in the address sets the cookie."""
        token_in_address = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and _same(token_in_address, token):
            answer = RedirectResponse("./", 303)  # relative, for a proxy that strips a prefix
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
