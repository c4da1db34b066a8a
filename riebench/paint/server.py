"""The server's routes: the files of the page from memory, and the requests of the page as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from riebench.paint.guard import Access, Guard
from riebench.paint.queue import Busy, Dropped, Queue, Rank, Ticket, Work
from riebench.paint.shelf import Sort, find_in
from riebench.paint.snippet import python_code
from riebench.paint.state import MOST_BYTES, MOST_SEED, MOST_SIDE, BrushMask, Checked, Limited, State, checked
from riebench.paint.studio import STRENGTHS, Studio, png
from riebench.util.errors import PairError, UserError, unknown
from riebench.util.html import BASE_CSS, COMMON_JS

log = logging.getLogger(__name__)
PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
BODY_SECONDS = 20.0
MOST_LISTED = 200
CLIENT = re.compile(r"[0-9A-Za-z-]{8,64}")
SiteName = Field(min_length=1, max_length=200)
Share = Field(ge=0, lt=1)


class ActiveQuery(Limited):
    """The features that are most active at a place of a picture, at a site or, without one, at all sites.

    ``x`` and ``y`` are shares of the picture's sides.
    """

    state: State
    site: str = Field("", max_length=200)
    x: float = Share
    y: float = Share


class EffectQuery(Limited):
    """The effect of a single feature."""

    model: str = SiteName
    site: str = SiteName
    feature: int = Field(ge=0, le=10_000_000)
    seed: int = Field(ge=0, le=MOST_SEED)


class RegionQuery(Limited):
    """The mask of a phrase in a picture."""

    state: State
    site: str = SiteName
    phrase: str = Field(min_length=1, max_length=200)
    rows: int = Field(ge=1, le=MOST_SIDE)
    columns: int = Field(ge=1, le=MOST_SIDE)


class ListQuery(Limited):
    """The features of a site that match a text, sorted; without a site, those of all sites."""

    model: str = SiteName
    site: str = Field("", max_length=200)
    find: str = Field("", max_length=200)
    sort: Sort = "density"
    start: int = Field(0, ge=0, le=10_000_000)


class NumberQuery(Limited):
    """A feature of a site, or a picture of the site's index, by number."""

    model: str = SiteName
    site: str = SiteName
    number: int = Field(ge=0, le=10_000_000)


def make_app(studios: Sequence[Studio], queue: Queue, access: Access) -> ASGIApp:
    """The application.

    Args:
        studios: the models to paint with; the page begins with the first.
        queue: the queue of their work.
        access: the conditions for access.
    """
    answers = _Routes({studio.model.entry.name: studio for studio in studios}, queue)
    routes = [
        *(Route(path, _file(data, kind), methods=["GET"]) for path, (data, kind) in page_files().items()),
        Route("/api/models", answers.models, methods=["GET"]),
        Route("/api/features", answers.features, methods=["GET"]),
        Route("/api/feature", answers.feature, methods=["GET"]),
        Route("/api/top", answers.top, methods=["GET"]),
        Route("/api/progress", answers.progress, methods=["GET"]),
        *(
            Route(f"/api/{name}", getattr(answers, name), methods=["POST"])
            for name in ("picture", "scores", "active", "effect", "region", "python")
        ),
    ]
    handlers: Mapping[Any, Callable[[Request, Any], Response]] = {
        UserError: lambda request, error: _error(str(error).partition("\n")[0], 422),
        PairError: lambda request, error: _error(str(error), 422),
        Dropped: lambda request, error: _error("a later request replaced this one", 409),
        Busy: lambda request, error: _error("too many requests wait already; try again", 503),
        HTTPException: lambda request, error: _error(str(error.detail), error.status_code),
        Exception: lambda request, error: _error("the server failed at this request; its terminal shows why", 500),
        ClientDisconnect: lambda request, error: _error("the client left", 499),
    }
    return Guard(_LoggedFaults(Starlette(routes=routes, exception_handlers=handlers)), access)


def page_files() -> dict[str, tuple[bytes, str]]:
    """Address to content and type of each file of the page, read once, so that no address ever becomes a path."""
    files = {f"/{path.name}": path for path in sorted(PAGE.iterdir()) if path.suffix in KINDS}
    files |= {"/base.css": BASE_CSS, "/common.js": COMMON_JS, "/": files.pop("/index.html")}
    return {address: (path.read_bytes(), KINDS[path.suffix]) for address, path in files.items()}


def _file(data: bytes, kind: str) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        return Response(data, media_type=kind)

    return answer


def _error(text: str, status: int) -> JSONResponse:
    return JSONResponse({"error": text}, status)


