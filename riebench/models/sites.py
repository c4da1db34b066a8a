"""Sites, the named places in a model whose values are read and added to; edits at them, with checks; runs.

Importing it needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, Union

from riebench.util.errors import PairError, UserError, unknown

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

NEURONS = "/neurons."
OUTPUT, TEXT_STREAM = "/output", "/text"
ATTENTION, CROSS, MLP = "attention", "cross", "mlp"
"""Parts of a block whose outputs are sites of their own: the picture's attention to itself (in joint attention to the
text, too), its attention to the text, and the feed-forward."""
MLP_INPUT = "mlp-input"
"""The input of the feed-forward, a site too: transcoders read it."""


class Site(NamedTuple):
    """The shape of the values at a site.

    Attributes:
        width: length of the vector at each position.
        grid: rows and columns of positions on the picture; positions are counted row by row. ``(0, 0)`` for positions
            of the text, of which there are as many as the prompt has tokens.
    """

    width: int
    grid: tuple[int, int]

    @property
    def positions(self) -> int:
        """Number of positions; 0 of the text."""
        return self.grid[0] * self.grid[1]


Values: TypeAlias = "Tensor"
"""Values at a site, ``[steps, positions, width]``; of updates and of neurons alike."""

Change: TypeAlias = Union["Tensor", Callable[["Tensor", int], "Tensor"], "FromInput"]
"""What an edit adds at a site at strength 1: a tensor ``[steps, positions, width]``, a vector ``[width]`` for all steps
and positions, or a function that is called in each step. The function takes the values ``[positions, width]`` of that
step in float32 and the step's number from 0; it returns ``[positions, width]`` or ``[width]``. For a function of an
MLP's input, see :class:`FromInput`."""


@dataclass(frozen=True)
class FromInput:
    """A change at the output of an MLP that a function computes of its input, too.

    Attributes:
        function: of the MLP's input and its output ``[positions, width]`` of one step in float32, and the step's
            number from 0; it returns ``[positions, width]`` or ``[width]``.
    """

    function: Callable[[Tensor, Tensor, int], Tensor]

    def __call__(self, inputs: Tensor, values: Tensor, step: int) -> Tensor:
        return self.function(inputs, values, step)


class Edit(NamedTuple):
    """An intervention in the generation of one picture.

    Attributes:
        changes: site to the change that is added there at strength 1.
        strength: the factor on all changes.
        on_steps: the steps, from 0, in which the changes are added; None for all.
    """

    changes: Mapping[str, Change]
    strength: float = 1.0
    on_steps: Collection[int] | None = None


class Start(NamedTuple):
    """The beginning of a run that starts from a finished picture, noised again, and not from noise alone.

    Attributes:
        prompt: of the finished picture, which is made with the run's own seed and number of steps.
        step: the step, from 0, that the run continues with; at least 1. The picture gets the noise of that step.
    """

    prompt: str
    step: int


class Run(NamedTuple):
    """A generated picture.

    Attributes:
        image: the picture ``[height, width, 3]``, 0 to 255.
        values: captured site to its values ``[steps, positions, width]``, on the model's device.
    """

    image: NDArray[np.uint8]
    values: Mapping[str, Values]

    def norm(self, site: str) -> float:
        """The mean length of a captured site's vectors, over steps and positions.

        A change of this length at strength 1 is as large as what the site itself holds: a block's update, or the
        neurons of a layer. Strengths from 0.25 to 2 of such a change are a sensible beginning.

        Raises:
            UserError: if the site was not captured.
        """
        if site not in self.values:
            raise unknown("captured site", site, self.values)
        return float(self.values[site].float().norm(dim=-1).mean())

    def __repr__(self) -> str:
        captured = {site: list(values.shape) for site, values in self.values.items()}
        return f"<run: picture {self.image.shape[1]} x {self.image.shape[0]} px, values {captured}>"

    def _repr_png_(self) -> bytes:
        """The picture as a notebook shows it."""
        from io import BytesIO

        from PIL import Image

        buffer = BytesIO()
        Image.fromarray(self.image).save(buffer, "PNG")
        return buffer.getvalue()


