"""The sites of a model that an SAE reads and writes. Importing it needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riebench.models.sites import Change, FromInput, Site, block_of, input_of
from riebench.util.errors import UserError, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from riebench.sae.sae import SAE


def read_site(site: str, sae: Any) -> str:
    """The site whose values the SAE of a site encodes: of a transcoder the input of the MLP, else the site itself."""
    return input_of(site) if getattr(sae, "transcodes", False) else site


def change_by_codes(sae: Any, function: Callable[[Tensor, Tensor, int], Tensor]) -> Change:
    """A change at the site of an SAE that a function computes in each step.

    Args:
        sae: of the site.
        function: of the values that the SAE encodes and those at its site, both ``[positions, width]``, and of the
            step's number; it returns ``[positions, width]``.
    """
    if getattr(sae, "transcodes", False):
        return FromInput(function)
    return lambda values, step: function(values, values, step)


def given_sae(site: str, sae: Any, sites: Mapping[str, Site], device: torch.device) -> Path | SAE:
    """The folder of an SAE that a user gives for a site, or the SAE on a device.

    Args:
        site: one of the sites.
        sae: the folder of one, one of riebench's, or any object with ``encode`` and ``decode``.
        sites: those of the model, by name.
        device: where the SAE is used.

    Raises:
        UserError: if there is no such site or folder, or the object can be no SAE.
    """
    from riebench.sae.folders import only_sae, site_of_path, warn_of_name, warn_of_site
    from riebench.sae.given import as_sae, trained_on
    from riebench.sae.layouts import hook_name, stated_config

    if site not in sites:
        raise unknown("site", site, sites)
    folder = only_sae(Path(sae)) if isinstance(sae, str | Path) else None
    trained = trained_on(sae) if folder is None else hook_name(stated_config(folder) or {})
    if trained in sites and trained != site:
        warn_of_site(folder or type(sae).__name__, site, str(trained))
    if folder is not None:
        named = site_of_path(folder, sites)
        if named is not None and block_of(named) != block_of(site):
            warn_of_name(folder, site, named)
        return folder
    placed = sae.to(device) if callable(getattr(sae, "to", None)) else sae
    return as_sae(placed, sites[site].width, f"the SAE of {site}")


def placed_sae(site: str, sae: Any, sites: Mapping[str, Site], device: torch.device) -> SAE:
    """The SAE of a site on a device; arguments and errors as of :func:`given_sae`.

    Raises:
        UserError: also if it cannot be read, or does not fit the site.
    """
    from riebench.sae.store import load_sae

    own = given_sae(site, sae, sites, device)
    placed = (load_sae(own) if isinstance(own, Path) else own).to(device)
    check_fits(placed, site, sites)
    return placed


def check_fits(sae: SAE, site: str, sites: Mapping[str, Site]) -> None:
    """See that an SAE is as wide as the values at a site, and of no other site or operation of the model.

    Args:
        sae: the SAE.
        site: where it is used.
        sites: of the model.

    Raises:
        UserError: if it does not fit.
    """
    width, mend = sites[site].width, "give SAEs of this model with --set sae.folder=DIR"
    if sae.d_model != width:
        raise UserError(f"the SAE of {site} is {sae.d_model} wide, the values there are {width} wide; {mend}")
    if sae.site in sites and sae.site != site:
        raise UserError(f"the SAE given for {site} was trained at {sae.site}; give one of {site}")
    outputs = [name for name in sites if input_of(name) != name and input_of(name) in sites]
    inputs = [input_of(name) for name in outputs]
    if sae.of_input and site not in inputs:
        nearest = sorted(inputs, key=lambda name: (name != input_of(site), block_of(name) != block_of(site)))
        example = f", as {nearest[0]} (folder {nearest[0].replace('/', '-')})" if inputs else ""
        raise UserError(
            f"the SAE of {site} was trained on what a module is given (of_input, or io of buffer, in its "
            f"configuration); expected the site of an MLP's input{example}; remove the key if it was trained on the "
            f"values at {site}"
        )
    if sae.transcodes and site not in outputs:
        expected = f"the output of a whole MLP, as {outputs[0]}" if outputs else "that of a model with such sites"
        raise UserError(
            f"the SAE of {site} is a transcoder, which reads an MLP's input and writes to its output; expected a site "
            f"that is {expected}"
        )
