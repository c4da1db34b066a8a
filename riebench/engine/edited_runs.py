"""The edited pictures of one pair: plans of its conditions, and their edited runs in batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from riebench.engine.learnt_files import LearntFiles
from riebench.engine.pair_task import PairSetting, PairTask
from riebench.engine.recorder import Recorder
from riebench.masks.region import DELETE_OBJECT
from riebench.methods import Observed, Plan
from riebench.methods.interface import check_plan
from riebench.metrics.seen import Image
from riebench.models import Edit, Model, Start
from riebench.models.sites import FromInput
from riebench.records import ACTS, INSIDE, OUTSIDE
from riebench.settings.protocols import PROTOCOLS
from riebench.util.batches import is_out_of_memory
from riebench.util.errors import PairError, UserError, without_frames
from riebench.util.tensor_bits import Untouched


@dataclass
class EditedPicture:
    """The edited picture of a setting, how it is made, or why it failed.

    Attributes:
        setting: the setting.
        prompt: of the edited run.
        start: where the edited run begins, if not with noise.
        edit: to generate; None if nothing is generated, or the picture is.
        notes: of the plan, for the record.
        image: the picture; None until it is generated, and after an error.
        error: why there is no picture.
    """

    setting: PairSetting
    prompt: str = ""
    start: Start | None = None
    edit: Edit | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    image: Image | None = None
    error: Exception | None = None


class EditedRuns:
    """The edited runs of one pair.

    Args:
        task: the pair and its settings.
        recorder: of the run.
        model: that generates.
        seen: what methods see of the pair; the sites are those of each condition.
        base: the picture of the base run.
        source: the picture of the source run.
        timed: a stage of the work by its name, as a ``with`` statement.
        learnt: keeps what methods learn.
    """

    def __init__(
        self,
        task: PairTask,
        recorder: Recorder,
        model: Model,
        seen: Observed,
        base: Image,
        source: Image,
        timed: Callable[[str], AbstractContextManager[None]],
        learnt: LearntFiles,
    ) -> None:
        self.task, self.recorder, self.request, self.model = task, recorder, recorder.request, model
        self.seen, self.base, self.source, self._timed, self._learnt = seen, base, source, timed, learnt

    def pictures(
        self, settings: Sequence[PairSetting], plans: dict[int, Plan | Exception] | None = None
    ) -> list[EditedPicture]:
        """The edited picture of every setting.

        A condition is planned when its turn in a batch comes, so that no more plans are in memory than a batch needs.
        Conditions that begin with the same site are neighbours, so that a batch shares all that the model does before
        this site.

        Args:
            settings: of the pair.
            plans: condition to plan; missing plans are made and added. None keeps no plan.

        Raises:
            PairError: if a method changes tensors that all methods share.
        """
        pictures = [EditedPicture(setting) for setting in settings]
        waiting: dict[tuple[str, Start | None], list[EditedPicture]] = {}
        for number in self.in_order({setting.condition for setting in settings}):
            plan = plans.get(number) if plans else None
            if plan is None:
                with self._timed("plan"):
                    plan = self._plan(number)
            if plans is not None:
                plans[number] = plan
            for picture in pictures:
                if picture.setting.condition == number and self._prepare(picture, plan):
                    waiting.setdefault((picture.prompt, picture.start), []).append(picture)
            for queue in waiting.values():
                while len(queue) >= self.model.batch:
                    self._generate(queue[: self.model.batch])
                    del queue[: self.model.batch]
        for queue in waiting.values():
            self._generate(queue)
        return pictures

    def in_order(self, conditions: Collection[int]) -> list[int]:
        """Conditions in the order in which the first of their sites run."""
        order = list(self.model.sites)
        firsts = {number: self.request.conditions[number].sites[:1] for number in conditions}
        return sorted(firsts, key=lambda number: (order.index(firsts[number][0]) if firsts[number] else -1, number))

    def _plan(self, number: int) -> Plan | Exception:
        """The plan of a condition, or the error that its method raised.

        Raises:
            PairError: if the method changes tensors that all methods share, so that the others cannot be trusted.
        """
        method, entry, name, *_ = self.recorder.methods[number]
        deletes = self.task.pair.editing_type_id == DELETE_OBJECT
        if deletes and not PROTOCOLS[self.request.protocol].delete_only_adds and entry.values(method).get("only_add"):
            method = replace(method, only_add=False)
        sites, on_disk = self.request.conditions[number].sites, self._learnt.of_condition(number)
        seen, shared = replace(self.seen, sites=sites, _on_disk=on_disk), _shared(self.seen)
        plan: Plan | Exception
        try:
            with torch.no_grad(), _naming(name):
                plan = method.plan(seen)
                check_plan(plan, seen)
        except (PairError, UserError) as error:
            plan = without_frames(error)
        except Exception as error:  # noqa: BLE001 - a user's method may raise anything
            plan = PairError(f"the method {name!r} raised {type(error).__name__}: {error}", "method")
        if shared.changed():
            self.model.forget_saes()  # the next pair reads their weights again
            changes = "changes the values, masks, pictures or SAEs that all methods share; let it change a clone"
            raise PairError(f"the method {name!r} {changes}", "method")
        return plan

    def _prepare(self, picture: EditedPicture, plan: Plan | Exception) -> bool:
        """Fill in what a plan says of an edited picture; tells whether the picture is still to be generated."""
        if isinstance(plan, Exception):
            picture.error = plan
            return False
        setting, steps, pair = picture.setting.setting, self.request.steps, self.task.pair
        base, source = self.base, self.source
        picture.prompt = pair.base_prompt if plan.prompt is None else plan.prompt
        picture.notes = {ACTS: INSIDE if plan.changes else OUTSIDE, **plan.notes}
        begin = plan.first_step(setting.strength, steps) if plan.redo else 0
        made = {pair.edit_prompt: source, pair.base_prompt: base}
        if plan.picture is not None:
            picture.image = plan.blended(base, setting.strength)
        elif begin == steps:  # no step is done again
            picture.image = base
        # With nothing to add, the edited run is one that was made already.
        elif not begin and picture.prompt in made and (setting.strength == 0 or not plan.changes):
            picture.image = made[picture.prompt]
        else:
            picture.start = Start(pair.base_prompt, begin) if begin else None
            picture.edit = Edit(plan.changes, setting.strength, setting.on_steps)
        return picture.image is None

    def _generate(self, pictures: Sequence[EditedPicture]) -> None:
        """Generate pictures in one batch; if one of them fails, one by one, so that the others do not fail with it."""
        if not pictures:
            return
        edits = [picture.edit for picture in pictures if picture.edit is not None]
        prompts, seeds = [picture.prompt for picture in pictures], [self.task.seed] * len(edits)
        name = self.recorder.methods[pictures[0].setting.condition].name
        fault: Exception | None = None
        try:
            with _naming(name), self._timed("edited runs"), _without_state(edits):
                start, steps = pictures[0].start, self.request.steps
                runs = self.model.generate(prompts, seeds, steps, edits=edits, start=start)
            for picture, run in zip(pictures, runs, strict=True):
                picture.image, picture.edit = run.image, None
        except Exception as error:  # noqa: BLE001 - changes may be functions of a user's method
            fault = without_frames(error)
        # Only here, where the tensors of the batch that failed are freed.
        if fault is None:
            return
        if len(pictures) == 1:
            pictures[0].error = fault
            return
        for picture in pictures:
            self._generate([picture])


def _shared(seen: Observed) -> Untouched:
    """What all methods share."""
    values = (seen.base, seen.source, seen.base_masks, seen.source_masks, seen.pictures, seen.regions)
    return Untouched(*values, seen._kept, seen._kept_for_all, [list(sae.parameters()) for sae in seen.saes.values()])


@contextmanager
def _without_state(edits: Sequence[Edit]) -> Iterator[None]:
    """Around runs whose changes may be functions.

    Raises:
        PairError: if what such a function holds has changed, so that its results depend on the other rows of its batch;
            for a fault beside memory in runs with functions, whose own text need not say what it is.
    """
    changes = [c for edit in edits for c in edit.changes.values() if callable(c)]
    functions = {id(c): c.function if isinstance(c, FromInput) else c for c in changes}.values()
    held = [Untouched(function, getattr(function, "__dict__", None)) for function in functions]
    try:
        yield
    except Exception as error:
        if not changes or isinstance(error, (PairError, UserError)) or is_out_of_memory(error):
            raise
        raised = f"its change, or the model around it, raised {type(error).__name__}: {error}"
        raise PairError(raised, "method") from error
    for function, before in zip(functions, held, strict=True):
        if before.changed():
            name = getattr(function, "__qualname__", type(function).__name__)
            wrong = f"the change {name} keeps something from call to call, and is called for several pictures in turn"
            raise PairError(f"{wrong}; let it depend on its values and step alone", "method")


@contextmanager
def _naming(method: str) -> Iterator[None]:
    """Around a method's code: its faults name the method, and ``sys.exit`` is one of them.

    Raises:
        PairError: naming the method.
    """
    name = f"the method {method!r}"
    try:
        yield
    except PairError as error:
        raise PairError(f"{name}: {error}", error.where) if error.where in ("method", "model") else error from None
    except SystemExit as error:
        raise PairError(f"{name} raised SystemExit: {error}", "method") from error