class _LoggedFaults:
    """Wraps an application and logs exceptions that are faults of the program, after the client got its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception:
            log.exception("a request failed")


class _Routes:
    """The answers of the server."""

    def __init__(self, studios: Mapping[str, Studio], queue: Queue) -> None:
        self.studios, self.queue = studios, queue

    async def models(self, request: Request) -> Response:
        return JSONResponse([studio.facts() for studio in self.studios.values()])

    async def features(self, request: Request) -> Response:
        query = _query(ListQuery, request)
        studio = self._studio(query.model)
        shelves = [studio.shelf(query.site)] if query.site else list(studio.shelves.values())
        matches = await asyncio.to_thread(find_in, shelves, query.find, query.sort)
        rows = [shelf.row(feature) for shelf, feature in matches[query.start : query.start + MOST_LISTED]]
        total = sum(len(shelf.index) for shelf in shelves)
        return JSONResponse({"total": total, "matches": len(matches), "rows": rows})

    async def feature(self, request: Request) -> Response:
        query = _query(NumberQuery, request)
        card = await asyncio.to_thread(self._studio(query.model).shelf(query.site).card, query.number)
        return JSONResponse(card)

    async def top(self, request: Request) -> Response:
        query = _query(NumberQuery, request)
        data = self._studio(query.model).shelf(query.site).top_picture(query.number)
        return Response(data, media_type="image/webp", headers={"cache-control": "private, max-age=3600"})

    async def progress(self, request: Request) -> Response:
        return JSONResponse(self.queue.place(_client(request)))

    async def picture(self, request: Request) -> Response:
        state = await _body(State, request)
        studio = self._studio(state.model)
        kind = "edited" if any(layer.acts for layer in state.layers) else "base"

        def work(ticket: Ticket) -> bytes:
            with studio.watched(ticket.at_step):
                return png(studio.run(state).image)

        return Response(await self._worked(request, kind, Rank.picture, work, state.steps), media_type="image/png")

    async def scores(self, request: Request) -> Response:
        state = await _body(State, request)
        studio = self._studio(state.model)
        work = _in_parts(studio, lambda: studio.scores(state))
        return JSONResponse(await self._worked(request, "scores", Rank.later, work, 2 * state.steps))

    async def active(self, request: Request) -> Response:
        query = await _body(ActiveQuery, request)
        studio = self._studio(query.state.model)

        def work(ticket: Ticket) -> dict[str, Any]:
            with studio.watched(ticket.at_step):
                return studio.active_here(query.state, query.site, query.x, query.y)

        return JSONResponse(await self._worked(request, "active", Rank.look, work, query.state.steps))

    async def effect(self, request: Request) -> Response:
        query = await _body(EffectQuery, request)
        studio = self._studio(query.model)
        work = _in_parts(studio, lambda: studio.effect(query.site, query.feature, query.seed))
        steps = len(STRENGTHS) * studio.model.entry.steps
        return Response(await self._worked(request, "effect", Rank.later, work, steps), media_type="image/png")

    async def region(self, request: Request) -> Response:
        query = await _body(RegionQuery, request)
        studio = self._studio(query.state.model)

        def work(ticket: Ticket) -> BrushMask:
            with studio.watched(ticket.at_step):
                return studio.region(query.state, query.site, query.phrase, (query.rows, query.columns))

        mask: BrushMask = await self._worked(request, "region", Rank.look, work, query.state.steps)
        return JSONResponse(mask.model_dump())

    async def python(self, request: Request) -> Response:
        state = await _body(State, request)
        return Response(python_code(state, self._studio(state.model).origin), media_type="text/plain; charset=utf-8")

    def _studio(self, model: str) -> Studio:
        if model not in self.studios:
            raise unknown("model of this server", model, self.studios)
        return self.studios[model]

    async def _worked(self, request: Request, kind: str, rank: Rank, work: Work, of: int) -> Any:
        """The result of work in the queue, of at most so many steps; the work is dropped when the client leaves.

        Raises:
            Dropped: if a later request replaced the work.
        """
        ticket = self.queue.submit(_client(request), kind, rank, work, of)
        result = asyncio.wrap_future(ticket.result)
        left = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait([result, left], return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                raise ClientDisconnect
            return result.result()
        except asyncio.CancelledError:
            raise Dropped from None
        finally:
            left.cancel()
            self.queue.drop(ticket)


def _in_parts(studio: Studio, parts: Callable[[], Any]) -> Work:
    """Work that other tickets may interrupt between its parts; its denoising steps are counted."""

    def work(ticket: Ticket) -> Any:
        remaining = parts()
        while True:
            with studio.watched(ticket.at_step):
                try:
                    part = next(remaining)
                except StopIteration:
                    return
            yield part

    return work


async def _left(request: Request) -> None:
    """Wait until the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _client(request: Request) -> str:
    name = request.headers.get("x-client", "")
    if not CLIENT.fullmatch(name):
        raise HTTPException(400, "the header X-Client must name the page, with 8 to 64 letters and digits")
    return name


def _query(kind: type[Checked], request: Request) -> Checked:
    return checked(kind, json.dumps(dict(request.query_params)), "question", strict=False)


async def _body(kind: type[Checked], request: Request) -> Checked:
    """Parse the body of a request.

    Raises:
        HTTPException: if its type is not JSON, or it is too long or too slow.
        UserError: if it is not of this class.
    """
    _client(request)
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "expected a body of type application/json")
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                data += part
                if len(data) > MOST_BYTES:
                    raise HTTPException(413, f"the body is larger than {MOST_BYTES} bytes")
    except TimeoutError:
        raise HTTPException(408, "the body took too long") from None
    return checked(kind, bytes(data))
