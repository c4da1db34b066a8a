"""A dry trace of a pipeline of an unknown class with a transformer: what its layout is, or why that is not clear.

A dry trace makes short runs and compares what blocks are given and put out. It finds the lists of blocks that hold the
picture, the picture's place in what they take and return, the conditional rows or calls, and the grid of tokens. Then
it edits single tokens of the last block and looks where the latents change. What it cannot conclude, it refuses.

Importing it needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from math import isqrt
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from riebench.models.tokens import Blocks, Guidance, Place
from riebench.util.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

STEPS, SEED = 2, 5
PROMPT, OTHER_PROMPT = "a red cat", "a dog under a tall tree"
PLAIN = {"use_resolution_binning": False, "clean_caption": False, "enable_prompt_rewrite": False, "use_pe": False}
"""Arguments of calls, where a pipeline has them, without which pictures have another size, need other packages, or
are of a prompt that a language model has written anew."""
MOST_CALLS = 2
"""Calls of a step that are told apart."""
Key: TypeAlias = str | int
"""An argument of a block, by name or position."""
Element: TypeAlias = int | None
"""An element of a block's output; None for an output of one tensor."""
GUIDANCE: dict[tuple[int, int, tuple[int, int]], Guidance] = {
    (1, 1, (0, 0)): "none",
    (2, 1, (0, 1)): "rows",
    (2, 1, (0, 0)): "rows, conditional first",
    (1, 2, (0, 0)): "calls",
}
"""Rows of a call, calls of a step, and the call and row that follow the prompt, to how the pipeline is guided."""


class Layout(NamedTuple):
    """What a dry trace finds.

    Attributes:
        blocks: the lists of blocks that hold the picture, in the order in which they run.
        guidance: how the pipeline is guided; "none" too if its network takes the guidance as a number.
        width: of a token.
        grid: rows and columns of tokens.
    """

    blocks: tuple[Blocks, ...]
    guidance: Guidance
    width: int
    grid: tuple[int, int]


@dataclass
class ListSeen:
    """What the blocks of one list met in one run.

    Attributes:
        blocks: the list.
        calls: of the last block.
        first: the inputs of the first block, in the first calls.
        last: the elements of the last block's output, in the first calls.
        shapes: of the inputs of each block in the first call.
        links: the arguments of blocks that are what the block before put out, with the element; None for one block.
        before: the elements that the block before put out, in the first call.
    """

    blocks: nn.ModuleList
    calls: int = 0
    first: list[dict[Key, Tensor]] = field(default_factory=list)
    last: list[dict[Element, Tensor]] = field(default_factory=list)
    shapes: list[dict[Key, torch.Size]] = field(default_factory=list)
    links: set[tuple[Key, Element]] | None = None
    before: dict[Element, Tensor] = field(default_factory=dict)

    def enter(self, number: int, inputs: Mapping[Any, Any]) -> None:
        """Note the inputs of a block."""
        tensors = {key: value for key, value in inputs.items() if getattr(value, "ndim", 0) == 3}
        if number == 0 and len(self.first) < MOST_CALLS:
            self.first.append({key: value.clone() for key, value in tensors.items()})
        if number < len(self.shapes):
            return
        self.shapes.append({key: value.shape for key, value in tensors.items()})
        if number:
            links = {(k, e) for k, v in tensors.items() for e, put_out in self.before.items() if _equal(v, put_out)}
            self.links = links if self.links is None else self.links & links

    def leave(self, number: int, output: Any) -> None:
        """Note the output of a block."""
        elements = dict(enumerate(output)) if isinstance(output, tuple | list) else {None: output}
        tensors = {element: value for element, value in elements.items() if getattr(value, "ndim", 0) == 3}
        is_last = number + 1 == len(self.blocks)
        self.calls += is_last
        self.before = {} if is_last or self.calls else tensors
        if is_last and len(self.last) < MOST_CALLS:
            self.last.append({element: value.clone() for element, value in tensors.items()})

    def whole_blocks(self, picture: Key) -> int:
        """The number of blocks before the first that also takes an earlier block's picture, and so has no update."""
        shape = self.shapes[0][picture]
        for number in range(len(self.blocks)):
            if any(s == shape and key not in self.shapes[0] for key, s in self.shapes[number].items()):
                return number
        return len(self.blocks)


