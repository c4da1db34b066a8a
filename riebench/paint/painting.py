"""From a state to its picture: the function that the page, the command and the copied Python code share."""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riebench.features.feature_index import check_feature
from riebench.masks import MaskRules, Region, to_grid
from riebench.masks.region import Mask
from riebench.models.loaded_state import sae_mark
from riebench.models.model import Model
from riebench.models.sites import Edit, Run, refuse_text
from riebench.paint.state import BrushMask, Layer, State
from riebench.sae.folders import sae_fingerprint
from riebench.util.errors import UserError, unknown

log = logging.getLogger(__name__)


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
    model.stamp()  # drops what the model keeps if it has changed since the last picture
    with model.unwatched():
        check_fits(model, state)
        changes = changes_of(model, state)
        edits = [Edit(changes)] if changes else []
        [run] = model.generate([state.prompt], [state.seed], state.steps, edits=edits, capture=capture)
    return run


def why_unchanged(model: Model, state: State) -> list[str]:
    """The layers of a state that change nothing, each with the reason, and whether the others cancel each other.

    The state must fit the model.
    """
    with model.unwatched():
        reasons = {number: _idle(model, layer) for number, layer in enumerate(state.layers, 1)}
        said = [f"layer {number} changes nothing: {reason}" for number, reason in reasons.items() if reason]
        if None in reasons.values() and not any(bool(change.any()) for change in changes_of(model, state).values()):
            said.append("the layers change nothing: they cancel each other")
    return said


def _idle(model: Model, layer: Layer) -> str | None:
    if layer.idle:
        return layer.idle
    if not grid_cells(model, layer.site, layer.mask).any():
        return "its mask covers no cell of the site's grid"
    direction = model.sae(layer.site).W_dec[layer.feature]
    return None if bool(direction.any()) else "its feature writes nothing, its decoder column is 0"


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
        UserError: if it names another model, other weights, other settings or another SAE, has more steps than the
            sampler allows, or has a layer whose site, feature, step interval or mask the model does not have.
    """
    if state.model != model.entry.name:
        raise UserError(f"the state is for the model {state.model!r}, not {model.entry.name!r}; load {state.model!r}")
    _check_made_with(model, state)
    if state.steps > model.entry.most_steps:
        raise UserError(f"steps is {state.steps}; expected 1 to {model.entry.most_steps}")
    for number, layer in enumerate(state.layers, 1):
        try:
            _check_layer(model, layer, state.steps)
        except UserError as error:
            raise UserError(f"layer {number}: {error}") from None


def sae_here(model: Model, site: str) -> str | None:
    """The fingerprint of a site's SAE; None for an SAE that is no folder but an object.

    Raises:
        UserError: if a file of the SAE cannot be read.
    """
    sae = model.saes[site]
    return _fingerprint_at(sae, sae_mark(sae)) if isinstance(sae, Path) else None


@lru_cache(maxsize=64)
def _fingerprint_at(folder: Path, mark: object) -> str:
    """The fingerprint of an SAE whose files have a mark, so that an unchanged SAE is not hashed for every picture."""
    return sae_fingerprint(folder)


def _check_made_with(model: Model, state: State) -> None:
    """Refuse a state whose picture other weights or other settings made; what it does not say is not compared."""
    if state.weights not in (None, model.fingerprint):
        raise UserError(
            f"the state was made with the weights {state.weights}, this model has {model.fingerprint}; load those, or "
            'take "weights" out of the state'
        )
    for name, value in (state.conditions or {}).items():
        if value != model.conditions.get(name):
            raise UserError(
                f"the state was made with {name} {value}, this model has {model.conditions.get(name)}; load the model "
                'with the same --set, or take "conditions" out of the state'
            )


def _check_layer(model: Model, layer: Layer, steps: int) -> None:
    if layer.site not in model.saes:
        raise unknown("SAE", layer.site, model.saes)
    refuse_text([layer.site], model.sites, "painting")
    here = sae_here(model, layer.site)
    if layer.sae is not None and here is None:
        log.warning("the SAE at %s is an object in Python: the state's fingerprint is not compared", layer.site)
    elif layer.sae not in (None, here):
        raise UserError(
            f"it was made with another SAE at {layer.site} (fingerprint {layer.sae}, this one has {here}); give that "
            'SAE with --sae DIR, or take "sae" out of the layer'
        )
    check_feature(layer.feature, model.sae(layer.site).n_features, layer.site)
    if layer.steps is not None and layer.steps.last >= steps:
        raise UserError(f"its step interval ends at {layer.steps.last}; expected steps from 0 to {steps - 1}")
    size, (rows, columns) = (layer.mask.rows, layer.mask.columns), model.sites[layer.site].grid
    if size[0] < rows or size[1] < columns:
        raise UserError(f"its mask is {size[0]} x {size[1]}; expected {rows} x {columns}, the grid, or a finer one")
