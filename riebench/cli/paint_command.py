"""``riebench paint``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from riebench.cli.sae_show_command import Column, Count, Prompts
from riebench.cli.shared_options import with_settings
from riebench.util.errors import PairError, UserError

if TYPE_CHECKING:
    from riebench.paint.opening import Opening
    from riebench.paint.state import State

PORT = 8765
LOCAL = "127.0.0.1"
OWN_MODEL = "mini"


@with_settings
def paint_command(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or folder of a model; may be given again. Default: as the opened state says, else mini."
        ),
    ] = None,
    sae: Annotated[
        list[str] | None,
        typer.Option(help="Folder of an SAE, or of SAEs; may be given again. Default: the model's own SAEs."),
    ] = None,
    open_: Annotated[
        str | None, typer.Option("--open", metavar="STATE", help="Begin with a saved state: a JSON file, or a link.")
    ] = None,
    headless: Annotated[
        str | None, typer.Option(metavar="STATE", help="Make the picture of a state in --out, and no page.")
    ] = None,
    out: Annotated[Path, typer.Option(help="PNG file of --headless.")] = Path("picture.png"),
    host: Annotated[
        str, typer.Option(help="Address to listen at. For any but this machine's own, a token is printed.")
    ] = LOCAL,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = PORT,
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

    A feature index that is missing is made first, once; --prompts, --count and --column say of which prompts.

    Examples:

      riebench paint

      riebench paint --open state.json

      riebench paint --headless state.json --out picture.png
    """
    from riebench.paint.opening import Opening
    from riebench.paint.shelf import read_descriptions

    if headless is not None and open_ is not None:
        raise UserError("give either --headless or --open")
    given = headless if headless is not None else open_
    state = None if given is None else _state(given)
    names = model or [state.model if state else OWN_MODEL]
    if sae and len(names) > 1:
        raise UserError("--sae is for one --model; give one, or leave --sae out")
    described = read_descriptions(descriptions) if descriptions else {}
    asked = [Opening(name, sae or (), settings, prompts, count, column, described) for name in names]
    if headless is not None:
        assert state is not None
        _make_picture(asked, state, out)
    else:
        _serve(asked, state, host, port)


def _state(given: str) -> State:
    from riebench.paint.link import KEY, state_of
    from riebench.paint.state import read_state

    _, sign, fragment = given.partition(f"#{KEY}")
    return state_of(fragment) if sign else read_state(given)


def _make_picture(asked: list[Opening], state: State, out: Path) -> None:
    from riebench.paint.opening import Prepared

    if out.suffix.lower() != ".png" or not out.absolute().parent.is_dir() or out.is_dir():
        raise UserError(f"{out} cannot be written: expected a PNG file in a folder that exists, ending in .png")
    if len(asked) > 1:
        raise UserError("--headless takes one --model; leave it out, the state names its own")
    prepared = Prepared(asked[0])
    from PIL import Image

    from riebench.paint.painting import picture

    try:
        Image.fromarray(picture(prepared.load(), state)).save(out)
    except PairError as error:
        raise UserError(f"the state has no picture: {error}") from None
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}; give another --out") from None
    print(out)


def _serve(asked: list[Opening], state: State | None, host: str, port: int) -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f'the page needs {error.name}; install it with pip install "riebench[paint]"') from None
    from riebench.paint.opening import Prepared
    from riebench.paint.serving import Place, listen, serve

    prepared = [Prepared(one) for one in asked]
    if len({one.entry.name for one in prepared}) < len(prepared):
        raise UserError("two of --model are the same model; leave one out")
    for one in prepared:
        if one.missing():
            one.prompts()
    place = Place.of(host, listen(host, port))
    try:
        studios = [one.open() for one in prepared]
    except BaseException:
        place.listening.close()
        raise
    serve(studios, place, state)