class Trial:
    """The short runs of a pipeline.

    Args:
        pipeline: a loaded pipeline.
        denoiser: name of its component with the blocks.
        size: side of the pictures, pixels.
        arguments: further ones of the pipeline's call.
    """

    def __init__(self, pipeline: Any, denoiser: str, size: int, arguments: Mapping[str, Any]) -> None:
        for part in (denoiser, "vae", "scheduler"):
            if getattr(pipeline, part, None) is None:
                raise unclear(pipeline, f"it has no component {part!r}")
        self.pipeline, self.denoiser, self.size = pipeline, getattr(pipeline, denoiser), size
        self.arguments = plain_arguments(pipeline) | dict(arguments)

    def run(self, prompt: str, seed: int) -> Tensor:
        """Make a picture; the latents ``[..., height, width]`` that the autoencoder decodes."""
        import torch

        decode, own, latents = self.pipeline.vae.decode, vars(self.pipeline.vae).get("decode"), []

        def keeping(z: Tensor, *args: Any, **kwargs: Any) -> Any:
            latents.append(z)
            return decode(z, *args, **kwargs)

        self.pipeline.vae.decode = keeping
        try:
            with torch.no_grad(), without_bars(self.pipeline):
                pictures = self.pipeline(
                    prompt=prompt,
                    num_inference_steps=STEPS,
                    height=self.size,
                    width=self.size,
                    generator=[torch.Generator("cpu").manual_seed(seed)],
                    output_type="pt",
                    **self.arguments,
                ).images
        except UserError:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise unclear(self.pipeline, f"its call with a prompt fails ({type(error).__name__}: {reason})") from error
        finally:
            del self.pipeline.vae.decode
            if own is not None:
                self.pipeline.vae.decode = own
        if tuple(getattr(pictures, "shape", ())) != (1, 3, self.size, self.size) or len(latents) != 1:
            what = list(getattr(pictures, "shape", [type(pictures).__name__]))
            raise unclear(self.pipeline, f"its call returns {what} for a picture of {self.size} px")
        return latents[0]

    def watched(self, prompt: str, seed: int) -> tuple[dict[str, ListSeen], Tensor]:
        """List to what its blocks met in a run, in the order in which they run; and the run's latents."""
        import torch

        seen: dict[str, ListSeen] = {}
        lists = {n: m for n, m in self.denoiser.named_children() if isinstance(m, torch.nn.ModuleList) and len(m)}
        with ExitStack() as hooks:
            for name, blocks in lists.items():
                for number, block in enumerate(blocks):

                    def before(_: Any, args: Any, kwargs: Any, n: str = name, at: int = number) -> None:
                        seen.setdefault(n, ListSeen(lists[n])).enter(at, {**dict(enumerate(args)), **kwargs})

                    def after(_: Any, args: Any, output: Any, n: str = name, at: int = number) -> None:
                        seen[n].leave(at, output)

                    hooks.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
                    hooks.callback(block.register_forward_hook(after).remove)
            return seen, self.run(prompt, seed)

    def edited(self, block: nn.Module, call: int, edit: Callable[[Any], Any]) -> Tensor:
        """The latents of a run in which one call of a block puts out something else."""
        calls = 0

        def hook(module: Any, args: Any, output: Any) -> Any:
            nonlocal calls
            calls += 1
            return edit(output) if calls == call + 1 else output

        handle = block.register_forward_hook(hook)
        try:
            return self.run(PROMPT, SEED)
        finally:
            handle.remove()


@contextmanager
def without_bars(pipeline: Any) -> Iterator[None]:
    """Switch off a pipeline's progress bars inside a ``with`` statement."""
    own = vars(pipeline).get("_progress_bar_config")
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if own is None:
            del pipeline._progress_bar_config
        else:
            pipeline.set_progress_bar_config(**own)