class Batch(NamedTuple):
    """Pictures that are generated together, one in each row.

    Attributes:
        prompts: one a row.
        seeds: one a row.
        steps: denoising steps.
        edits: one a row; empty edits nothing.
        capture: sites whose values are kept.
        begin: finished latents ``[rows, ...]`` that replace the rows' own, and the step that they are noised for; see
            :class:`Start`.
        finished: a list that gets the finished latents ``[rows, ...]``.
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    steps: int
    edits: Sequence[Edit] = ()
    capture: Collection[str] = ()
    begin: tuple[Tensor, int] | None = None
    finished: list[Tensor] | None = None


def block_of(site: str) -> str:
    """The block that a site is of: ``double.18`` of ``double.18``, ``double.18/output`` and ``double.18/neurons.0``."""
    return site.partition("/")[0]


def input_of(site: str) -> str:
    """The site of the input of an MLP: ``mid.0/mlp-input.3`` of ``mid.0/mlp.3``; the site itself of any other."""
    block, _, part = site.partition("/")
    name, dot, number = part.partition(".")
    return f"{block}/{MLP_INPUT}{dot}{number}" if name == MLP else site


def block_sites(sites: Iterable[str]) -> list[str]:
    """The sites that are blocks, whose values are updates, in the order in which they run."""
    return [site for site in sites if site == block_of(site)]


def default_blocks(preferred: Collection[str], sites: Iterable[str]) -> tuple[str, ...]:
    """The blocks that ``all`` stands for, in the order in which they run.

    Args:
        preferred: those that the model's entry names; those that the model lacks, as a pruned one, are left out.
        sites: of the model; of a model with none of the preferred ones its middle block is the default.
    """
    every = list(sites)
    blocks = block_sites(every)
    return tuple(site for site in every if site in preferred) or tuple(blocks[len(blocks) // 2 :][:1])


def blocks_first(sites: Iterable[str], *others: str) -> list[str]:
    """The blocks, other words, then the sites inside blocks, for a message that names only the first of them."""
    every = list(sites)
    return [*block_sites(every), *others, *(site for site in every if site != block_of(site))]


def refuse_text(names: Iterable[str], sites: Mapping[str, Site], what: str) -> None:
    """Refuse sites of the text where positions on the picture are needed.

    Args:
        names: of sites.
        sites: of the model.
        what: needs them, for the message.

    Raises:
        UserError: if one of the sites is of the text.
    """
    for name in names:
        if name in sites and not sites[name].positions:
            raise UserError(f"{name} is of the text, and {what} needs positions of the picture; leave it out")


def neuron_sites(sites: Iterable[str], block: str) -> list[str]:
    """The sites of the neurons of a block's layers, in the order in which they run."""
    return [site for site in sites if site.startswith(block + NEURONS)]


def check_edits(edits: Sequence[Edit], sites: Mapping[str, Site], steps: int, device: torch.device) -> None:
    """Refuse edits that a model cannot make.

    Args:
        edits: one for each picture; changes that are functions are checked when they are called.
        sites: of the model.
        steps: denoising steps.
        device: of the model.

    Raises:
        UserError: if a step or a site does not exist.
        PairError: if a change has the wrong shape, type or device, or is not finite.
    """
    beyond = {step for edit in edits for step in edit.on_steps or () if step not in range(steps)}
    if beyond:
        raise UserError(f"on_steps names the step {min(beyond)}; expected steps from 0 to {steps - 1}")
    different = {id(edit.changes): edit.changes for edit in edits}.values()  # rows often share their changes
    for site, change in [item for changes in different for item in changes.items()]:
        if site not in sites:
            raise unknown("site", site, sites)
        if isinstance(change, FromInput) and input_of(site) == site:
            raise UserError(f"the change at {site} is one FromInput, and {site} is no output of an MLP, as mid.0/mlp.0")
        if not callable(change):
            own = change.shape[1:2] if getattr(change, "ndim", 0) == 3 else ()
            positions = sites[site].positions or (*own, 0)[0]  # of a text, compared when it is there
            check_change(site, change, (steps, positions, sites[site].width), device)


def check_change(site: str, change: Any, shape: Sequence[int], device: torch.device) -> None:
    """Refuse a change that is not a dense, real, finite tensor of a shape (or a vector), on the model's device.

    Raises:
        PairError: if it is not.
    """
    import torch

    if not isinstance(change, torch.Tensor):
        wrong, expected = f"a {type(change).__name__}", "a tensor"
    elif change.is_complex() or change.layout != torch.strided:
        wrong, expected = f"a tensor of {change.dtype if change.is_complex() else change.layout}", "dense real numbers"
    elif change.shape not in (torch.Size(shape), torch.Size(shape[-1:])):
        wrong, expected = f"of the shape {list(change.shape)}", f"{list(shape)}, or {list(shape[-1:])} for all of them"
    elif change.device.type != device.type:
        wrong, expected = f"on {change.device}", f"one on {device}"
    elif not bool(change.isfinite().all()):
        wrong, expected = "not finite", "finite numbers"
    else:
        return
    raise PairError(f"the change at {site} is {wrong}, expected {expected}", where="method")


def check_rows(site: str, rows: int, pictures: int) -> None:
    """Refuse a batch whose rows are not those that the family counts with, as of a pipeline with a third guidance.

    Args:
        site: whose values have the rows.
        rows: number of rows that the family reads.
        pictures: number of pictures that are generated together.

    Raises:
        UserError: if the numbers differ.
    """
    if rows != pictures:
        wrong = f"{site} has values of {rows} rows for {pictures} pictures"
        raise UserError(f"{wrong}; the pipeline makes other batches than the model's family, give one of its own class")
