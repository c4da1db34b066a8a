"""``riebench sae score``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from riebench.cli.sae_show_command import Column, Prompts
from riebench.cli.shared_options import Batch, Model, with_settings
from riebench.features.score_settings import BASELINES, NO_BASELINE
from riebench.util.errors import UserError

JudgedSaes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SAE]...",
        help="Folders of SAEs (or of several), sites of the model that have one, or package.module:function that gives "
        "an object with encode and decode. Default: the model's own.",
    ),
]


@with_settings
def sae_score_command(
    saes: JudgedSaes = None,
    out: Annotated[Path, typer.Option(help="Folder of the scores: a JSON for each, scores.md, scores.csv.")] = Path(
        "scores"
    ),
    model: Model = "mini",
    site: Annotated[str | None, typer.Option(help="Site of the SAEs. Default: as their folders say.")] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help=f"Baseline beside them, may be repeated: {', '.join(BASELINES)}, or none. Default: all."),
    ] = None,
    prompts: Prompts = None,
    count: Annotated[
        int | None, typer.Option(min=4, help="Prompts. Default: all of a file, 400 from the grammar.")
    ] = None,
    column: Column = None,
    descriptions: Annotated[
        Path | None, typer.Option(help="JSON with descriptions of features: site to feature to text.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 1,
    features: Annotated[int, typer.Option(min=1, help="Live features that are switched on and off.")] = 16,
    best: Annotated[int, typer.Option(min=0, help="Best detectors that are switched beside them.")] = 4,
    pictures: Annotated[int, typer.Option(min=1, help="Pictures on which each is switched.")] = 3,
    downstream: Annotated[int, typer.Option(min=1, help="Pictures generated with the reconstruction.")] = 16,
    area_strength: Annotated[
        float, typer.Option(help="Norm of a feature that is switched on in an area, in norms of the values there.")
    ] = 3.0,
    neutral: Annotated[str, typer.Option(help="Prompt from which features are switched on everywhere.")] = "",
    fit: Annotated[int, typer.Option(min=1, help="Pictures that the frozen decoder's encoder is trained on.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    *,
    settings: Mapping[str, Any],
    batch: Batch = 16,
) -> None:
    """Judge SAEs beside baselines: reconstruction, interpretability, causality, locality, sensitivity.

    Example: riebench sae score up.0.0 --out scores
    """
    from riebench.features.score_request import score

    chosen = baseline or list(BASELINES)
    if NO_BASELINE in chosen and len(chosen) > 1:
        raise UserError("--baseline none stands alone; leave out the others")
    scores = score(
        saes or (),
        out,
        model=model,
        site=site,
        baselines=[] if chosen == [NO_BASELINE] else chosen,
        prompts=prompts,
        count=count,
        column=column,
        descriptions=descriptions,
        batch=batch,
        settings=settings,
        steps=steps,
        features=features,
        best=best,
        pictures=pictures,
        downstream=downstream,
        area_strength=area_strength,
        neutral=neutral,
        fit=fit,
        seed=seed,
    )
    from riebench.features.score_tables import print_scores
    from riebench.report.summary import wide_console

    print_scores(scores, wide_console())
    print(f"scores  {out / 'scores.md'}, {out / 'scores.csv'}, {len(scores)} JSON files")
