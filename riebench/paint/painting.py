"""From a state to its picture: the function that the page, the command and the copied Python code share."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riebench.features.feature_index import check_feature
from riebench.masks import MaskRules, Region, to_grid
from riebench.masks.region import Mask
from riebench.models.model import Model
from riebench.models.sites import Edit, Run
from riebench.paint.state import BrushMask, Layer, State
from riebench.util.errors import UserError, unknown


def picture(model: Model, state: State) -> NDArray[np.uint8]:
    """The picture ``[height, width, 3]`` of a state, the same on every call with the same model.

    Example::

        model = riebench.load("mini")
        image = picture(model, read_state("state.json"))

    Raises:
        UserError: if the state does not fit this model: see :func:`check_fits`.
        PairError: if the prompt is too long or the strengths make the picture infinite.
    """
    return painted_run(model, state).image


def painted_run(model: Model, state: State, capture: Collection[str] = ()) -> Run:
    """Generate the picture of a state and capture the values of some sites; raises as :func:`picture` does.

    The values include the changes of all layers.
    """
    check_fits(model, state)
    changes = changes_of(model, state)
    edits = [Edit(changes)] if changes else []
    [run] = model.generate([state.prompt], [state.seed], state.steps, edits=edits, capture=capture)
    return run


def changes_of(model: Model, state: State) -> dict[str, Tensor]:
    """Site to the change that the layers add, ``[steps, positions, width]``.

    A layer adds strength x unit x the feature's decoder column, at the positions of its mask and in its steps.
    """
    changes: dict[str, Tensor] = {}
    for layer in state.layers:
        if not layer.acts:
            continue
        site = model.sites[layer.site]
        cells = grid_cells(model, layer.site, layer.mask)
        if layer.site not in changes:
            changes[layer.site] = torch.zeros(state.steps, site.positions, site.width, device=model.device)
        here = torch.from_numpy(np.flatnonzero(cells)).to(model.device)
        first, last = (layer.steps.first, layer.steps.last) if layer.steps else (0, state.steps - 1)
        direction = model.sae(layer.site).W_dec[layer.feature]
        changes[layer.site][first : last + 1, here] += layer.strength * layer.unit * direction
    return changes


def grid_cells(model: Model, site: str, mask: BrushMask) -> Mask:
    """The cells of a site's grid ``[rows, columns]`` that a brush mask paints.

    A mask of the grid's size is used as it is. A finer mask is scaled to pixels and then to the grid as the masks of
    the benchmark are, with the published rules and the model's blur.
    """
    grid, cells = model.sites[site].grid, mask.cells()
    if cells.shape == grid or not cells.any():
        return cells if cells.shape == grid else np.zeros(grid, bool)
    pixels = np.arange(model.size)
    rows, columns = (pixels * side // model.size for side in cells.shape)
    wide = cells[rows[:, None], columns[None, :]]
    return to_grid(Region(wide[None]), *grid, MaskRules(blur_kernel=model.entry.blur_kernel))


def check_fits(model: Model, state: State) -> None:
    """Check that a state fits a model.

    Raises:
        UserError: if it names another model, has more steps than the sampler allows, or has a layer whose site,
            feature, step interval or mask the model does not have.
    """
    if state.model != model.entry.name:
        raise UserError(f"the state is for the model {state.model!r}, not {model.entry.name!r}; load {state.model!r}")
    if state.steps > model.entry.most_steps:
        raise UserError(f"steps is {state.steps}; expected 1 to {model.entry.most_steps}")
    for number, layer in enumerate(state.layers, 1):
        try:
            _check_layer(model, layer, state.steps)
        except UserError as error:
            raise UserError(f"layer {number}: {error}") from None


def _check_layer(model: Model, layer: Layer, steps: int) -> None:
    if layer.site not in model.saes:
        raise unknown("SAE", layer.site, model.saes)
    check_feature(layer.feature, model.sae(layer.site).n_features, layer.site)
    if layer.steps is not None and layer.steps.last >= steps:
        raise UserError(f"its step interval ends at {layer.steps.last}; expected steps from 0 to {steps - 1}")
    size, (rows, columns) = (layer.mask.rows, layer.mask.columns), model.sites[layer.site].grid
    if size[0] < rows or size[1] < columns:
        raise UserError(f"its mask is {size[0]} x {size[1]}; expected {rows} x {columns}, the grid, or a finer one")
