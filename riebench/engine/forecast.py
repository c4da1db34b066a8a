"""What a run will take, before it is started: settings, passes of the model, memory, time. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from riebench.engine.conditions import Condition
from riebench.engine.request import Request
from riebench.methods.registry import find
from riebench.models.entries import entry_named
from riebench.models.model import ModelEntry
from riebench.models.sites import neuron_sites
from riebench.settings.lpips_search import TYPICAL_RUNS
from riebench.util.files import files_under
from riebench.util.progress import timings
from riebench.weights import find_parts

INSTRUMENT_WEIGHTS = 0.17e9 + 0.22e9 + 0.43e9
"""Of Grounding DINO, SAM 2.1 and CLIP; they are held in float32."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Forecast:
    """The plan of a run.

    Attributes:
        settings: of each pair.
        searched: settings of each pair that a search will add, about.
        pairs: number of pairs.
        forwards: passes of one picture through the denoiser, with everything that is common done once; with a search,
            about.
        plain: the same if each setting ran base, source and edited run anew.
        memory: bytes, about; None for a model whose size is not known, as the embedded one.
        seconds: by device on which these weights were run before, of the same size and type; empty if they never were.
    """

    settings: int
    searched: int
    pairs: int
    forwards: int
    plain: int
    memory: float | None
    seconds: dict[str, float]


def forecast(request: Request) -> Forecast:
    """Plan a run without loading any weights."""
    entry, model = entry_named(request.model), request.settings.model
    settings = sum(len(c.strengths) * len(c.on_steps) for c in request.conditions)
    searched = 0
    if search := request.at_lpips:
        searched = TYPICAL_RUNS * len(search.budgets) * sum(len(c.on_steps) for c in request.conditions)
    pairs = len(request.pair_ids)
    forwards, plain = (passes_of(request, pairs * (2 + each * (settings + searched))) for each in (1, 3))
    memory = None
    if entry.pipeline_parameters:
        size = BYTES[model.dtype]
        weights = entry.pipeline_parameters * size + INSTRUMENT_WEIGHTS * BYTES["float32"]
        values = max(_neuron_values(entry, c, request) for c in request.conditions) * request.steps
        rows = request.batch * entry.passes_a_step(request.settings)
        # Neurons are held three times: of base and source run, and in one plan.
        memory = weights + entry.row_bytes * rows * size / 4 + 3 * values * size
    seconds = {device: each * forwards for device, each in timings(timed_work(request)).items()}
    if model.device != "auto":
        seconds = {device: value for device, value in seconds.items() if device == model.device}
    return Forecast(settings, searched, pairs, forwards, plain, memory, seconds)


def passes_of(request: Request, pictures: int) -> int:
    """The passes of the denoiser that a number of pictures of a run take, both parts of a guided step counted."""
    return pictures * request.steps * entry_named(request.model).passes_a_step(request.settings)


def timed_work(request: Request) -> str:
    """A text that names what the time of a pass depends on, beside the device: model, weights, size, type, offload.

    Weights are told apart by their folder and its size in bytes; without weights the text is empty.
    """
    entry, model = entry_named(request.model), request.settings.model
    weights = "its own"
    if model.location is not None and not Path(model.location).is_dir():
        weights = f"{model.location} {model.revision or ''}"
    elif entry.parts:
        located = {part.part.name: part.path for part in find_parts(entry.parts, request.settings)}
        folder = located.get("model")
        if folder is None:
            return ""
        weights = f"{folder} {sum(file.stat().st_size for file in files_under(folder))}"
    return f"{entry.name}, weights {weights}, size {model.size or ''}, {model.dtype}, offload {model.offload}"


def _neuron_values(entry: ModelEntry, condition: Condition, request: Request) -> int:
    """Neurons of one step of one run that a condition has captured."""
    if not find(condition.method).needs_neurons:
        return 0
    sites = entry.sites(request.settings)
    neurons = [sites[name] for block in condition.sites for name in neuron_sites(sites, block)]
    return sum(site.width * site.positions for site in neurons)
