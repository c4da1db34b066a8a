"""Options that several commands share: those of a run, of models and their settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from riebench.cli.messages import is_quiet
from riebench.engine.run_options import OPTIONS, TYPES, RunOptions
from riebench.util.errors import UserError

Model = Annotated[str, typer.Option(help=OPTIONS["model"].help)]
Batch = Annotated[int, typer.Option(min=1, help=OPTIONS["batch"].help)]
Weights = Annotated[Path | None, typer.Option(help="Folder with the parts of a real model.")]
Command = Callable[..., Any]


class NameValue(NamedTuple):
    """The two sides of ``name=value``."""

    name: str
    value: str


def name_and_value(word: str) -> NameValue:
    """The two sides of ``name=value``."""
    name, sign, value = word.partition("=")
    if not sign or not name:
        raise UserError(f"{word!r} is no name=value; give both, as only_add=true or masker.box_threshold=0.3")
    return NameValue(name, value)


SETTINGS = {
    "weights": Weights,
    "device": Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: the best one.")],
    "dtype": Annotated[
        str | None, typer.Option(help="Type of the model's weights: float32 (as published), bfloat16 or float16.")
    ],
    "set": Annotated[
        list[NameValue] | None,
        typer.Option(
            parser=name_and_value,
            metavar="NAME=VALUE",
            help="Setting of model or instruments, see 'riebench settings'.",
        ),
    ],
}
"""The options that :func:`with_settings` adds, by the names of their flags."""


def with_settings(command: Command) -> Command:
    """A command whose parameter ``settings`` is filled from ``--weights``, ``--device``, ``--dtype`` and ``--set``."""

    def settings(values: Mapping[str, Any]) -> dict[str, Any]:
        named = {name: values[name] for name in SETTINGS if name != "set" and values[name] is not None}
        return named | _once("--set", values["set"] or ())

    parameters = [_parameter(name, annotation, None) for name, annotation in SETTINGS.items()]
    return _with_parameters(command, "settings", parameters, settings)


def with_run_options(*names: str) -> Callable[[Command], Command]:
    """A decorator for commands whose parameter ``options`` is filled from some of the options of a run.

    Args:
        names: of fields of :class:`RunOptions`; all that the command line can give unless named. ``settings`` stands
            for the options of :func:`with_settings`.
    """
    chosen = names or tuple(name for name, option in OPTIONS.items() if not option.python_only)
    flags = {OPTIONS[name].flag or name: name for name in chosen if name != "settings"}

    def options(values: Mapping[str, Any]) -> RunOptions:
        chosen_values = {name: _python_value(name, values[flag]) for flag, name in flags.items()}
        return RunOptions(**chosen_values, settings=values.get("settings") or None, quiet=is_quiet())

    parameters = [
        _parameter("settings", Mapping[str, Any], None) if name == "settings" else _run_parameter(name)
        for name in chosen
    ]

    def decorate(command: Command) -> Command:
        with_options = _with_parameters(command, "options", parameters, options)
        return with_settings(with_options) if "settings" in chosen else with_options

    return decorate


def _run_parameter(name: str) -> inspect.Parameter:
    """A field of :class:`RunOptions` as the parameter of a command."""
    option, flag = OPTIONS[name], OPTIONS[name].flag or name
    kind = list[str] | None if option.commas else option.written or TYPES[name]
    more: dict[str, Any] = {"min": option.least, "max": option.most, "help": option.help}
    if option.named:
        kind = list[NameValue] | None
        more |= {"parser": name_and_value, "metavar": "NAME=VALUE"}
    if option.named or kind == list[str] | None:
        more["help"] += " May be repeated."
    declared = typer.Option(f"--{flag.replace('_', '-')}", **more)
    return _parameter(flag, Annotated[kind, declared], inspect.signature(RunOptions).parameters[name].default)


def _python_value(name: str, value: Any) -> Any:
    """The value of a word of the command line, as Python's callers give it."""
    if value is None:
        return None
    if OPTIONS[name].commas:
        return [part for word in value for part in word.split(",")]
    if OPTIONS[name].named:
        return _once(f"--{OPTIONS[name].flag}", [each._replace(name=each.name.replace("-", "_")) for each in value])
    return value


def _once(flag: str, pairs: Iterable[NameValue]) -> dict[str, str]:
    """Names to values.

    Raises:
        UserError: if a name has two.
    """
    values: dict[str, str] = {}
    for name, value in pairs:
        if values.setdefault(name, value) != value:
            raise UserError(f"{flag} gives {name} twice, as {values[name]} and as {value}; leave out one")
    return values


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _with_parameters(
    command: Command, name: str, parameters: list[inspect.Parameter], value: Callable[[Mapping[str, Any]], Any]
) -> Command:
    """A command that has several parameters, in the place of one that is computed from their values.

    Args:
        command: the function.
        name: of the parameter that is replaced.
        parameters: in its place.
        value: gives the value of the replaced parameter from theirs.
    """
    signature = inspect.signature(command, eval_str=True)
    names = [parameter.name for parameter in parameters]

    @wraps(command)
    def replaced(**values: Any) -> Any:
        own = {each: values.pop(each) for each in names}
        return command(**{name: value(own)}, **values)

    merged: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        merged += parameters if parameter.name == name else [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
    replaced.__signature__ = signature.replace(parameters=merged)  # type: ignore[attr-defined]
    return replaced
