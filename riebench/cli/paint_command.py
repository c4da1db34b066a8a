"""``riebench paint``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from riebench.cli.sae_show_command import Column, Count, Prompts
from riebench.cli.shared_options import with_settings
from riebench.util.errors import PairError, UserError

if TYPE_CHECKING:
    from riebench.paint.paint_request import PaintRequest
    from riebench.paint.state import State

log = logging.getLogger(__name__)
PORT = 8765
LOCAL = "127.0.0.1"
OWN_MODEL = "mini"
PICTURE = Path("picture.png")


@with_settings
def paint_command(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or folder of a model; may be repeated. Default: the model of the opened state, else mini."
        ),
    ] = None,
    sae: Annotated[
        list[str] | None,
        typer.Option(help="Folder of an SAE, or of SAEs; may be repeated. Default: the model's own SAEs."),
    ] = None,
    open_: Annotated[
        str | None, typer.Option("--open", metavar="STATE", help="Begin with a saved state: a JSON file or a link.")
    ] = None,
    headless: Annotated[
        str | None, typer.Option(metavar="STATE", help="Write the picture of a state to --out and open no page.")
    ] = None,
    out: Annotated[Path, typer.Option(help="PNG file of --headless.")] = PICTURE,
    host: Annotated[
        str, typer.Option(help="Address to listen at. For addresses that other machines reach, a token is printed.")
    ] = LOCAL,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = PORT,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:PORT]",
            help="Another address at which the page is opened: of a proxy, or of a forwarded port; may be repeated. "
            "Without PORT, every port.",
        ),
    ] = None,
    prompts: Prompts = None,
    count: Count = None,
    column: Column = None,
    descriptions: Annotated[
        Path | None, typer.Option(help='JSON file with descriptions of features: {"mid.0": {"240": "violet"}}.')
    ] = None,
    *,
    settings: Mapping[str, Any],
) -> None:
    """Open a page to find features of SAEs and paint them into a picture.

    Missing feature indexes are made first, once, from the prompts of --prompts, --count and --column.

    Examples:

      riebench paint

      riebench paint --open state.json

      riebench paint --headless state.json --out picture.png
    """
    from riebench.paint.paint_request import PaintRequest
    from riebench.paint.shelf import read_descriptions

    if headless is not None and open_ is not None:
        raise UserError("give either --headless or --open")
    of_page: dict[str, Any] = {"--host": host if host != LOCAL else None, "--port": port if port != PORT else None}
    of_page |= {"--allow-host": allow_host or None, "--prompts": prompts, "--count": count, "--column": column}
    for flag, value in (of_page | {"--descriptions": descriptions}).items():
        if headless is not None and value is not None:
            raise UserError(f"{flag} is of the page, and --headless opens none; leave it out")
    if headless is None and out != PICTURE:
        raise UserError("--out is the picture of --headless; leave it out, or give --headless STATE")
    location = headless if headless is not None else open_
    state = None if location is None else _state(location)
    names = model or [state.model if state else OWN_MODEL]
    if sae and len(names) > 1:
        raise UserError("--sae is for one --model; give one, or leave --sae out")
    if headless is not None:
        _check_picture(out, names)
    described = read_descriptions(descriptions) if descriptions else {}
    requests = [PaintRequest(name, sae or (), settings, prompts, count, column, described) for name in names]
    if headless is not None:
        assert state is not None
        _make_picture(requests[0], state, out)
    else:
        _serve(requests, state, host, port, allow_host or ())


def _state(location: str) -> State:
    from riebench.paint.state import KEY, read_state, state_of

    _, sign, fragment = location.partition(f"#{KEY}")
    return state_of(fragment) if sign else read_state(location)


def _check_picture(out: Path, names: list[str]) -> None:
    """Refuse a file that cannot be written, and several models, before a model is looked up."""
    if out.suffix.lower() != ".png" or not out.absolute().parent.is_dir() or out.is_dir():
        raise UserError(f"{out} cannot be written: expected a PNG file in a folder that exists, ending in .png")
    if len(names) > 1:
        raise UserError("--headless takes one --model; leave it out, the state names its own")


def _make_picture(request: PaintRequest, state: State, out: Path) -> None:
    from PIL import Image

    from riebench.paint.painting import picture, why_unchanged

    model = request.load_model()
    try:
        Image.fromarray(picture(model, state)).save(out)
    except PairError as error:
        raise UserError(f"the state has no picture: {error}") from None
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}; give another --out") from None
    for reason in why_unchanged(model, state):
        log.warning("%s", reason)
    print(out)


def _serve(requests: list[PaintRequest], state: State | None, host: str, port: int, allow_host: Sequence[str]) -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f'the page needs {error.name}; install it with pip install "riebench[paint]"') from None
    from riebench.paint.guard import allowed_name
    from riebench.paint.listening import Endpoint, listen, serve

    others = [allowed_name(name) for name in allow_host]

    if len({request.entry.name for request in requests}) < len(requests):
        raise UserError("two of --model are the same model; leave one out")
    for request in requests:
        if request.sites_without_index():
            request.prompts()
    endpoint = Endpoint.of(host, listen(host, port), others)
    try:
        studios = [request.open_studio() for request in requests]
    except BaseException:
        endpoint.listening.close()
        raise
    serve(studios, endpoint, state)
