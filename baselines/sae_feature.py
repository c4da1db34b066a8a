"""One SAE feature that carries a concept, chosen on contrasts: by what it detects, or by what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from riebench.methods import Change, Observed, method
from riebench.models.sites import Edit

from .contrasted import ConceptMethod, Shown, mean_differences

if TYPE_CHECKING:
    from torch import Tensor

Choose = Annotated[
    Literal["detection", "effect"],
    Field(description="By AUROC on the contrasts' pictures, or by the rise of the CLIP margin on a few of them."),
]
Candidates = Annotated[
    int, Field(gt=0, description="Features that are tried for their effect: the largest differences.")
]
Trials = Annotated[int, Field(gt=0, description="Contrasts on which each is tried.")]
Push = Annotated[float, Field(gt=0, description="Length of a tried change, as a multiple of the mean difference's.")]


class Feature(NamedTuple):
    """One feature of the SAE of one site."""

    site: str
    number: int


def mean_codes(seen: Observed, shown: Sequence[Shown], site: str) -> tuple[Tensor, Tensor]:
    """Mean codes over steps and the mask of each contrast, without the concept and with it, each ``[n, features]``."""
    import torch

    encode, at = seen.saes[site].encode, seen.read_site(site)
    without = [encode(one.without[at][:, one.without_masks[site]]).mean((0, 1)) for one in shown]
    having = [encode(one.having[at][:, one.having_masks[site]]).mean((0, 1)) for one in shown]
    return torch.stack(without), torch.stack(having)


def auroc(without: Tensor, having: Tensor) -> Tensor:
    """The probability ``[features]`` that a code with the concept is above one without it; ties count half."""
    higher = (having[:, None] > without[None]).float() + 0.5 * (having[:, None] == without[None]).float()
    return higher.mean((0, 1))


def differences(seen: Observed, shown: Sequence[Shown]) -> dict[str, Tensor]:
    """Site to the difference of mean codes ``[features]``, with the concept minus without it."""
    codes = {site: mean_codes(seen, shown, site) for site in seen.sites}
    return {site: having.mean(0) - without.mean(0) for site, (without, having) in codes.items()}


def best_detector(seen: Observed, shown: Sequence[Shown]) -> tuple[Feature, float]:
    """The feature that tells pictures with the concept from pictures without it best, and its AUROC.

    A feature that detects their absence counts as much. Of equal ones, the largest difference of mean codes wins.
    """
    best: tuple[tuple[float, float], Feature, float] | None = None
    for site in seen.sites:
        without, having = mean_codes(seen, shown, site)
        areas, sizes = auroc(without, having), (having.mean(0) - without.mean(0)).abs()
        clear = (areas - 0.5).abs()
        index = int(max(range(len(clear)), key=list(zip(clear.tolist(), sizes.tolist(), strict=True)).__getitem__))
        rank = (clear[index].item(), sizes[index].item())
        if best is None or rank > best[0]:
            best = rank, Feature(site, index), areas[index].item()
    assert best is not None
    return best[1:]


def effects(
    seen: Observed, shown: Sequence[Shown], features: Sequence[tuple[Feature, float]], push: float
) -> list[float]:
    """The mean rise of the CLIP margin that each feature causes in the contrasts' pictures without the concept.

    The margin is the similarity with the edit prompt minus that with the original prompt. Every feature is added at the
    mask with the same length, ``push`` times that of the mean difference of the values at its site.

    Args:
        seen: gives model, SAEs and CLIP.
        shown: the contrasts that are edited.
        features: each with its sign.
        push: see above.
    """
    lengths = {site: push * mean_differences(shown, site).mean((0, 1)).norm() for site in seen.sites}
    rises = [0.0] * len(features)
    for one in shown:
        edits = [Edit({})]
        for (site, index), sign in features:
            column = seen.saes[site].W_dec[index]
            direction = sign * lengths[site] * column / column.norm()
            values = one.without[site]
            edits.append(Edit({site: direction.expand_as(values) * one.without_masks[site][:, None]}))
        prompts, seeds = [one.pair.base_prompt] * len(edits), [one.pair.seed or 0] * len(edits)
        images = [run.image for run in seen.generate(prompts, seeds, (), edits)]
        margins = [
            edit - original
            for edit, original in zip(
                seen.similarity(images, one.pair.edit_prompt),
                seen.similarity(images, one.pair.base_prompt),
                strict=True,
            )
        ]
        rises = [rise + (margin - margins[0]) / len(shown) for rise, margin in zip(rises, margins[1:], strict=True)]
    return rises


def largest(by_site: dict[str, Tensor], count: int) -> list[tuple[Feature, float]]:
    """The features with the largest difference in size over all sites, each with the difference; the largest first."""
    import torch

    joined = torch.cat(list(by_site.values()))
    every = [Feature(site, number) for site, values in by_site.items() for number in range(len(values))]
    order = joined.abs().argsort(descending=True, stable=True)[:count]
    return [(every[number], joined[number].item()) for number in order.tolist()]


@method("sae-feature", needs_sae=True, takes_transcoders=True)
class SingleFeature(ConceptMethod):
    """Adds ONE feature, the one that detects the concept best or has the largest effect, by its mean difference.

    A feature that detects the absence of the concept is taken away.
    """

    choose: Choose = "detection"
    candidates: Candidates = 16
    trials: Trials = 4
    push: Push = 4.0
    name = "sae-feature"

    def learn(self, seen: Observed, shown: Sequence[Shown]) -> dict[str, Tensor]:
        import torch

        by_site = differences(seen, shown)
        if self.choose == "detection":
            (site, index), score = best_detector(seen, shown)
        else:
            tried = [(feature, 1.0 if size >= 0 else -1.0) for feature, size in largest(by_site, self.candidates)]
            rises = effects(seen, shown[: self.trials], tried, self.push)
            score = max(rises)
            site, index = tried[rises.index(score)][0]
        direction = by_site[site][index] * seen.saes[site].W_dec[index]
        return {
            f"direction@{site}": direction.expand(len(seen.base[site]), -1),
            "feature": torch.tensor(index),
            "score": torch.tensor(score),
        }

    def change(self, seen: Observed, site: str, learnt: Mapping[str, Tensor]) -> Change | None:
        return super().change(seen, site, learnt) if f"direction@{site}" in learnt else None

    def notes(self, seen: Observed, learnt: Mapping[str, Tensor]) -> dict[str, float | int | str]:
        (site,) = (name.removeprefix("direction@") for name in learnt if name.startswith("direction@"))
        return {**super().notes(seen, learnt), "site": site}
