"""Judge dictionaries: one pass over held-out pictures for all of them, then one dictionary after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from riebench.features.held_out_pictures import Picture, SharedPictures
from riebench.features.picture_pass import Activity, Observations, generate_and_encode, joined
from riebench.features.scores.causality import pixel_change, share_kept
from riebench.features.scores.estimate import Array, Estimate, mean_estimate, rank_correlation
from riebench.features.scores.interpretability import (
    AREAS,
    Detection,
    Flags,
    Indices,
    active_share,
    captions_naming,
    detect,
    specificity,
    top_pictures,
)
from riebench.features.scores.reconstruction import explained_share, normalised_error
from riebench.features.subjects import Subject
from riebench.features.switching import Chosen, Descriptions, Trials, reconstructed, switched_summary, zeroed
from riebench.util.progress import Track

Estimates = dict[str, Estimate]


@dataclass(frozen=True)
class Scores:
    """The scores of a subject.

    Attributes:
        summary: score to its estimate.
        steps: score by step, in runs of several steps.
        coverage: attribute value to the F1 of its best single feature.
        features: facts of the features, in columns.
        switched: results of the features that were switched on and off.
    """

    summary: Estimates
    steps: dict[str, list[Estimate]]
    coverage: dict[str, float]
    features: dict[str, list[Any]]
    switched: list[dict[str, Any]]


@dataclass(frozen=True)
class Responses:
    """The activity of a subject's features in the shared pictures ``[pictures, n]``, parts side by side."""

    highest: Array
    share: Array
    mean: Array
    inside: Array | None

    @property
    def live(self) -> Flags:
        """Features that were active anywhere ``[n]``."""
        return np.asarray((self.highest > 0).any(0))

    def level(self, feature: int, pictures: Indices) -> float:
        """Mean code of a feature over the positions of some pictures at which it is active."""
        return float((self.mean[pictures, feature] / self.share[pictures, feature]).mean())


