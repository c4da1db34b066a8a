"""The family of transformers whose positions are tokens: one for all pipelines, each described by an entry.

A site's values are those of the picture's tokens alone, in the conditional part of a pass. An entry says where they
are: which lists hold the blocks, which argument and which output of a block is the picture, where the picture's tokens
lie in a sequence that they share with the text, and which rows or calls are the conditional ones.

Importing it needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

from riebench.models.component_config import json_object
from riebench.models.diffusers_entry import CONFIG, DiffusersEntry, levels_factor, pipeline_index
from riebench.models.diffusers_model import KEPT_STEPS, DiffusersModel
from riebench.models.model import Model
from riebench.models.sites import (
    ATTENTION,
    CROSS,
    MLP,
    MLP_INPUT,
    NEURONS,
    OUTPUT,
    TEXT_STREAM,
    Batch,
    Run,
    Site,
    block_of,
    block_sites,
)
from riebench.sae.folders import find_saes, folder_names
from riebench.settings.settings import Settings
from riebench.util.errors import UserError
from riebench.weights import hub_snapshot

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TEXTS: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
"""Pipeline to the text of the call that asks for its timesteps; what the text says does not matter."""
OTHER_MODEL = "give another --model, see 'riebench models'"
Config: TypeAlias = Mapping[str, Any]
Place: TypeAlias = Literal["alone", "first", "last"]
"""Where the picture's tokens lie in a sequence: without others, before the text's or after them."""
Guidance: TypeAlias = Literal["none", "embedded", "rows", "rows, conditional first", "calls"]
"""How a pipeline is guided: not at all; by a number that the network takes; by an unconditional half in each batch,
before the conditional one unless said; or by a second call after the conditional one."""
UNGUIDED = ("none", "embedded")
"""The kinds of guidance without an unconditional part."""


@dataclass(frozen=True)
class Inner:
    """Where a block, or a module inside it, has values of the picture.

    Attributes:
        path: of the module.
        element: the element of its output that holds the picture; None if the output is one tensor.
        place: of the picture's tokens in it.
        is_input: whether no module puts the values out, so that they are the input of this one, or the tail of it.
        calls: number of calls of the module in each pass; the first is the picture's.
        tokens_first: whether its tensors are ``[positions, rows, width]``.
    """

    path: str
    element: int | None = None
    place: Place = "alone"
    is_input: bool = False
    calls: int = 1
    tokens_first: bool = False


@dataclass(frozen=True)
class Blocks:
    """One of a transformer's lists of blocks.

    Attributes:
        name: of its blocks as sites: ``double`` for ``double.0`` and so on.
        path: of the list in the transformer.
        count: number of blocks, as the name of a setting of the transformer, or as a function of all settings.
        parts: the end of a site's name to the module inside a block that has its values.
        picture: the argument of a block that holds the picture, by name or position.
        output: the element of a block's output that holds the picture; None if the output is one tensor.
        place: of the picture's tokens in both.
        text: the argument of a block that holds the text, where it is another; its output is the other element.
        last_text: whether the last block puts out a text.
        own_text: whether each block hands its text on whole; otherwise the text is no site.
        tokens_first: whether the tensors of the blocks are ``[positions, rows, width]``.
    """

    name: str
    path: str
    count: str | Callable[[Config], int]
    parts: Mapping[str, Inner]
    picture: str | int = "hidden_states"
    output: int | None = None
    place: Place = "alone"
    text: str | int | None = None
    last_text: bool = True
    own_text: bool = True
    tokens_first: bool = False

    @property
    def has_text(self) -> bool:
        """Whether the blocks carry the text, beside the picture or before it in one sequence."""
        return self.own_text and (self.text is not None or self.place == "last")

    def number(self, config: Config) -> int:
        """The number of blocks of a transformer with these settings."""
        return self.count(config) if callable(self.count) else int(config[self.count])


def parts_of(
    neurons: str | Inner = "", attention: str | Inner = "", cross: str = "", mlp: str | Inner = ""
) -> dict[str, Inner]:
    """The parts of a block, each given as a module or its path; without those that are not given.

    A module that takes the neurons and puts out what the MLP adds is not the whole MLP, whose input is then no site.
    """
    named = {ATTENTION: attention, CROSS: cross, MLP_INPUT: mlp, f"{NEURONS[1:]}0": neurons, MLP: mlp}
    parts = {f"/{name}": Inner(part) if isinstance(part, str) else part for name, part in named.items() if part}
    if mlp and parts[f"/{MLP}"].path == getattr(neurons, "path", None):
        del parts[f"/{MLP_INPUT}"]
    elif mlp:
        parts[f"/{MLP_INPUT}"] = replace(parts[f"/{MLP}"], is_input=True)
    return parts


def heads_width(transformer: Config) -> int:
    """The width of a transformer as its heads have it."""
    return int(transformer["attention_head_dim"] * transformer["num_attention_heads"])


def four_widths(transformer: Config) -> int:
    """The usual number of neurons of a block: four for each of its channels."""
    return 4 * heads_width(transformer)


@dataclass(frozen=True)
class TokenEntry(DiffusersEntry):
    """A pipeline with a transformer, by name.

    Attributes:
        size: default side of the pictures, pixels, of a transformer whose configuration names none.
        blocks: the transformer's lists of blocks that hold the picture, in the order in which they run.
        width: of a transformer's tokens.
        neurons: number of a block's neurons.
        factor: pixels on each side of a latent cell.
        patch: latent cells on each side of a token; those of the pipeline's packed latents are counted.
        packs: whether the pipeline takes latents as tokens, see :meth:`Tokens.packed`.
        pack: the pipeline's method that makes tokens of latents.
        channels: the setting of the transformer that is the number of channels of the latents.
        channels_last: whether latents are ``[rows, 1, side, side, channels]``.
        latent_cells: cells of the autoencoder on each side of one of the pipeline's latents.
        counts_latents: whether the pipeline's own factor is of these, and not of the autoencoder's cells.
        unit: the picture's side is a multiple of this number of pixels; that of a token unless given.
        guidance_kind: how the pipeline is guided.
        guidance_argument: the argument of its call for the guidance scale.
        guided_above: the pipeline is guided by rows or calls if the guidance is above this number.
        true_guidance: whether the pipeline has a second guidance, by calls, as its argument ``true_cfg_scale``.
        least_guidance: smallest guidance that the pipeline takes.
        arguments: further arguments of the pipeline's call.
        arguments_of: arguments of the pipeline's call for a number of steps.
        during_calls: the pipeline's attributes during its call, which would otherwise make another picture than the
            one that is asked for: of the pipeline, the size, the guidance scale and whether it guides by rows or calls.
        expected: settings of the transformer that the entry is for.
        distilled: the setting ``is_distilled`` of the pipelines that the entry is for; None where it does not matter.
        masks_shift: whether the number of unmasked text tokens decides where the picture's tokens lie.
        conditions: what all records say of the family, beside the conditions of a run.
        replays: whether a block that is not run leaves nothing that a later step needs.
        guided_alone: whether the pipeline guides one picture at a time.
        more_times: number of the scheduler's timesteps beyond the steps.
    """

    size: int = 1024
    denoiser: str = "transformer"
    blocks: tuple[Blocks, ...] = ()
    width: Callable[[Config], int] = heads_width
    neurons: Callable[[Config], int] = four_widths
    factor: Callable[[Config], int] = levels_factor
    patch: int = 2
    packs: bool = False
    pack: str = "_pack_latents"
    channels: str = "in_channels"
    channels_last: bool = False
    latent_cells: int = 1
    counts_latents: bool = False
    unit: int | None = None
    guidance_kind: Guidance = "none"
    guidance_argument: str = "guidance_scale"
    guided_above: float = 1.0
    true_guidance: bool = False
    least_guidance: float = 0.0
    arguments: Config = field(default_factory=dict)
    arguments_of: Callable[[int], Config] = lambda steps: {}
    during_calls: Callable[[Any, int, float, bool], Config] = lambda pipeline, size, guidance, guided: {}
    expected: Config = field(default_factory=dict)
    distilled: bool | None = None
    masks_shift: bool = False
    conditions: Mapping[str, str] = field(default_factory=dict)
    replays: bool = True
    guided_alone: bool = False
    more_times: int = 0

    @property
    def pipeline_cells(self) -> int:
        """See :class:`DiffusersEntry`."""
        return self.latent_cells if self.counts_latents else 1

    def size_text(self) -> str:
        """See :class:`DiffusersEntry`."""
        configs = self.configs(self.own_pipeline)
        factor = self.factor(configs["vae"])
        return f"{self.side(configs[self.denoiser], factor, None)}; multiples of {self.unit or factor * self.patch}"

    def guidance_text(self) -> str:
        """See :class:`DiffusersEntry`."""
        more = "; true guidance" if self.true_guidance else ""
        return "none" + more if self.guidance_kind == "none" else f"{self.guidance_kind}, {self.guidance:g}{more}"

    def passes_a_step(self, settings: Settings) -> int:
        """See :class:`ModelEntry`; 1 too if the network takes the guidance as a number."""
        return 1 if self.kind(settings) in UNGUIDED else 2

    def kind(self, settings: Settings) -> Guidance:
        """How a run is guided; a guidance by rows or calls that is too small is none."""
        if (settings.model.true_guidance or 0) > 1:
            return "calls"
        off = self.guidance_kind != "embedded" and self.scale(settings) <= self.guided_above
        return "none" if off else self.guidance_kind

    def check_settings(self, settings: Settings) -> None:
        """Refuse settings of a guidance that the pipeline or the run does not have.

        Raises:
            UserError: if there are such settings.
        """
        chosen, kind = settings.model.model_dump(exclude_defaults=True), self.kind(settings)
        for name, has in {"guidance": self.guidance_kind != "none", "true_guidance": self.true_guidance}.items():
            if name in chosen and not has:
                why = ": its pipeline is distilled, and ignores guidance" if self.distilled else ""
                raise UserError(f"{self.name} has no setting model.{name}{why}; leave it out")
        if self.guidance_kind != "none" and self.scale(settings) < self.least_guidance:
            wrong = f"model.guidance is {self.scale(settings):g}, and {self.name} takes {self.least_guidance:g} or more"
            raise UserError(f"{wrong}; {self.least_guidance:g} switches guidance off")
        hint = f"give --set model.{'true_guidance' if self.true_guidance else 'guidance'}=NUMBER"
        for name in ("negative_prompt", "unconditional"):
            if name in chosen and kind in UNGUIDED:
                above = "true guidance above 1" if self.true_guidance else f"guidance above {self.guided_above:g}"
                if self.guidance_kind in UNGUIDED and not self.true_guidance:
                    raise UserError(f"{self.name} has no unconditional part and no setting model.{name}; leave it out")
                raise UserError(f"the setting model.{name} needs a {above}; {hint}")
        if "unconditional" in chosen and kind == "calls":
            why = "makes the unconditional part in a call of its own, after the prompt's"
            raise UserError(f"{self.name} {why}, which edits leave alone; leave out the setting model.unconditional")

    def check_index(self, index: Mapping[str, Any]) -> None:
        """See :class:`DiffusersEntry`; whether the pipeline is distilled."""
        distilled = is_distilled(index)
        if self.distilled not in (None, distilled):
            wrong = f"the pipeline has is_distilled={distilled}, and {self.name} expects {self.distilled}"
            raise UserError(f"{wrong}; {OTHER_MODEL}")

    def is_of(self, folder: Path) -> bool:
        """See :class:`ModelEntry`; whether the transformer and the pipeline have the expected settings."""
        config: Config = {}
        with suppress(UserError):  # the folder is refused where its configurations are needed
            config = json_object(folder / self.denoiser / CONFIG)
        fits = all(config.get(name) == value for name, value in self.expected.items())
        return fits and self.distilled in (None, is_distilled(pipeline_index(folder)))

    def sites_for(self, configs: Mapping[str, Config], size: int | None) -> Mapping[str, Site]:
        """See :class:`DiffusersEntry`: of each block the neurons, then the update, in the order in which they run.

        Raises:
            UserError: if the size does not fit, or the transformer is another kind's.
        """
        transformer = configs[self.denoiser]
        for name, value in self.expected.items():
            if transformer.get(name) != value:
                wrong = f"the transformer has {name}={transformer.get(name)}, and {self.name} expects {value}"
                raise UserError(f"{wrong}; {OTHER_MODEL}")
        factor = self.factor(configs["vae"])
        side = self.side(transformer, factor, size)
        unit = self.unit or factor * self.patch
        if side % unit:
            raise UserError(f"the picture size is {side}; expected a multiple of {unit}")
        grid = (side // (factor * self.patch),) * 2
        sites = {}
        for blocks in self.blocks:
            count = blocks.number(transformer)
            for number in range(count):
                texts = blocks.has_text and (blocks.last_text or number + 1 < count)
                for part in (*blocks.parts, "", OUTPUT, *([TEXT_STREAM] if texts else [])):
                    width = self.neurons if part.startswith(NEURONS) else self.width
                    shape = Site(width(transformer), (0, 0) if part == TEXT_STREAM else grid)
                    sites[f"{blocks.name}.{number}{part}"] = shape
        return sites

    def side(self, transformer: Config, factor: int, size: int | None) -> int:
        """The side of the pictures, pixels: the chosen one, else the transformer's own, else the entry's."""
        own = transformer.get("sample_size")
        return size or (own * factor if own else self.size)

    def place(self, site: str) -> tuple[Blocks, Inner]:
        """The list of blocks that a site is of, and the module that has its values, by its path in the transformer."""
        kind, _, number = block_of(site).partition(".")
        (blocks,) = (each for each in self.blocks if each.name == kind)
        path, part = f"{blocks.path}.{number}", blocks.parts.get(site.removeprefix(block_of(site)))
        if part is None:
            element = blocks.output
            if element is not None and site.endswith(TEXT_STREAM):
                element = 1 - element
            return blocks, Inner(path, element, blocks.place, tokens_first=blocks.tokens_first)
        return blocks, replace(part, path=f"{path}.{part.path}")

    def saes(self, settings: Settings) -> Mapping[str, Path]:
        """The SAEs in ``sae.folder``, in folders that are named after sites or modules; empty without that setting."""
        folder = settings.sae.folder
        if folder is None:
            return {}
        names = {site: folder_names(site, self.place(site)[1].path) for site in self.sites(settings)}
        return find_saes(Path(folder) if Path(folder).is_dir() else hub_snapshot(folder, None), names, settings.sae)

    def model_of(self, pipeline: Any, settings: Settings, fingerprint: str) -> Model:
        """See :class:`DiffusersEntry`."""
        return Tokens(pipeline, self, settings, fingerprint)


def is_distilled(pipeline: Config) -> bool:
    """Whether a pipeline is distilled, by its settings."""
    return bool(pipeline.get("is_distilled"))


class Tokens(DiffusersModel):
    """A pipeline with a transformer.

    Args:
        pipeline: a loaded pipeline of the entry's class.
        entry: of the model.
        settings: with size, guidance, negative prompt and replay.
        fingerprint: see :class:`Model`.

    Raises:
        UserError: see :meth:`TokenEntry.check_index` and :meth:`TokenEntry.sites_for`.
    """

    entry: TokenEntry

    def __init__(self, pipeline: Any, entry: TokenEntry, settings: Settings, fingerprint: str) -> None:
        denoiser, chosen = getattr(pipeline, entry.denoiser), settings.model
        entry.check_index(pipeline.config)
        configs = {entry.denoiser: denoiser.config, "vae": pipeline.vae.config}
        size = entry.side(denoiser.config, entry.factor(pipeline.vae.config), chosen.size)
        sites = entry.sites_for(configs, size)
        self.places = {site: entry.place(site) for site in sites}
        paths, blocks = {site: inner.path for site, (_, inner) in self.places.items()}, block_sites(sites)
        before = {block: [paths[earlier] for earlier in blocks[:number]] for number, block in enumerate(blocks)}
        self.kind, self.guidance = entry.kind(settings), entry.scale(settings)
        self.guided = self.kind not in UNGUIDED
        chosen_guidance = {
            "guidance": self.guidance if entry.guidance_kind != "none" else None,
            "unconditional": chosen.unconditional if self.kind.startswith("rows") else None,
            "true_guidance": chosen.true_guidance,
            "negative_prompt": chosen.negative_prompt,
        }
        conditions = {**entry.conditions, **{name: v for name, v in chosen_guidance.items() if v is not None}}
        call = {entry.guidance_argument: self.guidance, **entry.arguments}
        if chosen.true_guidance is not None:
            call["true_cfg_scale"] = chosen.true_guidance
        self._called = False
        self.timestep_arguments = lru_cache(KEPT_STEPS)(self._timestep_arguments)
        super().__init__(pipeline, denoiser, entry, settings, fingerprint, sites, paths, before, size, conditions, call)
        self._replayable &= entry.replays
        self._state.settle(self.watched())  # the pipeline has encoded a text

    @property
    def halves(self) -> int:
        """See :class:`DiffusersModel`."""
        return 2 if self.kind.startswith("rows") else 1

    def conditional(self, value: Tensor) -> Tensor:
        """See :class:`DiffusersModel`."""
        first = self.kind == "rows, conditional first"
        return value[: len(value) // 2] if first else super().conditional(value)

    def unconditional_half(self, value: Tensor) -> Tensor | None:
        """See :class:`DiffusersModel`."""
        half = super().unconditional_half(value)
        first = self.kind == "rows, conditional first"
        return value[len(value) // 2 :] if first and half is not None else half

    def calls_a_step(self, site: str) -> int:
        """See :class:`Model`."""
        return self.places[site][1].calls * (2 if self.kind == "calls" else 1)

    def is_input(self, site: str) -> bool:
        """See :class:`Model`."""
        return self.places[site][1].is_input

    def read(self, site: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor:
        """A block's output minus its input in float32, or a module's values in the model's type; of the picture."""
        blocks, inner = self.places[site]
        after = self.values_in(site, output if inner.element is None else output[inner.element])
        is_text = site.endswith(TEXT_STREAM)
        if site != block_of(site) and not is_text:
            return after
        key = blocks.text if is_text and blocks.text is not None else blocks.picture
        before = kwargs[key] if isinstance(key, str) else args[key]
        return after.float() - self.values_in(site, before).float()

    def add(self, site: str, output: Any, delta: Tensor) -> Any:
        """Add to the picture's tokens of the conditional half; take away in the other one where that is set."""
        element = self.places[site][1].element
        value = output if element is None else output[element]
        changed, delta = value.clone(), delta.to(value.dtype)
        self.values_in(site, changed).add_(delta)
        if (other := self.unconditional_half(self.rows_first(site, changed))) is not None:
            self.picture(site, other).sub_(delta)
        return changed if element is None else tuple(changed if n == element else v for n, v in enumerate(output))

    def rows_first(self, site: str, value: Tensor) -> Tensor:
        """A tensor with its rows as the first dimension, as a view."""
        return value.transpose(0, 1) if self.places[site][1].tokens_first else value

    def values_in(self, site: str, value: Tensor) -> Tensor:
        """A site's values in a tensor, as a view: the picture's tokens of the conditional half."""
        return self.picture(site, self.conditional(self.rows_first(site, value)))

    def picture(self, site: str, value: Tensor) -> Tensor:
        """The picture's tokens ``[rows, positions, width]``, as a view of a sequence, or of ``[rows, width, h, w]``.

        Of a site of the text, the text's tokens.

        Raises:
            UserError: if a sequence has other tokens than the family says.
        """
        grid, count, place = self.sites[site].grid, self.sites[site].positions, self.places[site][1].place
        if site.endswith(TEXT_STREAM):
            return value[:, : -self.sites[block_of(site)].positions] if place == "last" else value
        if value.ndim == 4 and tuple(value.shape[2:]) == grid:
            return value.view(*value.shape[:2], count).transpose(1, 2)
        tokens = value.shape[1] if value.ndim == 3 else 0
        if tokens < count or (place == "alone" and tokens != count):
            wrong = f"{site} has values of the shape {list(value.shape)} for {count} tokens of the picture"
            raise UserError(f"{wrong}; the pipeline makes other pictures than the model's family")
        return (value[:, -count:] if place == "last" else value[:, :count])[..., -self.sites[site].width :]

    def latent_shape(self) -> tuple[int, ...]:
        """See :class:`DiffusersModel`."""
        entry, config = self.entry, self.denoiser.config
        side = self.size // (entry.factor(self.pipeline.vae.config) * entry.latent_cells)
        channels: int = config[entry.channels]  # type: ignore[index, assignment]
        if entry.channels_last:
            return 1, side, side, channels
        return channels // entry.patch**2 if entry.packs else channels, side, side

    def packed(self, latents: Tensor) -> Tensor:
        """See :class:`DiffusersModel`: tokens ``[rows, positions, channels * patch**2]``, if the pipeline packs."""
        if not self.entry.packs:
            return latents
        pack = getattr(self.pipeline, self.entry.pack)
        by_patch = {"patch_size": self.entry.patch} if "patch_size" in signature(pack).parameters else {}
        tokens: Tensor = pack(latents, *latents.shape, **by_patch)
        return tokens

    def call_arguments(self, texts: Sequence[Mapping[str, Any]], steps: int, latents: Tensor) -> dict[str, Any]:
        """See :class:`DiffusersModel`."""
        return {**super().call_arguments(texts, steps, latents), **self.entry.arguments_of(steps)}

    def during_calls(self) -> dict[str, Any]:
        """See :class:`DiffusersModel`; with the attributes that the entry names."""
        of_entry = self.entry.during_calls(self.pipeline, self.size, self.guidance, self.guided)
        return {**super().during_calls(), **of_entry}

    def set_timesteps(self, scheduler: Any, steps: int, device: torch.device) -> None:
        """See :class:`DiffusersModel`; with the arguments of the pipeline's own call."""
        args, kwargs = self.timestep_arguments(steps)
        scheduler.set_timesteps(*args, **kwargs | {"device": device})
        if self.entry.more_times:
            scheduler.timesteps = scheduler.timesteps[: -self.entry.more_times]

    def _timestep_arguments(self, steps: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that the pipeline's call gives its scheduler for a number of steps; the call ends there.

        Raises:
            UserError: if the pipeline makes no such number of steps.
        """
        import torch

        if steps < self.entry.least_steps:
            raise UserError(f"{self.entry.pipeline_class} makes {self.entry.least_steps} steps or more, not {steps}")
        scheduler = self.pipeline.scheduler
        own = vars(scheduler).get("set_timesteps")

        @wraps(scheduler.set_timesteps)  # the pipeline reads its signature
        def prepared(*args: Any, **kwargs: Any) -> None:
            raise _Prepared(args, kwargs)

        scheduler.set_timesteps = prepared
        try:
            latents = torch.zeros(1, *self.latent_shape())
            with torch.no_grad(), self.keeping_nothing():  # so that a run encodes and counts its own prompts
                if self.pipeline not in TEXTS:
                    TEXTS[self.pipeline] = self.encode_text("")
                self.call(**self.call_arguments([TEXTS[self.pipeline]], steps, latents))
        except _Prepared as call:
            return call.arguments
        finally:
            del scheduler.set_timesteps
            if own is not None:
                scheduler.set_timesteps = own
        raise UserError(f"{type(self.pipeline).__name__} does not ask its scheduler for timesteps")

    def _batch(self, batch: Batch) -> list[Run]:
        """See :class:`Model`; rows whose texts have other lengths run one by one, so that none is padded."""
        runs = self._even_batch(batch)
        if not self._called and not any(callable(change) for edit in batch.edits for change in edit.changes.values()):
            self._state.settle(self.watched())
            self._called = True
        return runs

    def _even_batch(self, batch: Batch) -> list[Run]:
        texts, shift = map(self.encode_text, dict.fromkeys(batch.prompts)), self.entry.masks_shift
        alone = self.guided and self.entry.guided_alone and len(batch.prompts) > 1
        if not alone and len({_lengths(text, shift) for text in texts}) < 2:
            return super()._batch(batch)
        return [run for row in range(len(batch.prompts)) for run in super(Tokens, self)._batch(row_of(batch, row))]


class _Prepared(Exception):
    """The pipeline's call has asked its scheduler for timesteps."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.arguments = args, kwargs


def _lengths(text: Mapping[str, Any], masks: bool) -> tuple[Any, ...]:
    """The shapes of a text's tensors, with the numbers of tokens that masks leave if these are counted; or a prompt."""
    flat = [(name, v) for name, value in text.items() for v in (value if isinstance(value, list) else [value])]
    return tuple(
        (n, v) if isinstance(v, str) else (n, *v.shape, int(v.sum()) if masks and "mask" in n else 0)
        for n, v in flat
        if v is not None
    )


def row_of(batch: Batch, row: int) -> Batch:
    """One row of a batch."""
    part = slice(row, row + 1)
    begin = None if batch.begin is None else (batch.begin[0][part], batch.begin[1])
    return batch._replace(prompts=batch.prompts[part], seeds=batch.seeds[part], edits=batch.edits[part], begin=begin)
