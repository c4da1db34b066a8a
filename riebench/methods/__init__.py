"""Write a method: its input, its result, its options and its name. ``README.md`` of this folder has examples.

A method is a class with one function, ``plan(self, seen: Observed) -> Plan``. The engine calls it once for each pair
and set of sites. The plan holds what is *added* inside the model while the edited run is generated; the engine
multiplies it by each strength, batches, generates, scores and writes records.

Input
    :class:`Observed` holds one pair: its prompts, and its *base run* (original prompt) and *source run* (edit prompt),
    which were generated from the same seed. For each of ``seen.sites``, the blocks to edit:

    ================================  ==============================================================================
    ``seen.base[site]``               updates of the block in the base run, ``[steps, positions, width]``
    ``seen.source[site]``             updates of the block in the source run
    ``seen.base_masks[site]``         mask of the object in the base picture, boolean ``[positions]``, never empty
    ``seen.source_masks[site]``       mask of the object in the source picture
    ``seen.codes(run, site)``         SAE codes ``[steps, positions, features]``; ``run`` is "base" or "source"
    ``seen.saes[site]``               the SAE; ``directions(codes, features)`` is the sum that some features write
    ``seen.neuron_sites``             sites of the neurons in these blocks; ``seen.base[site]`` holds their values
    ``seen.pictures[run]``            the picture of the base or the source run, uint8 ``[height, width, 3]``
    ``seen.regions[run]``             mask of its phrase in pixels, boolean ``[height, width]``
    ``seen.generate(...)``            further runs of other prompts, one by one, with their values at some sites
    ================================  ==============================================================================

    Positions are the cells of the site's grid, row by row. Sizes differ from model to model and from site to site: read
    them from the tensors. Other methods see the same tensors: change a clone. Draw random numbers from
    ``seen.generator()`` alone. ``seen.once(key, make)`` computes a value once for a pair; with ``for_all_pairs=True``
    once for a whole run, such as a direction learnt from further runs. SAEs are loaded for a method with
    ``needs_sae=True`` in its decorator, and neurons captured for one with ``needs_neurons=True``. An SAE may be a
    transcoder, whose codes are of the values at ``seen.read_site(site)``, if the decorator has
    ``takes_transcoders=True``.

Result
    :class:`Plan` maps a site to the change that is added there at strength 1, ``[steps, positions, width]``. A change
    that depends on the edited run itself is a function ``(now, step) -> delta``: ``now`` holds the values of this step,
    ``[positions, width]``, and ``delta`` has the same shape. It is called for each row of a batch in turn, whatever the
    strengths and the batch size, so it must depend on these two alone; a function that keeps something from call to
    call in a variable, an attribute, a list or a tensor is refused. A mapping may get new entries, as a cache does.
    ``Plan(prompt=...)`` generates from another prompt, and ``Plan(notes=...)`` keeps figures in the record.
    ``Plan(redo=0.5)`` starts from the finished base picture, noised, and does half of the steps again.
    ``Plan(picture=...)`` is the edited picture itself, uint8 ``[height, width, 3]``.

    The engine applies the strength: it multiplies every change, also that of a function, the share of steps that are
    done again, and a picture's difference from the base picture. A change of the wrong shape or with NaN, a picture of
    another size, or any exception becomes a failed record that names the method; the run goes on.

Options
    Options are the fields of the class, with types: numbers, text or booleans. A type may hold bounds and a
    description: ``scale: Annotated[float, Field(gt=0, description="Factor on the shift.")] = 1.0`` (``Field`` is
    pydantic's). ``riebench methods NAME`` shows the options, ``--option scale=2`` sets one. Every record keeps all
    options: ``create(setting.method, setting.options)`` makes the method again. ``--k 20,40`` runs a method that has
    the option ``k`` once for each value.

Refusing a run
    ``check(self, pairs, steps)`` is called before anything is loaded, if the class has it. It raises
    :class:`riebench.util.errors.UserError` for a run that the method cannot do; ``--method all`` then leaves the method
    out. ``acts_outside: ClassVar[bool] = True`` in the class says that it changes nothing inside the denoiser, and
    refuses ``on_steps``. A method that reads files gives their paths in a property ``files``, so that records are made
    again when the files change.

Name
    ``@method("mean-shift")`` makes the class a frozen dataclass and registers it under that name.
    ``--method my_file:MeanShift``, ``my_file.py:MeanShift`` or ``path/to/my_file.py:MeanShift`` runs it from a file. A
    package installs it under its name by an entry point of the same name in the group ``riebench.methods``;
    ``riebench new-method NAME`` writes such a package.

Test
    ``riebench run --method my_file:MeanShift --block down.2.1 --limit 1`` takes seconds on mini, the model that comes
    with the package. ``plan`` itself needs no model: an ``Observed`` of small tensors will do.

Helpers: :func:`spread` lays values over a mask, :func:`rank` chooses the k features that tell two runs apart, and
:func:`k_of_share` is a default k for any number of features.
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