class Judge:
    """Scores subjects on shared pictures.

    Args:
        pictures: the held-out pictures that all subjects are judged on.
        subjects: all that are to be judged.
        track: shows how far the pass over the pictures is.

    Raises:
        UserError: if a value or a code is not finite.
    """

    def __init__(self, pictures: SharedPictures, subjects: Sequence[Subject], track: Track = iter) -> None:
        self.pictures, self.settings = pictures, pictures.settings
        parts = {name: part for subject in subjects for name, part in subject.named_parts().items()}
        self.observed = Observations(parts, None if pictures.world is None else pictures.cells)
        images, activity = generate_and_encode(
            pictures.model, parts, pictures.prompted, self.settings.steps, track, self.observed
        )
        pictures.images = images
        self.activity: Mapping[str, Activity] = activity

    def score(self, subject: Subject, descriptions: Descriptions | None = None) -> Scores:
        """All scores of one subject.

        Args:
            subject: one of those that the judge was made for.
            descriptions: of its features; they take the place of the top pictures.
        """
        pictures, descriptions = self.pictures, descriptions or {}
        seen = self._seen(subject)
        summary, steps = self._reconstruction(subject, seen)
        if subject.reconstructs:
            summary |= self._downstream(subject)
        tops = top_pictures(seen.highest, self.settings.seed)
        specific = specificity(pictures.embeddings, tops)
        columns: dict[str, Any] = {
            "live": seen.live,
            "top_activation": seen.highest.max(0),
            "active_pictures": (seen.highest > 0).mean(0),
            "specificity": specific,
        }
        summary["specificity"] = mean_estimate(specific[seen.live])
        detected = self._detection(seen)
        coverage: dict[str, float] = {}
        if detected is not None:
            coverage = self._add_detection(detected, seen, columns, summary, specific)
        self._add_sensitivity(detected, descriptions, seen, columns, summary)
        levels = {int(i): seen.level(int(i), tops[i]) for i in np.flatnonzero(seen.live)}
        norms = {site: self.observed.norm(site) for site in subject.parts}
        trials = Trials(pictures, subject, self._chosen(seen, detected, specific, descriptions), levels, norms)
        switched = trials.run(tops, descriptions)
        return Scores(summary | switched_summary(switched), steps, coverage, columns, switched)

    def _seen(self, subject: Subject) -> Responses:
        names = list(subject.named_parts())
        parts = [self.activity[name] for name in names]
        inside = [part for part in map(self.observed.inside, names) if part is not None]
        highest, share, mean = (
            joined([getattr(part, name).numpy() for part in parts]) for name in ("highest", "share", "mean")
        )
        return Responses(highest, share, mean, joined(inside) if inside else None)

    def _reconstruction(self, subject: Subject, seen: Responses) -> tuple[Estimates, dict[str, list[Estimate]]]:
        """Explained variance and the like; L0 is a mean over pictures, the share of dead features one over features."""
        summary = {
            "l0": mean_estimate(seen.share.sum(1) / len(subject.parts)),
            "dead": mean_estimate((~seen.live).astype(float)),
        }
        steps: dict[str, list[Estimate]] = {}
        name, *others = subject.named_parts()
        overlaps = None if others else self.observed.overlaps(name)
        if overlaps is not None:
            for kind, values in zip(("code_cosine", "code_iou"), overlaps, strict=True):
                summary[kind] = mean_estimate(values.mean(1))
                steps[kind] = [mean_estimate(column) for column in values.T]
        if not subject.reconstructs:
            return summary, steps
        sums = self.observed.sums(name)
        summary |= {"explained_variance": explained_share(sums), "nmse": normalised_error(sums)}
        if self.settings.steps > 1:
            by_step = [sums.at_step(step) for step in range(self.settings.steps)]
            steps["explained_variance"] = [explained_share(part) for part in by_step]
        return summary, steps

    def _downstream(self, subject: Subject) -> Estimates:
        """Generation with the reconstruction in place of the values, and with 0 in their place."""
        pictures, names = self.pictures, ("lpips", "pixel_mean", "pixel_median", "clip_change", "kept")
        numbers = sorted(pictures.order[: self.settings.downstream])
        ((site, dictionary),) = subject.parts.items()
        if site not in pictures.zeroed_at:
            pictures.zeroed_at[site] = pictures.edited(numbers, [{site: zeroed}] * len(numbers))
        summary: Estimates = {}
        edited = pictures.edited(numbers, [{site: reconstructed(dictionary)}] * len(numbers))
        for kind, images in (("", edited), ("zeroed_", pictures.zeroed_at[site])):
            columns = self._against_untouched(numbers, images)
            summary |= {f"{kind}{name}": mean_estimate(column) for name, column in zip(names, columns, strict=True)}
        return summary

    def _against_untouched(self, numbers: Sequence[int], images: Sequence[Picture]) -> list[Array]:
        """Distances of edited pictures to the untouched ones: the columns of :meth:`_downstream`."""
        pictures = self.pictures
        lpips, clip = pictures.scorers.lpips, pictures.scorers.clip
        features = zip(numbers, lpips.features(images), strict=True)
        distance = lpips.totals([lpips.layers(pictures.lpips_features(i), f) for i, f in features])
        change = np.array([pixel_change(pictures.images[i], e) for i, e in zip(numbers, images, strict=True)])
        change = change.reshape(len(numbers), -1)
        moved = clip.images(images).double().numpy() - pictures.embeddings[list(numbers)]
        prompts = [pictures.prompted[i].prompt for i in numbers]
        texts = clip.texts(prompts).double().numpy()
        texts[[bool(clip.cut(prompt)) for prompt in prompts]] = np.nan  # CLIP does not read their end
        kept = np.full(len(numbers), np.nan)
        if pictures.world is not None:
            rows = zip(numbers, images, strict=True)
            kept = np.array([share_kept(pictures.reading(i), pictures.read(image, i)) for i, image in rows])
        return [np.array(distance), change.mean(1), np.median(change, axis=1), (moved * texts).sum(1), kept]

    def _detection(self, seen: Responses) -> Detection | None:
        truths = self.pictures.truths
        if truths is None:
            return None
        kinds = [seen.highest, *([] if seen.inside is None else [seen.inside])]
        return detect(kinds, truths, self.pictures.threshold_half)

    def _add_detection(
        self, detected: Detection, seen: Responses, columns: dict[str, Any], summary: Estimates, specific: Array
    ) -> dict[str, float]:
        """Adds each feature as a detector of its best value; gives the coverage of each value."""
        truths, live = self.pictures.truths, seen.live
        assert truths is not None
        values = ["=".join(value) for value in truths.values]
        columns |= {
            "value": [values[i] if alive else None for i, alive in zip(detected.value, live, strict=True)],
            "where": [("picture", "object")[i] for i in detected.where],
            "threshold": detected.threshold,
            "f1": detected.f1,
            "f1_gain": detected.gain,
            "auroc": detected.area,
        }
        f1 = detected.f1[live]
        summary |= {
            "f1": mean_estimate(f1),
            "f1_gain": mean_estimate(detected.gain[live]),
            "auroc": mean_estimate(detected.area[live]),
            "f1_over_90": mean_estimate(np.where(np.isfinite(f1), f1 >= 0.9, np.nan)),
            "coverage": mean_estimate(detected.coverage),
            "agreement": rank_correlation(specific[live], detected.gain[live]),
        }
        return dict(zip(values, detected.coverage.tolist(), strict=True))

    def _add_sensitivity(
        self,
        detected: Detection | None,
        descriptions: Descriptions,
        seen: Responses,
        columns: dict[str, Any],
        summary: Estimates,
    ) -> None:
        """By the captions that name the best value; where no truth is known, by those that hold the description."""
        pictures, truths = self.pictures, self.pictures.truths
        share = seen.share
        if detected is not None and truths is not None:
            report = ~pictures.threshold_half
            named, known = truths.labels[report][:, detected.value], truths.known[report][:, detected.value]
            share = share[report]
        else:
            named, known = (np.zeros(share.shape, bool) for _ in range(2))
            if descriptions:
                numbers = list(descriptions)
                captions = [prompt for prompt, _ in pictures.prompted]
                named[:, numbers] = captions_naming(captions, list(descriptions.values()))
                known[:, numbers] = True
        for area in AREAS:
            inside, outside = active_share(share, named, known, area)
            for name, values in (("sensitivity", inside), ("elsewhere", outside)):
                columns[f"{name}_{round(100 * area)}"] = values
                summary[f"{name}_{round(100 * area)}"] = mean_estimate(values[seen.live])

    def _chosen(
        self, seen: Responses, detected: Detection | None, specific: Array, descriptions: Descriptions
    ) -> list[Chosen]:
        """Live features drawn by the seed, and those that detect their value best (most specific, without a truth).

        Where features are described, only those are taken.
        """
        settings, truths = self.settings, self.pictures.truths
        live = np.array([i for i in np.flatnonzero(seen.live) if not descriptions or i in descriptions], int)
        drawn = np.random.default_rng(settings.seed).permutation(live)[: settings.features]
        rank = np.nan_to_num(specific, nan=-np.inf) if detected is None else detected.chosen_gain
        best = live[np.argsort(-rank[live], kind="stable")][: settings.best]
        values: list[tuple[str, str] | None] = [None] * len(seen.live)
        if detected is not None and truths is not None:
            values = [truths.values[i] for i in detected.value]
        numbers = [int(i) for i in np.union1d(drawn, best)]
        return [Chosen(i, i in drawn, i in best, values[i]) for i in numbers]
