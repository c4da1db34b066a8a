"""``riebench sae index`` and ``riebench sae show``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from riebench.cli.shared_options import Batch, with_settings
from riebench.util.errors import UserError
from riebench.util.work_folder import refuse_other_kinds

if TYPE_CHECKING:
    from riebench.features.feature_index import FeatureIndex, IndexedFeature
    from riebench.settings.settings import Settings

LISTED = 20
IndexedSae = Annotated[
    str, typer.Argument(metavar="SAE", help="Folder of an SAE, or a site of the model that has one, as mid.0.")
]
SiteName = Annotated[str | None, typer.Option(help="Site of the SAE. Default: as its folder says.")]
Prompts = Annotated[
    str | None, typer.Option(help="Text file (a prompt a line), CSV or Parquet file, or grammar (the default on mini).")
]
Count = Annotated[int | None, typer.Option(min=1, help="Prompts. Default: all of a file, 1000 from the grammar.")]
Column = Annotated[str | None, typer.Option(help="Column of a table that holds the prompts.")]


@with_settings
def sae_index_command(
    sae: IndexedSae,
    out: Annotated[Path, typer.Option(help="Folder of the index. 'sae show' finds SAE-index beside an SAE folder.")],
    model: Annotated[
        str | None, typer.Option(help="Model that makes the pictures. Default: as the SAE's folder says, else mini.")
    ] = None,
    site: SiteName = None,
    prompts: Prompts = None,
    count: Count = None,
    column: Column = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 1,
    *,
    settings: Mapping[str, Any],
    batch: Batch = 8,
) -> None:
    """Generate pictures and record how often, where and in which of them each feature of an SAE is active.

    Example: riebench sae index mid.0 --model mini --out mid.0-index
    """
    from riebench.features.located_saes import IndexRequest, carry_out_index

    name, parsed = _named(model, settings)
    index = carry_out_index(IndexRequest(sae, name, parsed, site, prompts, count, column, steps, batch), out)
    pictures = len(index.facts.prompted)
    print(f"{out}: {len(index)} features, {pictures} of {index.facts.pictures_made} pictures stored")


def _named(model: str | None, settings: Mapping[str, Any]) -> tuple[str | None, Settings]:
    """The name of the model, if any, and the settings; a folder of a pipeline becomes a setting."""
    from riebench.models.entries import named_model
    from riebench.settings.settings import parse_settings

    parsed = parse_settings(settings)
    return (None, parsed) if model is None else named_model(model, parsed)


class SortBy(StrEnum):
    """The orders of the table of features."""

    score = "score"
    density = "density"
    mean = "mean"
    maximum = "maximum"
    number = "number"


def _feature_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"FEATURE is {text!r}; expected a number, or --find {text!r} for words") from None


@with_settings
def sae_show_command(
    sae: Annotated[
        str, typer.Argument(metavar="SAE", help="Folder of an SAE or of a feature index, or a site of the model.")
    ],
    feature: Annotated[
        int | None, typer.Argument(metavar="FEATURE", help="Number of a feature. Default: all.", parser=_feature_number)
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="Folder of the index. Default: SAE-index beside the SAE, or the user's cache.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the page and the drawing.")] = Path("features"),
    find: Annotated[str, typer.Option(help="List only features with this number, label or words in prompts.")] = "",
    sort: Annotated[SortBy | None, typer.Option(help="Default: score where there is one, else density.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Features listed and drawn.")] = LISTED,
    model: Annotated[
        str | None,
        typer.Option(help="Model that makes the pictures, if there is no index. Default: as the folder says."),
    ] = None,
    site: SiteName = None,
    prompts: Prompts = None,
    count: Count = None,
    column: Column = None,
    *,
    settings: Mapping[str, Any],
    batch: Batch = 8,
) -> None:
    """Show the features of an SAE, or one: facts, a drawing, and an HTML page of all features.

    Examples:

      riebench sae show mid.0

      riebench sae show mid.0 240

      riebench sae show my-sae-index --find "at night" --out night
    """
    from riebench.features.feature_index import sort_features
    from riebench.features.located_saes import IndexRequest, find_or_make_index

    refuse_other_kinds(out, "")
    of_all = {"--find": find or None, "--sort": sort, "--limit": None if limit == LISTED else limit}
    for flag, value in of_all.items():
        if feature is not None and value is not None:
            raise UserError(f"{flag} is of a list of features; leave it out, or leave out the number of one")
    request = IndexRequest(sae, *_named(model, settings), site, prompts, count, column, batch=batch)
    feature_index = find_or_make_index(request, index, feature)
    # Later than errors, since drawing is slow to import.
    from riebench.features.feature_page import write_feature_page
    from riebench.features.feature_sheet import draw_feature, draw_features, write_png

    name = Path(feature_index.facts.name).name  # an index may come from strangers
    if feature is None:
        by = sort or (SortBy.score if feature_index.facts.score_name else SortBy.density)
        listed = sort_features(feature_index.search(find), by)
        _print_table(feature_index, listed, limit)
        drawing, file = draw_features(feature_index, listed[:limit], f"features of {name}"), out / f"{name}.png"
    else:
        _print_feature(feature_index, feature)
        drawing, file = draw_feature(feature_index, feature), out / f"{name}-{feature}.png"
    page = out / f"{name}.html"
    write_feature_page(feature_index, page)
    write_png(drawing, file)
    print(f"drawing   {file}\npage      {page}{'' if feature is None else f'#feature={feature}'}")


def _print_table(index: FeatureIndex, features: list[IndexedFeature], limit: int) -> None:
    from rich.table import Table

    from riebench.report.summary import wide_console
    from riebench.report.texttable import number

    score = index.facts.score_name
    labelled = ["detects", score] if score else []
    table = Table("feature", *labelled, "density", "mean code", "max. code", "nearest (cosine)")
    for f in features[:limit]:
        near = ", ".join(f"{n.number} ({n.cosine:.2f})" for n in f.nearest[:3])
        label = [f.label or "–", number(f.score, 2)] if score else []
        table.add_row(str(f.number), *label, f"{f.density:.3%}", number(f.mean, 2), number(f.maximum, 2), near)
    wide_console().print(table, markup=False)
    silent = sum(f.density == 0 for f in index)
    rest = f"{len(features)} of {len(index)} features found" if len(features) < len(index) else f"{len(index)} features"
    print(f"{rest}, {min(limit, len(features))} listed (--limit); {silent} of all are active nowhere")


def _print_feature(index: FeatureIndex, number: int) -> None:
    from riebench.features.feature_sheet import feature_line

    feature = index.feature(number)
    print(feature_line(feature, index.facts.score_name))
    for near in feature.nearest:
        print(f"nearest   {near.number} (cosine {near.cosine:.2f}) {index.feature(near.number).label or ''}".rstrip())
    for picture in index.pictures(number):
        print(f"{picture.highest:9.2f} {picture.prompt}, seed {picture.seed}")
