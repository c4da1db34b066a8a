"""The benchmark from Python: all that ``riebench run`` does, with loaded parts of one's own where wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riebench.catalog import entry_named
from riebench.engine import Given, RunSpec, Session, Workers, carry_out
from riebench.util.errors import UserError
from riebench.masks.sources import GivenMasks
from riebench.metrics import Scorers
from riebench.pairs import Pair, category_named, load_pairs, select
from riebench.spec.presets import preset_named
from riebench.records import Record, read_records
from riebench.sae import TopKSAE
from riebench.spec.settings import parse_settings
from riebench.spec.sweeps import Sweep


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        session: folder, counts and time.
        records: one for each pair and setting.
    """

    session: Session
    records: list[Record]


def run(
    method: str | Sequence[str] | None = None,
    block: str | Sequence[str] = "all",
    *,
    model: str = "mini",
    pairs: str | Path | Sequence[Pair] | None = None,
    strength: float | Sequence[float] = (0.25, 0.5, 1, 1.5, 2),
    k: int | Sequence[int] = (),
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    protocol: str | None = None,
    alone: bool = False,
    steps: int | None = None,
    seed: int | None = None,
    category: Sequence[str | int] = (),
    ids: Sequence[str] = (),
    limit: int | None = None,
    settings: Mapping[str, Any] | None = None,
    pipeline: Any = None,
    saes: Mapping[str, TopKSAE] | None = None,
    masks: GivenMasks | None = None,
    scorers: Scorers | None = None,
    out: str | Path | None = None,
    keep_images: int = 3,
    batch: int = 8,
    replay: bool = True,
    force: bool = False,
    retry_failed: bool = False,
    max_failures: int | None = None,
    workers: int = 1,
    ray_address: str | None = None,
    quiet: bool = False,
) -> RunResult:
    """Run methods over pairs; what ``out`` holds already is not done again.

    Args:
        method: name or names; not with a preset.
        block: block or blocks, intervened in together; ``all`` for the four.
        model: name; says what belongs to a pipeline that is handed in, too.
        pairs: a file, or pairs; the model's own unless given.
        strength: factors on the whole intervention.
        k: numbers of features or neurons moved in each direction.
        options: further options of the methods.
        preset: ``paper`` or ``paper-small``.
        protocol: ``riebench`` unless given, or unless the preset says otherwise.
        alone: whether to run each of the blocks alone, too.
        steps: denoising steps.
        seed: of all runs; each pair's own, or 42, unless given.
        category: categories by number or name.
        ids: pairs by id.
        limit: pairs of each category at most.
        settings: of the instruments, by name as in ``riebench settings``.
        pipeline: a loaded ``StableDiffusionXLPipeline``.
        saes: block name to SAE.
        masks: pair id to (source mask, base mask), or a function of pair, base image and source image that gives
            the two; a mask is boolean ``[height, width]``, or ``[n, height, width]`` for n instances.
        scorers: a loaded CLIP and LPIPS.
        out: the run folder; a new one under ``runs`` unless given.
        keep_images: pairs of each category whose pictures are kept.
        batch: rows in one forward pass at most; halved when memory runs out.
        replay: whether edited runs are spared what the base run has computed already; it changes records by
            rounding at most.
        force: whether to discard what is in the folder.
        retry_failed: whether to repeat what failed.
        max_failures: end after as many pairs with a failure, of those run now.
        workers: processes that work pairs off, by Ray if more than one; loaded parts cannot be handed to them.
        ray_address: of a Ray cluster to use; ``auto`` for the one around.
        quiet: whether to show no progress.

    Raises:
        UserError: if it cannot be run, before anything is computed; or if the folder cannot be written any more.
        KeyboardInterrupt: at Ctrl-C (or SIGTERM) after the pair in flight, which is in the folder then.
    """
    chosen = preset_named(preset) if preset else None
    if (chosen is None) == (method is None):
        raise UserError("give a method or a preset, and not both")
    file = None
    if pairs is None or isinstance(pairs, (str, Path)):
        file = Path(pairs) if pairs is not None else entry_named(model).pairs
        if file is None:
            raise UserError(f"{model} has no pairs of its own; give a file or a list of pairs")
        pairs = load_pairs(file)
    most = limit if limit is not None else chosen.limit if chosen else None
    names = [category_named(str(c)) for c in category]
    own = Sweep(_many(method or ()), _many(strength), _many(k), dict(options or {}))
    spec = RunSpec(
        sweeps=chosen.sweeps if chosen else [own],
        blocks=_many(block),
        alone=alone,
        steps=chosen.steps if chosen and steps is None else steps,
        model=model,
        protocol=protocol or (chosen.protocol if chosen else "riebench"),
        seed=seed,
        batch=batch,
        replay=replay,
        settings=parse_settings([f"{name}={value}" for name, value in (settings or {}).items()]),
    )
    session = carry_out(
        spec,
        select(pairs, names, ids, most),
        Path(out) if out is not None else None,
        keep_images,
        force,
        file,
        Given(pipeline, saes, masks, scorers),
        quiet,
        retry_failed,
        max_failures,
        Workers(workers, ray_address),
    )
    if session.signal is not None:
        raise KeyboardInterrupt
    return RunResult(session, read_records(session.folder))


def _many(value: Any) -> list[Any]:
    """A list of one, or of all."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
