"""Score the edited pictures of a pair: each network gets each picture once; metrics are functions of the result."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Sequence, Set
from typing import TYPE_CHECKING, TypeVar

from riebench.metrics.catalogue import CLIP, LPIPS, OF_SOURCE, REGIONS, Metric, metrics_of
from riebench.metrics.seen import Reference, Scorers, Scores, Seen
from riebench.util.errors import PairError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from riebench.metrics.clip import ClipScorer
    from riebench.metrics.seen import Image

A = TypeVar("A", bound="np.generic")

log = logging.getLogger(__name__)


def score_images(
    scorers: Scorers, reference: Reference, images: Sequence[Image], names: Collection[str] | None = None
) -> list[Scores]:
    """The metrics of each edited picture, and as ``NAME_base`` those of the base picture that cost nothing.

    The ``clip_text_edit`` of the source picture, the most that an edit can be expected to reach, is
    ``clip_text_edit_source``. Equal pictures are measured once.

    Args:
        scorers: the networks.
        reference: the pictures, prompts and region of the pair.
        images: edited pictures, uint8 ``[height, width, 3]``.
        names: of the metrics; all but the optional ones unless given. Metrics of the drawn world are left out where
            the truth is not known.

    Raises:
        PairError: if a metric raises, or returns anything but one number (or None) for each picture.
    """
    pictures, of = _distinct([read_only(image) for image in images])
    reference = reference._replace(
        base=read_only(reference.base), source=read_only(reference.source), region=read_only(reference.region)
    )
    metrics = metrics_of(names, with_truth=reference.truth is not None)
    seen, base = look_at(scorers, reference, pictures, {need for m in metrics for need in m.needs})
    of_edited = [(metric.name, metric, seen) for metric in metrics]
    of_base = [(f"{metric.name}_base", metric, base) for metric in metrics if metric.of_base]
    source = base._replace(pictures=[reference.source], clip=seen.clip_source[None])
    of_source = [(OF_SOURCE, metric, source) for metric in metrics if f"{metric.name}_source" == OF_SOURCE]
    columns = _measured([*of_edited, *of_base, *of_source])
    for column, _, _ in (*of_base, *of_source):
        columns[column] *= len(pictures)
    return [{column: values[i] for column, values in columns.items()} for i in of]


def _measured(measurements: Iterable[tuple[str, Metric, Seen]]) -> dict[str, list[float | None]]:
    """Column to the metric's number of each picture that it is given; what is not finite is None."""
    from riebench.util.tensor_bits import Untouched

    columns: dict[str, list[float | None]] = {}
    for column, metric, seen in measurements:
        shared = None if metric.from_riebench else Untouched(seen)
        try:
            numbers = [None if number is None else float(number) for number in metric.measure(seen)]
        except (Exception, SystemExit) as error:
            raise PairError(f"the metric {metric.name!r} raised {type(error).__name__}: {error}", "metrics") from error
        if len(numbers) != len(seen.pictures):
            wrong = f"gave {len(numbers)} numbers for {len(seen.pictures)} pictures; expected one for each"
            raise PairError(f"the metric {metric.name!r} {wrong}", "metrics")
        if shared is not None and shared.changed():
            changes = "changes pictures, embeddings or numbers that all metrics share; let it change a copy"
            raise PairError(f"the metric {metric.name!r} {changes}", "metrics")
        columns[column] = [number if number is not None and math.isfinite(number) else None for number in numbers]
        lost = [number for number in numbers if number is not None and not math.isfinite(number)]
        if lost and not metric.from_riebench:
            what = "the metric %r gave %s for %d of %d pictures: null in their records (None says so without a warning)"
            log.warning(what, column, lost[0], len(lost), len(numbers))
    return columns


def read_only(array: NDArray[A]) -> NDArray[A]:
    """The same array, which cannot be written to: a metric that changed it would spoil all that come after."""
    view = array.view()
    view.setflags(write=False)
    return view


