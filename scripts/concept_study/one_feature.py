"""``sae-feature`` with SAEs of a folder, so that one run compares kinds of SAE on the same runs of contrasts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

import riebench_baselines.sae_feature
from riebench.methods import Observed, Plan, method
from riebench.sae.folders import find_saes, folder_names
from riebench.sae.sae import SAE
from riebench.sae.store import load_sae
from riebench.settings.settings import SaeSettings
from riebench_baselines.sae_feature import SingleFeature

FOLDER = "CONCEPT_STUDY_SAES"
"""Variable of the environment with the folder of the kinds of SAE, which no record depends on."""
Kind = Annotated[str, Field(description="Folder of the SAEs, among those of the study.")]


@method("one-feature")
class OneFeature(SingleFeature):
    """Adds the one feature of a kind of SAE that detects the concept best."""

    kind: Kind = "trained"
    name = "one-feature"

    @property
    def files(self) -> list[str]:
        """What its numbers also depend on: the code that chooses, and the SAEs."""
        weights = [str(file) for file in sorted(self.folder.rglob("*.safetensors"))]
        return [*super().files, str(riebench_baselines.sae_feature.__file__), *weights]

    @property
    def folder(self) -> Path:
        """The folder of the SAEs."""
        return Path(os.environ[FOLDER]) / self.kind

    def plan(self, seen: Observed) -> Plan:
        saes = seen.once(("SAEs of a kind", self.kind, seen.sites), lambda: self.load(seen), for_all_pairs=True)
        return super().plan(replace(seen, saes=saes))

    def load(self, seen: Observed) -> Mapping[str, SAE]:
        """Site to its SAE."""
        folders = find_saes(self.folder, {site: folder_names(site) for site in seen.sites}, SaeSettings())
        return {site: load_sae(folder).requires_grad_(False) for site, folder in folders.items()}
