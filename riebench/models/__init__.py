"""Models as named sites: load a model, generate pictures, read values and add to them. Importing it needs no torch."""

from riebench.models.entries import entry_named, load, model_names
from riebench.models.model import Model, ModelEntry
from riebench.models.sites import Batch, Change, Edit, Run, Site, Start, Values, neuron_sites

__all__ = [
    "Batch",
    "Change",
    "Edit",
    "Model",
    "ModelEntry",
    "Run",
    "Site",
    "Start",
    "Values",
    "entry_named",
    "load",
    "model_names",
    "neuron_sites",
]
