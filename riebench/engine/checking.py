"""Check what a method hands back, and say by name whose fault it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from riebench.engine.arms import Arm
from riebench.util.errors import PairError
from riebench.lens import Addition, BlockInfo, Place
from riebench.methods import Observed, Plan


@contextmanager
def contained(arm: Arm) -> Iterator[None]:
    """Around a stranger's code: what would end the whole process, as ``sys.exit``, is a fault of the pair.

    Raises:
        PairError: naming the method.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):  # the former are records already, the latter is the user's
        raise
    except BaseException as error:
        raise _fault(arm, f"raised {type(error).__name__}: {error}".removesuffix(": ")) from error


def as_given(observed: Observed) -> list[dict[Any, tuple[int, int]]]:
    """Which tensors a method is given, and how often each was changed in place."""
    runs = (observed.base, observed.source)
    groups: list[Mapping[Any, Any]] = [observed.base_masks, observed.source_masks, observed._kept]
    groups += [group for run in runs for group in (run.inputs, run.updates, run.neurons)]
    return [{key: (id(v), v._version) for key, v in group.items() if isinstance(v, Tensor)} for group in groups]


def meddling(before: list[dict[Any, tuple[int, int]]], arm: Arm, observed: Observed) -> PairError | None:
    """The fault of a method that changed what it was given; more may have been worked out from it, and kept."""
    if all(then.items() <= now.items() for then, now in zip(before, as_given(observed), strict=True)):
        return None
    return _fault(arm, "changes the activations or masks that it is given, which others see too; change a clone")


def checked(plan: Any, arm: Arm, observed: Observed, steps: int, blocks: Mapping[str, BlockInfo]) -> Plan:
    """A method's plan, checked; additions that are functions check what they return when they are called.

    Args:
        plan: what the method returned.
        arm: whose plan it is.
        observed: what the method saw; additions must lie on the device of these activations.
        steps: denoising steps.
        blocks: every block of the model by name.

    Raises:
        PairError: naming the method, and the place where there is one: if it is no plan, adds at a place that is not
            of the arm's blocks, or if an addition is no tensor or function, has the wrong shape, is complex or sparse,
            lies on another device or is not finite, or a note is neither a number nor text.
    """
    if not isinstance(plan, Plan):
        raise _fault(arm, f"returned {type(plan).__name__}, expected a Plan")
    for part, found in (("additions", plan.additions), ("notes", plan.notes)):
        if not isinstance(found, Mapping):
            raise _fault(arm, f"returned a Plan whose {part} are {type(found).__name__}, expected a mapping")
    if not isinstance(plan.prompt, str | None):
        raise _fault(arm, f"returned a Plan whose prompt is {type(plan.prompt).__name__}, expected text")
    additions: dict[Place, Addition] = {}
    for place, addition in plan.additions.items():
        if not isinstance(place, Place):
            raise _fault(arm, f"adds at {place!r}, expected a Place, as Place({arm.blocks[0]!r})")
        layers = blocks[place.block].layers if place.block in arm.blocks else 0
        if not layers or (place.layer is not None and place.layer not in range(layers)):
            raise _fault(arm, f"adds at {place}; its blocks are {', '.join(arm.blocks)}")
        update = observed.base.updates[place.block]
        if callable(addition):
            additions[place] = _watched(addition, arm, place)
            continue
        _check(addition, arm, place, _shape(update, place, steps, blocks), update.device)
        additions[place] = addition
    for name, value in plan.notes.items():
        if not isinstance(name, str):
            raise _fault(arm, f"notes something under {name!r}, expected a name")
        if not isinstance(value, (int, float, str)):
            raise _fault(arm, f"notes {name!r} as {type(value).__name__}, expected a number or text")
        if not _is_unicode(f"{name}{value}"):
            raise _fault(arm, f"notes {name!r} as {value!r}, expected text in Unicode")
    return replace(plan, additions=additions)


def named(error: Exception, arm: Arm) -> Exception:
    """An error of an edited run, with the name of the method whose addition it is about."""
    if not isinstance(error, PairError) or error.where != "method" or repr(arm.name) in str(error):
        return error
    return PairError(f"the method {arm.name!r}: {error}", error.where)


def _shape(update: Tensor, place: Place, steps: int, blocks: Mapping[str, BlockInfo]) -> tuple[int, ...]:
    """The shape of an addition, from the update ``[steps, channels, height, width]`` of its block."""
    channels, height, width = update.shape[1:]
    if place.layer is None:
        return (steps, channels, height, width)
    return (steps, height * width, blocks[place.block].neurons)


def _watched(add: Callable[[Tensor, int], Tensor], arm: Arm, place: Place) -> Callable[[Tensor, int], Tensor]:
    def watched(passing: Tensor, step: int) -> Tensor:
        with contained(arm):
            addition = add(passing, step)
        _check(addition, arm, place, tuple(passing.shape), passing.device)
        return addition

    return watched


def _check(addition: Any, arm: Arm, place: Place, shape: tuple[int, ...], device: torch.device) -> None:
    if not isinstance(addition, Tensor):
        raise _fault(arm, f"adds a {type(addition).__name__} at {_said(place)}, expected a tensor")
    if addition.is_complex() or addition.layout != torch.strided:
        kind = str(addition.dtype if addition.is_complex() else addition.layout).removeprefix("torch.")
        raise _fault(arm, f"adds a {kind} tensor at {_said(place)}, expected dense real numbers")
    if addition.device != device:
        raise _fault(arm, f"adds a tensor on {addition.device} at {_said(place)}, expected one on {device}")
    if tuple(addition.shape) != shape:
        raise _fault(arm, f"adds the shape {list(addition.shape)} at {_said(place)}, expected {list(shape)}")
    if not bool(torch.isfinite(addition).all()):
        raise _fault(arm, f"adds values at {_said(place)} that are not finite")


def _is_unicode(text: str) -> bool:
    """Whether a file takes a text: Python's strings may hold halves of letters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _said(place: Place) -> str:
    return place.block if place.layer is None else f"{place.block}, neurons of layer {place.layer}"


def _fault(arm: Arm, said: str) -> PairError:
    return PairError(f"the method {arm.name!r} {said}", where="method")
