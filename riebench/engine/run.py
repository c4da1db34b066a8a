"""A whole run: pairs outside, settings inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from riebench.engine.instruments import load_instruments
from riebench.engine.pairwork import Arm, PairResult, PairWorker
from riebench.errors import UserError, unknown
from riebench.instruments import Instruments
from riebench.lens import FOUR
from riebench.methods import create, find
from riebench.methods.registry import option_fields
from riebench.models import entry_named
from riebench.pairs import Pair


@dataclass(frozen=True)
class RunSpec:
    """What to run.

    Attributes:
        methods: names.
        blocks: short names, intervened in together; ``all`` stands for the four of RIEBench.
        alone: whether each of these blocks is also run alone.
        k: numbers of features (or neurons), for methods that have the option.
        strengths: factors on the whole intervention.
        options: further options, given to every method that has them.
        steps: denoising steps; None for the model's own.
        model: name of the model.
        seed: of all runs; None for each pair's own.
        batch: rows in one forward pass at most.
    """

    methods: Sequence[str]
    blocks: Sequence[str]
    alone: bool = False
    k: Sequence[int] = ()
    strengths: Sequence[float] = (1.0,)
    options: Mapping[str, str] = field(default_factory=dict)
    steps: int | None = None
    model: str = "mini"
    seed: int | None = None
    batch: int = 8


def block_sets(blocks: Sequence[str], known: Sequence[str], alone: bool) -> list[tuple[str, ...]]:
    """The sets of blocks to run, each in the order in which blocks run.

    Raises:
        UserError: if a block is unknown.
    """
    wanted = [b for name in blocks for b in (FOUR if name == "all" else [name])]
    for name in wanted:
        if name not in known:
            raise unknown("block", name, [*known, "all"])
    together = tuple(sorted(set(wanted), key=list(known).index))
    sets = [together]
    if alone and len(together) > 1:
        sets += [(b,) for b in together]
    return sets


def make_arms(spec: RunSpec, sets: Sequence[tuple[str, ...]]) -> list[Arm]:
    """Every method with its options on every set of blocks.

    Raises:
        UserError: for an unknown method, or an option that none of the methods has.
    """
    fields = {name: option_fields(find(name)) for name in spec.methods}
    for option in [*spec.options, *(["k"] if spec.k else [])]:
        if not any(option in known for known in fields.values()):
            every = sorted({name for known in fields.values() for name in known})
            raise unknown(f"option of {', '.join(map(repr, fields))}", option, every or ["none"])
    arms = []
    for name, known in fields.items():
        canonical = str(find(name).method_name)
        shared = {o: value for o, value in spec.options.items() if o in known}
        for k in spec.k if spec.k and "k" in known else [None]:
            given = shared if k is None else {**shared, "k": k}
            made = create(name, given)
            kept = {field: getattr(made, field) for field in known}
            arms += [Arm(canonical, kept, made, blocks) for blocks in sets]
            _check_options(canonical, kept)
    return arms


def _check_options(name: str, kept: Mapping[str, Any]) -> None:
    for option, value in kept.items():
        if not (value is None or isinstance(value, (bool, int, float, str))):
            said = f"is {type(value).__name__}, which a record cannot keep; options are numbers, text or booleans"
            raise UserError(f"option {option!r} of method {name!r} {said}")


def check_arms(instruments: Instruments, arms: Sequence[Arm]) -> None:
    """See that every arm has the SAEs it needs, and candidates enough for its k.

    Raises:
        UserError: naming the method and what is there.
    """
    for arm in arms:
        if arm.needs_sae:
            candidates = sum(instruments.sae(block).n_features for block in arm.blocks)
        elif arm.needs_neurons:
            blocks = [instruments.denoiser.lens.blocks[block] for block in arm.blocks]
            candidates = sum(block.layers * block.neurons for block in blocks)
        else:
            continue
        k = arm.options.get("k")
        if isinstance(k, int) and k > candidates:
            where = "+".join(arm.blocks)
            raise UserError(
                f"k is {k}, but {arm.name!r} in {where} has {candidates} to choose from; give a smaller --k"
            )


def prepare(spec: RunSpec) -> tuple[Instruments, PairWorker]:
    """Check a specification and load what it needs.

    Raises:
        UserError: if it cannot be run; nothing has been computed by then.
    """
    entry = entry_named(spec.model)
    for name in spec.methods:
        find(name)
    steps = entry.steps if spec.steps is None else spec.steps
    if steps < 1:
        raise UserError(f"--steps is {steps}; expected 1 or more")
    instruments = load_instruments(entry, spec.batch)
    sets = block_sets(spec.blocks, list(instruments.denoiser.lens.blocks), spec.alone)
    arms = make_arms(spec, sets)
    check_arms(instruments, arms)
    return instruments, PairWorker(instruments, arms, spec.strengths, steps, spec.seed)


def run(
    worker: PairWorker, pairs: Sequence[Pair], keep_images: Callable[[Pair], bool] = lambda pair: False
) -> Iterator[tuple[Pair, PairResult]]:
    """Work pairs off in order; yields each with its records."""
    for pair in pairs:
        yield pair, worker.work(pair, keep_images(pair))


def settings_count(worker: PairWorker) -> int:
    """How many records a pair will have."""
    return len(worker.arms) * len(worker.strengths)


def check_truth(instruments: Instruments, worker: PairWorker, pairs: Sequence[Pair]) -> None:
    """Refuse pairs that the model's world cannot judge, before anything is computed.

    Raises:
        UserError: naming the pair.
    """
    if instruments.truth is not None:
        for pair in pairs:
            instruments.truth(pair, worker.seed_of(pair))


def describe(spec: RunSpec, worker: PairWorker, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The run as it is kept in ``run.json``."""
    return {
        "methods": list(spec.methods),
        "blocks": sorted({b for arm in worker.arms for b in arm.blocks}),
        "arms": [{"method": a.name, "options": dict(a.options), "blocks": a.blocks} for a in worker.arms],
        "strengths": worker.strengths,
        "steps": worker.steps,
        "model": spec.model,
        "seed": spec.seed,
        "batch": spec.batch,
        "pairs": len(pairs),
        "parts": worker.instruments.parts,
        "metric_names": {
            "clip": worker.instruments.scorers.clip.name,
            "lpips": worker.instruments.scorers.lpips.name,
        },
    }
