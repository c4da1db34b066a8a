"""Write a method: what it is given, what it hands back, and how it gets a name.

A method is a class with one function, ``plan(self, seen: Observed) -> Plan``. It is called once for each pair and set
of sites, and says what is to be *added* inside the model while the edited run is generated. The engine does the rest:
it multiplies the changes by each strength, batches, generates, scores and writes records.

What is seen
    :class:`Observed` holds one pair: its prompts, and the *base run* (original prompt) and the *source run* (edit
    prompt), generated from the same seed. For each of ``seen.sites``, the blocks to edit:

    ================================  ==============================================================================
    ``seen.base[site]``               the update of the block in the base run, ``[steps, positions, width]``
    ``seen.source[site]``             the same of the source run
    ``seen.base_masks[site]``         where the object is in the base image, boolean ``[positions]``, never empty
    ``seen.source_masks[site]``       where it is in the source image
    ``seen.codes(run, site)``         SAE codes ``[steps, positions, features]``; ``run`` is "base" or "source"
    ``seen.saes[site]``               the SAE, whose ``directions(codes, features)`` gives what some features write
    ``seen.neuron_sites``             sites of the neurons in these blocks; ``seen.base[site]`` holds their values
    ``seen.pictures[run]``            the picture of the base or the source run, uint8 ``[height, width, 3]``
    ``seen.regions[run]``             where its phrase was found, in pixels: boolean ``[height, width]``
    ``seen.generate(...)``            runs of other prompts, one after the other, with their values at some sites
    ================================  ==============================================================================

    Positions lie row by row on the picture. Sizes differ from model to model and from site to site: read them from the
    tensors. Other methods see the same tensors: change a clone. Draw at random from
    ``seen.generator()`` alone. ``seen.once(key, make)`` works something out once for a pair, and with
    ``for_all_pairs=True`` once for a run of the benchmark, as what is learnt from further runs. The SAE is there if the
    method passes ``needs_sae=True`` to the decorator, the neurons if it passes ``needs_neurons=True``.

What is handed back
    :class:`Plan` maps a site to the change that is added there at strength 1: values ``[steps, positions, width]``. A
    change that depends on the edited run itself is a function ``(now, step) -> delta`` instead: ``now`` holds the
    values that pass in that step, ``[positions, width]``, and ``delta`` has the same shape.
    ``Plan(prompt=...)`` generates from another prompt, and ``Plan(notes=...)`` keeps figures in the record.
    ``Plan(redo=0.5)`` begins from the finished base picture, noised, and does half of the steps again;
    ``Plan(picture=...)`` is the edited picture itself, uint8 ``[height, width, 3]``.

    Strength is not the method's business: it multiplies every change, that of a function too, the share of steps that
    are done again, and a picture's difference from the base picture. A change of the wrong shape or with NaN, a picture
    of another size, and any exception, becomes a failed record that names the method; the run goes on.

Options
    Fields of the class, with types: numbers, text or booleans. Their documentation is part of the type, and so are
    bounds: ``scale: Annotated[float, Field(gt=0, description="Factor on the shift.")] = 1.0`` (``Field`` is
    pydantic's). ``riebench methods NAME`` shows them, ``--option scale=2`` sets them, and they stand in every record,
    from which ``create(setting.method, setting.options)`` makes the method again. ``k`` is special: ``--k 20,40``
    tries several.

What it cannot do
    A method that cannot do every run may have ``check(self, pairs, steps)``, called before anything is loaded; it
    raises :class:`riebench.util.errors.UserError`. ``--method all`` then leaves it out. One that reads files gives
    their paths in a property ``files``, so that records are made again when the files change.

A name
    ``@method("mean-shift")`` makes the class a frozen dataclass with that name. ``--method my_file:MeanShift`` runs it
    from a file as it is; a package brings it along under its name with an entry point of the same name in the group
    ``riebench.methods``. ``riebench new-method NAME`` writes such a package.

A test
    ``riebench run --method my_file:MeanShift --block down.2.1 --limit 1`` takes seconds on mini, the model that comes
    with the package. ``plan`` itself needs no model: an ``Observed`` of small tensors will do.

Helpers: :func:`spread` lays values over a mask, :func:`rank` chooses the k that tell two runs apart, and
:func:`k_of_share` is a k that goes with the number of candidates. The files of ``baselines/`` are examples.
"""

from riebench.methods.choosing import k_of_share, rank, relative_score, spread
from riebench.methods.interface import Method, Observed, Plan
from riebench.methods.registry import MethodEntry, create, find, method, method_names
from riebench.models.sites import Change

__all__ = [
    "Change",
    "Method",
    "MethodEntry",
    "Observed",
    "Plan",
    "create",
    "find",
    "k_of_share",
    "method",
    "method_names",
    "rank",
    "relative_score",
    "spread",
]
