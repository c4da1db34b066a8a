"""Do the features that detect a concept also cause it? AUROC and effect of the same features, for each kind of SAE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from riebench.engine.pair_work import PairWork
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.methods import Observed
from riebench.mini.reader import PairTruth
from riebench.models.sites import Edit
from riebench.pairs import Pair
from riebench.stats.resample import Bootstrap
from riebench_baselines.contrasted import Shown, contrasts_of, mean_differences, show
from riebench_baselines.sae_feature import Feature, auroc, mean_codes

COUNT, TRIALS = 16, 4
"""Contrasts from which AUROC is computed, and further ones on whose pictures features are tried."""
PUSH = 4.0
"""Length of the change, as a multiple of that of the mean difference at the site."""


def judge_features(model: str, work: Path, saes: Sequence[str], edits: int, count: int) -> None:
    """Write ``features-SAE.csv``: edit, site, feature, AUROC and effects; edits that are there stay.

    Args:
        model: name of the model.
        work: folder of the SAEs and of the files.
        saes: names of the kinds of SAE.
        edits: of each category.
        count: features of each edit.
    """
    for name in saes:
        file = work / f"features-{name}.csv"
        done = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["pair"])
        options = RunOptions(
            "sae-feature",
            "all",
            model=model,
            strength=1,
            limit=edits,
            settings={"sae.folder": str(work / "saes" / name)},
        )
        request, pairs = resolve(options)
        worker = PairWorker(request)
        for pair in pairs:
            if pair.id in set(done["pair"]):
                continue
            seen = replace(observed(worker, pair), sites=request.conditions[0].sites)
            with torch.no_grad():
                rows = _of_edit(seen, count)
            done = pd.concat([done, pd.DataFrame(rows).assign(pair=pair.id, category=pair.editing_type_id)])
            done.to_csv(file, index=False)


def observed(worker: PairWorker, pair: Pair) -> Observed:
    """What a method sees of a pair.

    Raises:
        PairError: if a phrase is not found.
    """
    work = PairWork(worker.recorder.task(pair), worker.recorder, worker.instruments, worker.kept_for_all, worker.learnt)
    work.observe()
    return work.seen


def _of_edit(seen: Observed, count: int) -> list[dict[str, float | int | str]]:
    """The chosen features of one edit: half the best detectors, the others drawn from all that are ever active."""
    pairs = contrasts_of(seen, None, COUNT + 2 * TRIALS)
    shown = show(seen, pairs)
    learnt, tried = shown[:-TRIALS], shown[-TRIALS:]
    areas: dict[Feature, tuple[float, float]] = {}
    for site in seen.sites:
        without, having = mean_codes(seen, learnt, site)
        alive = ((without > 0) | (having > 0)).any(0)
        signs, each = torch.sign(having.mean(0) - without.mean(0)), auroc(without, having)
        for number in torch.nonzero(alive).flatten().tolist():
            areas[Feature(site, number)] = (each[number].item(), signs[number].item() or 1.0)
    by_clearness = sorted(areas, key=lambda feature: -abs(areas[feature][0] - 0.5))
    rng = np.random.default_rng(seen.seed)
    rest = by_clearness[count // 2 :]
    drawn = [rest[i] for i in rng.choice(len(rest), min(len(rest), count - count // 2), replace=False)]
    features = by_clearness[: count // 2] + drawn
    rises = _effects(seen, learnt, tried, [(feature, areas[feature][1]) for feature in features])
    return [
        {"site": feature.site, "feature": feature.number, "auroc": areas[feature][0], **rise}
        for feature, rise in zip(features, rises, strict=True)
    ]


def _effects(
    seen: Observed, learnt: Sequence[Shown], tried: Sequence[Shown], features: Sequence[tuple[Feature, float]]
) -> list[dict[str, float]]:
    """For each feature the mean rise of the margin and the share of pictures that show the asked value, ``success``."""
    lengths = {site: PUSH * mean_differences(learnt, site).mean((0, 1)).norm() for site in seen.sites}
    totals = [{"rise": 0.0, "success": 0.0} for _ in features]
    for one in tried:
        edits = [Edit({})]
        for (site, number), sign in features:
            column = seen.saes[site].W_dec[number]
            change = (sign * lengths[site] * column / column.norm()).expand_as(one.without[site])
            edits.append(Edit({site: change * one.without_masks[site][:, None]}))
        prompts, seeds = [one.pair.base_prompt] * len(edits), [one.pair.seed or 0] * len(edits)
        images = [run.image for run in seen.generate(prompts, seeds, (), edits)]
        texts = (one.pair.edit_prompt, one.pair.base_prompt)
        margins = np.subtract(*(np.array(seen.similarity(images, text)) for text in texts))
        truth = PairTruth(one.pair, one.pair.seed or 0)
        for total, image, margin in zip(totals, images[1:], margins[1:], strict=True):
            total["rise"] += float(margin - margins[0]) / len(tried)
            total["success"] += float(truth(image)["edit_success"] or 0) / len(tried)
    return totals


def rank_correlations(frame: pd.DataFrame, effect: str) -> tuple[float, float, float, int]:
    """The mean over edits of Spearman's correlation of clearness (AUROC's distance from .5) and effect, its 95 %
    interval over edits, and the number of edits in which both vary."""
    each = []
    for _, rows in frame.groupby("pair"):
        clearness, effects = (rows["auroc"] - 0.5).abs(), rows[effect]
        if clearness.nunique() > 1 and effects.nunique() > 1:
            each.append(float(clearness.corr(effects, method="spearman")))
    if len(each) < 2:
        return (each[0] if each else np.nan), np.nan, np.nan, len(each)
    boot = Bootstrap([0] * len(each)).means(np.array(each)[:, None])
    return float(boot.mean[0]), float(boot.low[0]), float(boot.high[0]), len(each)
