"""The plan of a training: its settings, the published ones by name, and the grid of SAEs. Needs no torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from riebench.models.arguments import whole, words
from riebench.prompts import prompts_hash
from riebench.sae.layouts import OURS, SAELENS
from riebench.training.capture import ALL, Capture, refuse_full_disk, resolve_capture, size_text
from riebench.training.dataset import Dataset, open_dataset
from riebench.util.errors import UserError, unknown
from riebench.util.work_folder import WorkFolder

log = logging.getLogger(__name__)
COUNTED = ("topk", "batchtopk", "matryoshka")
"""Kinds whose k says how many features are active."""
L1, L0 = ("relu", "gated"), ("jumprelu",)
"""Kinds with a penalty on the sum of the codes, and on their number; without a weight it is steered to k of them."""
KINDS = ("topk", "batchtopk", "jumprelu", "relu", "gated", "matryoshka")
OPTIONS_OF_KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("aux", "auxk", "aux_weight"), COUNTED),
    "l1": L1,
    "l0": L0,
    "warmup": (*L1, *L0),
    **dict.fromkeys(("bandwidth", "threshold"), L0),
    "prefixes": ("matryoshka",),
}
"""Option to the kinds on which it acts; all others act on every kind."""
OWN_SETTINGS = ("warmup", "bandwidth", "threshold", "prefixes")
TRAINING, CHECKPOINT, WEIGHTS = "training.json", "checkpoint.pt", "model_fingerprint"


class SAESettings(BaseModel):
    """How SAEs are trained; the defaults are those of mini's own.

    Attributes:
        batch: vectors in a step.
        steps: steps; 0 for as many as one pass over the data gives.
        lr: Adam's learning rate.
        eps: Adam's epsilon.
        decay: share of the steps, the last ones, over which the learning rate falls linearly to 0.
        auxk: dead features that reconstruct the residual.
        aux_weight: weight of the auxiliary loss.
        dead_after: vectors without an activation after which a feature counts as dead.
        buffer: vectors of each site that are shuffled together.
        shuffle_seed: of the order of the vectors.
        warmup: share of the steps, the first ones, over which a penalty rises linearly from 0.
        bandwidth: width of the kernel that is the straight-through derivative of a JumpReLU's step. Unit, as that of
            ``threshold``: the root mean squared distance of the vectors from their mean.
        threshold: at which the thresholds of a JumpReLU SAE start.
        prefixes: shares of the features of a Matryoshka SAE, each of which, from the first feature on, reconstructs
            alone; all together always do.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    batch: int = Field(4096, ge=1)
    steps: int = Field(3000, ge=0)
    lr: float = Field(1e-3, gt=0)
    eps: float = Field(6.25e-10, gt=0)
    decay: float = Field(0.2, ge=0, le=1)
    auxk: int = Field(64, ge=1)
    aux_weight: float = Field(1 / 32, ge=0)
    dead_after: int = Field(200_000, ge=1)
    buffer: int = Field(1 << 18, ge=1)
    shuffle_seed: int = Field(0, ge=0, lt=1 << 23)
    warmup: float = Field(0.1, ge=0, le=1)
    bandwidth: float = Field(0.01, gt=0)
    threshold: float = Field(0.02, gt=0)
    prefixes: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.0625, 0.125, 0.25, 0.5)

    def of(self, kinds: Collection[str]) -> dict[str, Any]:
        """The settings by name without those that act on none of some kinds."""
        own = {name for name in OWN_SETTINGS if not set(OPTIONS_OF_KINDS[name]) & set(kinds)}
        return self.model_dump(mode="json", exclude=own)


Weight = Annotated[float, Field(ge=0)]


