"""The forward hooks of one batch: they add edits to the values at sites, keep values, and count their calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from riebench.models.sites import Batch, Edit, FromInput, Site, check_change, check_rows, input_of
from riebench.util.errors import PairError, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn


class WithSites(Protocol):
    """What hooks need of a :class:`riebench.models.model.Model`."""

    sites: Mapping[str, Site]
    modules: Mapping[str, nn.Module]

    def calls_a_step(self, site: str) -> int: ...

    def is_input(self, site: str) -> bool: ...

    def read(self, site: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor: ...

    def add(self, site: str, output: Any, delta: Tensor) -> Any: ...


class SiteHooks:
    """Hooks at the sites that a batch edits or captures, inside the ``with`` statement.

    Args:
        model: reads and adds values.
        batch: with its edits, and the sites whose values are captured.

    Attributes:
        values: captured site to its values ``[rows, steps, positions, width]``.
        calls: site to the number of its module's calls.
    """

    def __init__(self, model: WithSites, batch: Batch) -> None:
        self.model, self.batch = model, batch
        changes = [change for edit in batch.edits if edit.strength != 0 for change in edit.changes.items()]
        edited = {site for site, _ in changes}
        self._read = {input_of(site) for site, change in changes if isinstance(change, FromInput)}
        self._inputs: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}
        used = {*edited, *self._read, *batch.capture}
        self.calls = {site: 0 for site in model.sites if site in used}
        self._handles = ExitStack()

    def __enter__(self) -> SiteHooks:
        for site in self.calls:
            module, hook = self.model.modules[site], self._hook(site)
            if self.model.is_input(site):
                handle = module.register_forward_pre_hook(partial(_on_input, hook))
            else:
                handle = module.register_forward_hook(hook, with_kwargs=True)
            self._handles.callback(handle.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._handles.close()

    def check_calls(self) -> None:
        """Refuse a batch in which a site's module ran more or less often than steps need: edits or values are lacking.

        Raises:
            UserError: with the site and the likely causes.
        """
        for site, calls in self.calls.items():
            if calls != self.batch.steps * self.model.calls_a_step(site):
                raise self._miscounted(site, f"{calls} times")

    def _miscounted(self, site: str, times: str) -> UserError:
        causes = "another library may have compiled the network, cached its steps or replaced its functions"
        return UserError(f"the site {site} ran {times} in {self.batch.steps} steps; {causes}; undo that")

    def _hook(self, site: str) -> Callable[..., Any]:
        """The forward hook of a site's module: it adds the edits to the output, then keeps the values.

        Those of an input that changes need are kept for the same step of its module's output.
        """
        model, batch, each = self.model, self.batch, self.model.calls_a_step(site)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            step, call = divmod(self.calls[site], each)
            if step == batch.steps:
                raise self._miscounted(site, "more often")
            self.calls[site] += 1
            if call:  # of the unconditional half, or of the text
                return output
            if any(site in edit.changes and _is_on(edit, step) for edit in batch.edits):
                values = model.read(site, args, kwargs, output)
                check_rows(site, len(values), len(batch.prompts))
                inputs = self._inputs.get(input_of(site))
                output = model.add(site, output, _delta(site, values, inputs, batch.edits, step))
            if site in self._read or site in batch.capture:
                values = model.read(site, args, kwargs, output)
                check_rows(site, len(values), len(batch.prompts))
            if site in self._read:
                self._inputs[site] = values
            if site in batch.capture:
                if step == 0:
                    self.values[site] = values.new_empty(len(values), batch.steps, *values.shape[1:])
                self.values[site][:, step] = values
            return output

        return hook


def _on_input(hook: Callable[..., Any], module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook that gives a site's hook a module's input in the place of an output."""
    return hook(module, (), {}, args[0]), *args[1:]


def _delta(site: str, values: Tensor, inputs: Tensor | None, edits: Sequence[Edit], step: int) -> Tensor:
    """What the edits add to the values ``[rows, positions, width]`` of a site in one step.

    Args:
        site: the site.
        values: at the site.
        inputs: at the input of its module, for changes that are :class:`FromInput`.
        edits: one a row.
        step: its number.
    """
    delta = values.new_zeros(values.shape)
    for row, edit in enumerate(edits):
        change = edit.changes.get(site)
        if change is None or not _is_on(edit, step):
            continue
        if callable(change):
            now = values[row].float().clone()
            if isinstance(change, FromInput):
                assert inputs is not None
                result = change(inputs[row].float().clone(), now, step)
            else:
                result = change(now, step)
            check_change(site, result, values[row].shape, values.device)
            delta[row] = edit.strength * result
        else:
            if change.ndim > 1 and change.shape[1] != values.shape[1]:
                wrong = f"of {change.shape[1]} positions, expected {values.shape[1]}, the tokens of the text"
                raise PairError(f"the change at {site} is {wrong}", where="method")
            delta[row] = edit.strength * (change[step] if change.ndim > 1 else change)
    return delta


def _is_on(edit: Edit, step: int) -> bool:
    """Whether an edit adds anything in a step."""
    return edit.strength != 0 and (edit.on_steps is None or step in edit.on_steps)
