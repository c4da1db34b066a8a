"""What forward hooks do at the sites of a model while it generates: add edits and capture values. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from riebench.models.sites import Batch, Edit, Site
from riebench.util.errors import PairError, UserError, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


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
        if not callable(change):
            _check_change(site, change, (steps, sites[site].positions, sites[site].width), device)


def site_hook(
    site: str,
    batch: Batch,
    read: Callable[[str, tuple[Any, ...], Mapping[str, Any], Any], Tensor],
    add: Callable[[str, Any, Tensor], Any],
    captured: dict[str, Tensor],
) -> Callable[..., Any]:
    """The forward hook of a site's module: it adds the edits to the output, then keeps the values; one call, one step.

    Args:
        site: whose module has the hook.
        batch: with its edits, and the sites whose values are captured.
        read: see :meth:`riebench.models.model.Model.read`.
        add: see :meth:`riebench.models.model.Model.add`.
        captured: gets the values ``[rows, steps, positions, width]`` of the site.
    """
    step = -1

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        nonlocal step
        step += 1
        if any(site in edit.changes and _is_on(edit, step) for edit in batch.edits):
            output = add(site, output, _delta(site, read(site, args, kwargs, output), batch.edits, step))
        if site in batch.capture:
            values = read(site, args, kwargs, output)
            if step == 0:
                captured[site] = values.new_empty(len(values), batch.steps, *values.shape[1:])
            captured[site][:, step] = values
        return output

    return hook


def _delta(site: str, values: Tensor, edits: Sequence[Edit], step: int) -> Tensor:
    """What the edits add to the values ``[rows, positions, width]`` of a site in one step."""
    delta = values.new_zeros(values.shape)
    for row, edit in enumerate(edits):
        change = edit.changes.get(site)
        if change is None or not _is_on(edit, step):
            continue
        if callable(change):
            result = change(values[row].float().clone(), step)
            _check_change(site, result, values[row].shape, values.device)
            delta[row] = edit.strength * result
        else:
            delta[row] = edit.strength * change[step]
    return delta


def _is_on(edit: Edit, step: int) -> bool:
    """Whether an edit adds anything in a step."""
    return edit.strength != 0 and (edit.on_steps is None or step in edit.on_steps)


def _check_change(site: str, change: Any, shape: Sequence[int], device: torch.device) -> None:
    """Refuse a change that is not a dense, real, finite tensor of a shape, on the model's device.

    Raises:
        PairError: if it is not.
    """
    import torch

    if not isinstance(change, torch.Tensor):
        wrong, expected = f"a {type(change).__name__}", "a tensor"
    elif change.is_complex() or change.layout != torch.strided:
        wrong, expected = f"a tensor of {change.dtype if change.is_complex() else change.layout}", "dense real numbers"
    elif change.shape != torch.Size(shape):
        wrong, expected = f"of the shape {list(change.shape)}", f"{list(shape)}"
    elif change.device.type != device.type:
        wrong, expected = f"on {change.device}", f"one on {device}"
    elif not bool(change.isfinite().all()):
        wrong, expected = "not finite", "finite numbers"
    else:
        return
    raise PairError(f"the change at {site} is {wrong}, expected {expected}", where="method")