class Axes(BaseModel):
    """The axes of the grid.

    Attributes:
        kind: of the SAE, one of :data:`KINDS`.
        k: active features; of all kinds but TopK their mean number over a batch.
        l1: weights of the penalty on the sum of the codes, of ReLU and gated SAEs, in place of k. Unit of the codes:
            the root mean squared distance of the vectors from their mean; the squared error is divided by its square.
        l0: weights of the penalty on the number of active features, of JumpReLU SAEs, in place of k.
        expansion: features per dimension, n / d.
        aux: whether dead features reconstruct the residual.
        frozen: whether the decoder stays random, the baseline of arXiv 2602.14111.
        seeds: of the start.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: tuple[str, ...] = ("topk",)
    k: tuple[int, ...] = (16,)
    l1: tuple[Weight, ...] | None = None
    l0: tuple[Weight, ...] | None = None
    expansion: tuple[int, ...] = (4,)
    aux: tuple[bool, ...] = (True,)
    frozen: tuple[bool, ...] = (False,)
    seeds: tuple[Annotated[int, Field(lt=1 << 63)], ...] = (0,)


PUBLISHED: dict[str, Any] = {"steps": 0, "lr": 1e-4, "decay": 0.0, "auxk": 256, "dead_after": 10_000_000}
PRESETS: dict[str, dict[str, Any]] = {
    "mini": {},
    "paper": {**PUBLISHED, "k": (160,)},
    "paper-v1": {**PUBLISHED, "k": (10,)},
}
"""``paper``: the SAEs of RIEBench; ``paper-v1``: the first release (arXiv 2410.22366). n is 5120 at d = 1280."""


class GridPoint(BaseModel):
    """One SAE of the grid.

    Attributes:
        site: whose values it is trained on.
        kind: one of :data:`KINDS`.
        k: active features; None where the weight of a penalty is given.
        l1: weight of the penalty on the sum of the codes; None for a kind without it, or where it is steered.
        l0: weight of the penalty on the number of active features; None likewise.
        expansion: features per dimension.
        aux: whether dead features reconstruct the residual.
        frozen: whether the decoder stays as it started.
        seed: of the start.
    """

    model_config = ConfigDict(frozen=True)

    site: str
    kind: str = "topk"
    k: int | None = None
    l1: float | None = None
    l0: float | None = None
    expansion: int
    aux: bool
    frozen: bool = False
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder; begins with its site, so that ``sae.folder`` finds it."""
        weight = f"l1-{self.l1}" if self.l1 is not None else f"l0-{self.l0}"
        sparsity = weight if self.k is None else f"k{self.k}"
        words = [self.site.replace("/", "-"), sparsity, f"x{self.expansion}"]
        words += [f"aux-{'on' if self.aux else 'off'}"] * (self.kind in COUNTED)
        words += [self.kind] * (self.kind != "topk") + ["frozen"] * self.frozen
        return "_".join([*words, f"seed{self.seed}"])

    @property
    def start(self) -> GridPoint:
        """What decides the start of the training; SAEs that differ in the auxiliary loss alone share it."""
        return self.model_copy(update={"aux": True})

    def facts(self) -> dict[str, Any]:
        """What the SAE's configuration says of it; a TopK SAE's has neither its kind nor penalties."""
        return self.model_dump(exclude={"kind"} if self.kind == "topk" else None, exclude_none=True)