def plain_arguments(pipeline: Any) -> dict[str, Any]:
    """Those of :data:`PLAIN` that a pipeline's call has."""
    known = signature(type(pipeline).__call__).parameters
    return {name: value for name, value in PLAIN.items() if name in known}


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def dry_trace(pipeline: Any, denoiser: str, size: int, arguments: Mapping[str, Any]) -> Layout:
    """The layout of a pipeline, found by five short runs.

    Args:
        pipeline: a loaded pipeline, which stays as it is.
        denoiser: name of its component with the blocks.
        size: side of the pictures, pixels.
        arguments: further ones of the pipeline's call, as its guidance.

    Raises:
        UserError: if the pipeline's call fails, or what it shows is not conclusive.
    """
    trial = Trial(pipeline, denoiser, size, arguments)
    plain, latents = trial.watched(PROMPT, SEED)
    (prompted, _), (seeded, _) = trial.watched(OTHER_PROMPT, SEED), trial.watched(PROMPT, SEED + 1)
    found: dict[str, Blocks] = {}
    picture: Tensor | None = None
    for name, own in plain.items():
        at = _picture_at(pipeline, own, seeded[name], picture)
        if at is not None:
            found[name] = _described(pipeline, name, own, *at)
            picture = _tokens(own.last[0][found[name].output], found[name].place, at[2])
    if picture is None:
        raise unclear(pipeline, "no list of blocks holds the picture")
    last, count = [*found.values()][-1], picture.shape[1]
    own, rows = plain[last.path], len(picture)
    calls = own.calls // STEPS
    outputs = [
        [_tokens(call[last.output], last.place, count) for call in each[last.path].last] for each in (plain, prompted)
    ]
    both = [*zip(*outputs, strict=True)][:calls]
    follow = [(c, r) for c, (one, other) in enumerate(both) for r in range(rows) if not _equal(one[r], other[r])]
    guidance = GUIDANCE.get((rows, calls, follow[0])) if len(follow) == 1 and own.calls == calls * STEPS else None
    if guidance is None:
        wrong = f"a step has {own.calls / STEPS:g} calls of {rows} rows, of which {len(follow)} follow the prompt"
        raise unclear(pipeline, wrong)
    height, width = latents.shape[-2:]
    cells = isqrt(height * width // count)
    if cells**2 * count != height * width or height % cells or width % cells:
        raise unclear(pipeline, f"{count} tokens do not cover latents of {height} x {width} cells")
    layout = Layout(tuple(found.values()), guidance, picture.shape[2], (height // cells, width // cells))
    for token in {min(layout.grid[1] + 1, count - 1), count - 1}:
        edited = trial.edited(own.blocks[-1], (STEPS - 1) * calls, partial(_edited, layout, follow[0][1], token))
        moved = (edited - latents).abs().float().flatten(0, -3).amax(0)
        cell = divmod(int(moved.argmax()), moved.shape[1])
        if not bool(moved.any()) or tuple(side // cells for side in cell) != divmod(token, layout.grid[1]):
            raise unclear(pipeline, f"an edit of the picture's token {token} acts at the cell {cell} of the latents")
    return layout


def _picture_at(pipeline: Any, own: ListSeen, seeded: ListSeen, before: Tensor | None) -> tuple[Key, Place, int] | None:
    """The argument of a list's first block with the picture, its place and number of tokens; None without a picture.

    Args:
        pipeline: for messages.
        own: what the list met.
        seeded: the same with another seed, which other latents follow.
        before: the picture that the list before put out, ``[rows, tokens, width]``.
    """
    inputs, others = own.first[0], seeded.first[0]
    changed = {key: value != others[key] for key, value in inputs.items() if value.shape == others[key].shape}
    changed = {key: differs for key, differs in changed.items() if bool(differs.any())}
    if not changed:
        return None
    if before is None:
        if len(changed) > 1:
            raise unclear(pipeline, f"the seed changes several arguments of the first block: {[*changed]}")
        [(key, differs)] = changed.items()
        tokens = differs.any(-1).any(0).nonzero().flatten().tolist()
        start, count, whole = tokens[0], len(tokens), differs.shape[1]
        if tokens[-1] - start + 1 != count:
            raise unclear(pipeline, "the picture's tokens are not in a row")
        places = [(key, start, count, whole)]
    else:
        count = before.shape[1]
        places = [
            (key, start, count, value.shape[1])
            for key, value in inputs.items()
            for start in dict.fromkeys((0, value.shape[1] - count))
            if start >= 0 and _equal(value[:, start : start + count], before)
        ]
    if len(places) != 1:
        raise unclear(pipeline, f"a list of blocks takes the picture of the list before at {len(places)} places")
    [(key, start, count, whole)] = places
    if start and start + count != whole:
        raise unclear(pipeline, f"the picture's tokens are {start} to {start + count - 1} of {whole}")
    return key, "alone" if count == whole else "last" if start else "first", count


def _described(pipeline: Any, name: str, own: ListSeen, picture: Key, place: Place, count: int) -> Blocks:
    """A list of blocks as entries describe it."""
    shape, links = own.shapes[0][picture], own.links
    if links is None:  # of one block alone
        links = {(picture, element) for element, value in own.last[0].items() if value.shape == shape}
    outputs = [element for key, element in links if key == picture]
    if len(outputs) != 1:
        raise unclear(pipeline, f"blocks of {name} do not take the picture as the block before puts it out")
    texts = [key for key, element in links if key != picture and element == 1 - (outputs[0] or 0)]
    number = own.whole_blocks(picture)
    return Blocks(
        name,
        name,
        lambda config: number,
        {},
        picture,
        outputs[0],
        place,
        text=texts[0] if texts and outputs[0] is not None else None,
        last_text=not texts or outputs[0] is None or 1 - outputs[0] in own.last[0],
    )


def _tokens(value: Tensor, place: Place, count: int) -> Tensor:
    return value[:, -count:] if place == "last" else value[:, :count]


def _edited(layout: Layout, row: int, token: int, output: Any) -> Any:
    """The output of the last block with another token of the picture in one row."""
    import torch

    last, count = layout.blocks[-1], layout.grid[0] * layout.grid[1]
    value = (output if last.output is None else output[last.output]).clone()
    picture = _tokens(value, last.place, count)
    delta = torch.linspace(-3, 3, layout.width, device=value.device) * picture.float().std()
    picture[row, token] += delta.to(value.dtype)
    return value if last.output is None else tuple(value if n == last.output else v for n, v in enumerate(output))


def unclear(pipeline: Any, why: str) -> UserError:
    """The error of a pipeline whose layout is not clear."""
    known = "give a pipeline of a class that 'riebench models' lists"
    return UserError(f"the dry trace of {type(pipeline).__name__} is not conclusive: {why}; {known}")