def look_at(
    scorers: Scorers,
    reference: Reference,
    pictures: Sequence[Image],
    needs: Set[str] = frozenset((CLIP, LPIPS, REGIONS)),
) -> tuple[Seen, Seen]:
    """Embed and compare distinct pictures: CLIP gets each once, whole and by region, and LPIPS gets each once.

    Args:
        scorers: the networks.
        reference: the pictures, prompts and region of the pair.
        pictures: distinct ones, uint8 ``[height, width, 3]``.
        needs: see :attr:`riebench.metrics.Metric.needs`; the rest of the result is empty.

    Returns:
        The pictures, and the base picture in their place as far as it costs nothing more.
    """
    import numpy as np

    base, source, _, _, region, truth = reference
    keeps = np.repeat(region[..., None], base.shape[2], 2)  # of the shape of a picture, which multiplies fastest
    inside, outside = (
        [picture * part.view(np.uint8) for picture in pictures] if part.any() and {CLIP, REGIONS} <= needs else []
        for part in (keeps, ~keeps)
    )
    # An edited picture may be the base or the source image, and a masked one may be whole.
    whole, of_whole = _distinct([*pictures, base, source])
    every, of = _distinct([*whole, *inside, *outside])
    *of_pictures, of_base, of_source = of_whole
    of_inside, of_outside = of[len(whole) :][: len(inside)], of[len(whole) + len(inside) :]
    embedded, texts = _embedded(scorers.clip, every, reference) if CLIP in needs else _nothing_embedded(len(every))
    to_base: Sequence[Sequence[Tensor]] = []
    to_source = to_base
    by_region: tuple[Sequence[float | None], Sequence[float | None]] = ([], [])
    if LPIPS in needs:
        features, layers = scorers.lpips.features(whole), scorers.lpips.layers
        to_base = [layers(features[i], features[of_base]) for i in of_pictures]
        to_source = [layers(features[i], features[of_source]) for i in [*of_pictures, of_base]]
        if REGIONS in needs:
            by_region = scorers.lpips.means_by_region(to_base, region)
    *lpips_source, of_base_to_source = scorers.lpips.totals(to_source) or [0.0]
    seen = Seen(
        pictures=pictures,
        reference=reference,
        clip=embedded[of_pictures],
        clip_base=embedded[of_base],
        clip_source=embedded[of_source],
        clip_edit=texts[0],
        clip_original=texts[1],
        clip_inside=embedded[of_inside] if inside else None,
        clip_outside=embedded[of_outside] if outside else None,
        lpips_base=scorers.lpips.totals(to_base),
        lpips_source=lpips_source,
        lpips_inside=by_region[0],
        lpips_outside=by_region[1],
        verdicts=[truth(picture) for picture in pictures] if truth else None,
        more=scorers.more,
    )
    return seen, _base_in_place(seen, of_base_to_source)


def _base_in_place(seen: Seen, lpips_source: float) -> Seen:
    """The base picture in the place of the pictures; without what would have to be computed."""
    return seen._replace(
        pictures=[seen.reference.base],
        clip=seen.clip_base[None],
        clip_inside=None,
        clip_outside=None,
        lpips_base=[0.0],
        lpips_source=[lpips_source],
        lpips_inside=[],
        lpips_outside=[],
        verdicts=None,
    )


def _embedded(clip: ClipScorer, pictures: Sequence[Image], reference: Reference) -> tuple[Tensor, list[Tensor]]:
    """Embeddings ``[n, d]`` of pictures, and ``[d]`` of the edit prompt and of the original one; NaN if it is cut."""
    texts = [whole_text(clip, prompt) for prompt in (reference.edit_prompt, reference.original_prompt)]
    return clip.images(pictures).double(), texts


def whole_text(clip: ClipScorer, prompt: str) -> Tensor:
    """The embedding ``[d]`` of a prompt in float64 on the CPU; NaN if CLIP does not read its end."""
    return clip.text(prompt).double() * (math.nan if clip.cut(prompt) else 1)


def doubts_of_texts(clip: ClipScorer, reference: Reference) -> dict[str, str]:
    """What is to be known of a pair's prompts as CLIP reads them: notes for its records, mostly none.

    A prompt of which CLIP does not read the end has no similarity: the metrics that use its embedding are null.
    """
    prompts = {"edit prompt": reference.edit_prompt, "original prompt": reference.original_prompt}
    doubts = {name: f"null, since it has {cut}" for name, prompt in prompts.items() if (cut := clip.cut(prompt))}
    edit, original = clip.tokenizer(list(prompts.values()))
    if edit.equal(original):
        doubts["prompts"] = "CLIP reads both alike"
    return doubts


def _nothing_embedded(count: int) -> tuple[Tensor, list[Tensor]]:
    """The same with no columns, where no metric needs CLIP."""
    import torch

    return torch.empty(count, 0), [torch.empty(0)] * 2


def _distinct(images: Sequence[Image]) -> tuple[list[Image], list[int]]:
    """Distinct pictures in the order of their first appearance, and the index of each image among them."""
    places: dict[bytes, int] = {}
    of = [places.setdefault(image.tobytes(), len(places)) for image in images]
    return [images[of.index(i)] for i in range(len(places))], of