def settings_and_axes(preset: str | None, options: Mapping[str, Any]) -> tuple[SAESettings, Axes]:
    """The settings and axes of a preset, changed by options; an option of None changes nothing.

    Raises:
        UserError: if the preset or a name is unknown, or a value does not fit.
    """
    if preset is not None and preset not in list(PRESETS):
        raise unknown("preset", preset, PRESETS)
    known = [*SAESettings.model_fields, *Axes.model_fields]
    for name in options:
        if name not in known:
            raise unknown("setting", name, known)
    options = {name: value for name, value in options.items() if value is not None}
    chosen = PRESETS[preset or "mini"] | options
    if isinstance(chosen.get("kind"), str):
        chosen["kind"] = (chosen["kind"],)
    try:
        settings = SAESettings(**{n: v for n, v in chosen.items() if n in SAESettings.model_fields})
        axes = Axes(**{n: v for n, v in chosen.items() if n in Axes.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{first['loc'][0]} is {first['input']!r}: {first['msg']}") from None
    for kind in axes.kind:
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
    for name in options:
        kinds = OPTIONS_OF_KINDS.get(name, axes.kind)
        if axes.kind and not set(kinds) & set(axes.kind):
            raise UserError(
                f"{name} acts on SAEs of the kind {' or '.join(kinds)}, not on {_listed(axes.kind)}; leave it out"
            )
    if "k" in options and axes.kind and all(_sparsity_name(axes, kind) != "k" for kind in axes.kind):
        raise UserError(
            f"k is {_listed(axes.k)}, but the weights of the penalties decide how many features are active; leave out "
            "k, or l1 and l0"
        )
    return settings, axes


def grid_points(axes: Axes, widths: Mapping[str, int]) -> list[GridPoint]:
    """Every SAE of the grid, for sites with the widths of their vectors.

    Raises:
        UserError: if an axis is empty, has a value twice or below 1, or a k is above the number of features.
    """
    for name, values in axes.model_dump(exclude_none=True).items():
        lowest = {"k": 1, "expansion": 1, "kind": ""}.get(name, 0)
        if not values or len(set(values)) < len(values) or min(values) < lowest:
            words = "kinds" if name == "kind" else f"numbers, each {lowest} or more"
            raise UserError(f"{name} is {_listed(values)}; expected different {words}")
    points = []
    for site, kind in product(widths, axes.kind):
        name, aux = _sparsity_name(axes, kind), axes.aux if kind in COUNTED else (False,)
        for value, expansion, frozen, seed, on in product(
            getattr(axes, name), axes.expansion, axes.frozen, axes.seeds, aux
        ):
            if name == "k" and value > (features := expansion * widths[site]):
                raise UserError(
                    f"k is {value}, but an SAE of {site} has {features} features at expansion {expansion}; "
                    "lower k or raise the expansion"
                )
            of_all = {"site": site, "kind": kind, "expansion": expansion, "aux": on, "frozen": frozen, "seed": seed}
            points.append(GridPoint(**of_all, **{name: value}))
    return points


def penalty_of(kind: str) -> str:
    """The name of the weight of a kind's penalty."""
    return "l1" if kind in L1 else "l0"


def _sparsity_name(axes: Axes, kind: str) -> str:
    """The name of the axis that makes SAEs of a kind sparse."""
    return "k" if kind in COUNTED or getattr(axes, penalty_of(kind)) is None else penalty_of(kind)


def _listed(values: Sequence[Any]) -> str:
    return ",".join(map(str, values)) or "empty"


@dataclass(frozen=True)
class TrainingPlan:
    """A training.

    Attributes:
        out: folder of the SAE folders.
        settings: of all SAEs.
        points: the SAEs.
        widths: site to the width of its vectors.
        data: the data set; None for ``live``.
        live: the values that the model generates during training; None for ``data``.
        device: where it is trained.
        log_every: steps between lines of the log.
        checkpoint_every: steps between checkpoints.
    """

    out: Path
    settings: SAESettings
    points: Sequence[GridPoint]
    widths: Mapping[str, int]
    data: Dataset | None
    live: Capture | None
    device: str
    log_every: int
    checkpoint_every: int

    @property
    def model_name(self) -> str:
        """The model whose values these are."""
        if self.data is not None:
            return self.data.facts.model
        assert self.live is not None
        return self.live.entry.name

    @cached_property
    def facts(self) -> dict[str, Any]:
        """All that decides the SAEs; a training is gone on with only if its facts are the same."""
        origin: dict[str, Any] = {"data": self.data.fingerprint} if self.data else {}
        if self.live is not None:
            live = self.live
            origin = {
                "model": live.entry.name,
                "prompts": prompts_hash(live.prompted),
                "run_steps": live.steps,
                "positions": live.sampled,
                "settings": live.settings.model_dump(mode="json", exclude={"model": {"device"}}, exclude_defaults=True),
            }
            if live.model is not None:
                origin |= {"fingerprint": live.model.fingerprint, "conditions": dict(live.model.conditions)}
        return {**origin, **self.settings.of(self.kinds), "saes": [point.name for point in self.points]}

    @property
    def kinds(self) -> set[str]:
        """The kinds of its SAEs."""
        return {point.kind for point in self.points}

    @property
    def weights(self) -> int:
        """Bytes of the weights of all SAEs."""
        return 4 * sum(2 * point.expansion * self.widths[point.site] ** 2 for point in self.points)

    @property
    def bytes(self) -> int:
        """Bytes that the training writes at most: two checkpoints at one time, then each SAE in two layouts."""
        return self.weights * (2 * 3 + 2)

    @property
    def memory(self) -> int:
        """Bytes that the training holds in memory at least: weights, gradients and Adam's two means."""
        return self.weights * 4

    def config(self, point: GridPoint, steps: int, fingerprint: str) -> dict[str, Any]:
        """The content of an SAE's ``config.json`` beside its size.

        Args:
            point: the SAE.
            steps: of the training.
            fingerprint: of the model's weights.
        """
        settings = {"batch", "lr", "eps", "decay", "aux_weight", "shuffle_seed", *OWN_SETTINGS}
        return {
            "auxk": self.settings.auxk if point.aux else None,
            "dead_steps_threshold": self.settings.dead_after // self.settings.batch,
            "model": self.model_name,
            WEIGHTS: fingerprint,
            **point.facts(),
            "steps": steps,
            **{name: value for name, value in self.settings.of({point.kind}).items() if name in settings},
        }

    def begin(self, folder: WorkFolder) -> bool:
        """Write the facts of the training into its folder; whether there is something left to do.

        A finished training whose SAEs are no longer there is done again.

        Raises:
            UserError: if the folder holds another training.
        """
        try:
            noted = json.loads((self.out / TRAINING).read_text())
            earlier, finished = dict(noted["asked"]), bool(noted["finished"])
        except FileNotFoundError:
            earlier, finished = self.facts, False
        except (ValueError, LookupError, TypeError):
            raise UserError(f"{self.out / TRAINING} cannot be read; remove it or give another --out") from None
        new = not (finished or (self.out / CHECKPOINT).is_file())  # nothing to be lost
        if new:
            earlier = self.facts
        for name, value in self.facts.items():
            if (before := earlier.get(name)) != value:
                raise UserError(f"{self.out} holds a training with {name} {before}, not {value}; give another --out")
        if finished and (missing := [point.name for point in self.points if not is_saved(self.out / point.name)]):
            log.warning("%s lacks %s; the training is done again", self.out, ", ".join(missing))
            new, finished = True, False
        if new:
            self._note(folder, {"asked": self.facts, "finished": False})
        return not finished

    def check_weights(self, folder: WorkFolder, fingerprint: str) -> None:
        """Note the fingerprint of the weights whose values the SAEs are trained on.

        Raises:
            UserError: if the folder's training has begun on values of other weights.
        """
        noted = json.loads((self.out / TRAINING).read_text())
        if (before := noted.setdefault(WEIGHTS, fingerprint)) != fingerprint:
            raise UserError(
                f"{self.out} holds a training on values of {before}, this model is {fingerprint}; give another --out"
            )
        self._note(folder, noted)

    def mark_finished(self, folder: WorkFolder) -> None:
        """Note that all SAEs are written, and remove the checkpoint."""
        self._note(folder, json.loads((self.out / TRAINING).read_text()) | {"finished": True})
        (self.out / CHECKPOINT).unlink(missing_ok=True)

    def _note(self, folder: WorkFolder, noted: Mapping[str, Any]) -> None:
        folder.write(TRAINING, json.dumps(noted, indent=1).encode())


def is_saved(folder: Path) -> bool:
    """Whether a folder holds all files of an SAE that a training writes."""
    return all((folder / name).is_file() for layout in (OURS, SAELENS) for name in (layout.weights, layout.config))


def plan_training(
    data: str | Path | None,
    out: str | Path,
    *,
    site: str | Sequence[str] = ALL,
    preset: str | None = None,
    device: str = "auto",
    live: Mapping[str, Any] | None = None,
    log_every: int = 50,
    checkpoint_every: int = 500,
    **options: Any,
) -> TrainingPlan:
    """The plan of a training; the arguments are those of :func:`riebench.training.train`.

    Raises:
        UserError: before the first step, as :func:`riebench.training.train` does.
    """
    settings, axes = settings_and_axes(preset, options)
    if (data is None) == (live is None):
        raise UserError("give either a folder that 'riebench sae collect' has filled, or a model to generate with")
    names, dataset, capture = words("site", site), None, None
    for name, value in (("data", data), ("out", out)):
        if not isinstance(value, str | Path | None) or (value is not None and not str(value)):
            raise UserError(f"{name} is {value!r}; expected a folder")
    if not isinstance(device, str):
        raise UserError(f"device is {device!r}; expected auto, cpu, cuda, cuda:N or mps")
    if live is not None and not isinstance(live, Mapping):
        raise UserError(
            f"live is {live!r}; expected arguments of collect, as {{'model': 'mini', 'prompts': 'grammar'}}"
        )
    for name in live or ():
        if name not in (known := signature(resolve_capture).parameters.keys() - {"site"}):
            raise unknown("argument", name, sorted(known), "in live")
    if live is not None and "prompts" not in live:
        raise UserError("live says no prompts; add 'prompts': a file, or 'grammar'")
    if data is not None:
        named = [] if ALL in names else names
        dataset = open_dataset(Path(data), named)
        widths = {name: stored.width for name, stored in dataset.facts.sites.items() if not named or name in named}
    else:
        capture = resolve_capture(site=names, **(live or {}))
        widths = {name: site.width for name, site in capture.sites.items()}
    points = grid_points(axes, widths)
    log_every, checkpoint_every = whole("log_every", log_every, 1), whole("checkpoint_every", checkpoint_every, 1)
    plan = TrainingPlan(Path(out), settings, points, widths, dataset, capture, device, log_every, checkpoint_every)
    refuse_full_disk(plan.out, plan.bytes, "train fewer SAEs (--k, --seeds) or smaller ones (--expansion)")
    _refuse_full_memory(plan)
    _refuse_few(plan)
    return plan


def _refuse_full_memory(plan: TrainingPlan) -> None:
    """Refuse a training that does not fit this machine's memory; a GPU's memory is unknown without torch."""
    total = psutil.virtual_memory().total
    if plan.memory > total and not plan.device.startswith("cuda"):
        raise UserError(
            f"training the SAEs takes {size_text(plan.memory)} of memory, this machine has {size_text(total)}; take a "
            "lower --expansion, or fewer at a time"
        )


def _refuse_few(plan: TrainingPlan) -> None:
    for site in plan.widths:
        if plan.data is not None:
            count = sum(shard.vectors[site] for shard in plan.data.shards)
        else:
            assert plan.live is not None
            count = len(plan.live.prompted) * plan.live.steps * plan.live.positions(site)
        if count < plan.settings.batch:
            raise UserError(f"there are {count} vectors of {site}, a batch takes {plan.settings.batch}; lower --batch")
