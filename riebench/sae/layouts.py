"""The layouts of SAE files, and what the configurations in them state. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from riebench.util.errors import UserError

if TYPE_CHECKING:
    from riebench.sae.sae import SAE

CONFIG, SAELENS_CONFIG = "config.json", "cfg.json"
OVERCOMPLETE = "overcomplete"
"""The library that writes one ``.pt`` of any name."""


class Layout(NamedTuple):
    """The files of an SAE.

    Attributes:
        library: that writes it.
        weights: name of the file of weights.
        config: name of the configuration.
    """

    library: str
    weights: str
    config: str

    def config_file(self, folder: Path) -> Path:
        """The configuration of a folder: of a checkpoint the one beside it, else the one above."""
        beside = folder / Path(self.config).name
        return beside if beside.is_file() else folder / self.config


OURS = Layout("riebench", "state_dict.safetensors", CONFIG)
PUBLISHED = Layout("the published SAEs", "state_dict.pth", CONFIG)
SAELENS = Layout("SAELens", "sae_weights.safetensors", SAELENS_CONFIG)
LEARNED = Layout("dictionary_learning", "ae.pt", CONFIG)
SPARSIFY = Layout("sparsify", "sae.safetensors", SAELENS_CONFIG)
HUB = Layout("the hub's mixin", "model.safetensors", CONFIG)
LAYOUTS = (OURS, PUBLISHED, SAELENS, LEARNED, SPARSIFY, HUB)
OTHER_FILES = ("mean.pt",)
"""Files of weights that lie beside an SAE of the published layout and are no part of what it computes."""
CHECKPOINTS = "ae_*.pt"
"""Names of the files of dictionary_learning's checkpoints; their configuration is one folder above."""


def layouts_in(folder: Path) -> list[Layout]:
    """The layouts whose file of weights lies in a folder; of overcomplete's and of checkpoints, one for each file."""
    known = [layout for layout in LAYOUTS if (folder / layout.weights).is_file()]
    if known or not folder.is_dir():
        return known
    files = sorted(p for p in folder.iterdir() if p.suffix in (".pt", ".pth") and p.is_file())
    steps = [Layout(LEARNED.library, p.name, f"../{CONFIG}") for p in files if p.match(CHECKPOINTS)]
    return steps or [Layout(OVERCOMPLETE, p.name, CONFIG) for p in files if p.name not in OTHER_FILES]


def outer_files(folder: Path) -> list[Path]:
    """The files outside the folder of an SAE that decide how the SAE is read."""
    configs = {layout.config_file(folder) for layout in layouts_in(folder)}
    return [file for file in configs if file.parent != folder and file.is_file()]


def layouts_text() -> str:
    """The layouts that are read, for messages."""
    named = [f"{layout.config} and {layout.weights} ({layout.library})" for layout in LAYOUTS]
    return ", ".join([*named, f"one .pt ({OVERCOMPLETE})"])


def refuse_to_write_transcoder(sae: SAE) -> None:
    """Refuse to write a transcoder, which the layouts that are written cannot tell from an SAE.

    Raises:
        UserError: if it is one.
    """
    if sae.transcodes:
        raise UserError("transcoders are read, not written; keep the folder that it was read from")


def config_in(folder: Path, layout: Layout) -> dict[str, Any] | None:
    """The configuration of a layout as it stands in a folder; None where the file is not there.

    Raises:
        ValueError: if it is no object with keys.
    """
    try:
        config = json.loads(layout.config_file(folder).read_text())
    except FileNotFoundError:
        return None
    if not isinstance(config, dict):
        raise ValueError(f"{layout.config} is no object with keys")
    return config


def stated_config(folder: Path) -> dict[str, Any] | None:
    """What the configuration in an SAE folder states, ``k``, ``n_dirs_local`` and ``d_model`` by these names.

    None if the folder holds no SAE. Without a file of weights, a configuration counts if it states a size.
    """
    layouts = layouts_in(folder)
    for layout in layouts[:1] or (OURS, SAELENS):
        try:
            config = _with_size(config_in(folder, layout) or {})
        except (OSError, ValueError):
            config = {}
        if layouts or "n_dirs_local" in config:
            return config
    return None


def _with_size(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with ``k``, ``n_dirs_local`` and ``d_model``, under whatever names a library writes them."""
    inner, kwargs = _mapping(config, "trainer"), _mapping(config, "activation_fn_kwargs")
    d_in, factor = config.get("d_in"), config.get("expansion_factor")
    expanded = d_in * factor if isinstance(d_in, int) and isinstance(factor, int) else None  # sparsify
    size = (config.get("d_sae"), inner.get("dict_size"), config.get("num_latents") or None, expanded or None)
    k, width = (inner.get("k"), kwargs.get("k")), (config.get("d_in"), inner.get("activation_dim"))
    several = {"n_dirs_local": size, "k": k, "d_model": width}
    sized = {name: next(filter(None, values), None) for name, values in several.items()}
    if isinstance(sized["n_dirs_local"], int) and (config.get("architecture") == "abstopk" or config.get("signed")):
        sized["n_dirs_local"] *= 2  # a feature for each sign
    sized |= config
    return {name: value for name, value in sized.items() if value is not None}


def _mapping(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def hook_name(config: Mapping[str, Any]) -> str | None:
    """The module on whose values other libraries say that an SAE was trained; None where they do not."""
    stated = (
        _mapping(config, "metadata").get("hook_name_out"),  # of a transcoder, which is used where it writes
        config.get("hook_name_out"),
        _mapping(config, "metadata").get("hook_name"),  # SAELens 6
        config.get("hook_name"),  # SAELens before 6
        config.get("hook_point"),
        _mapping(config, "trainer").get("submodule_name"),  # dictionary_learning
    )
    return next((name for name in stated if isinstance(name, str) and name), None)
