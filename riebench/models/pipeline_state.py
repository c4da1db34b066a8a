"""The state of a loaded pipeline: all that can change a picture; and the refusal of what cannot be honoured.

The fingerprint of a pipeline that a user hands in is a hash of this state. Each network is compared with one that is
built from its configuration alone: the differences, such as an adapter's scale or an attention processor, are part of
the state, whatever made them.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from diffusers import ConfigMixin
from torch import nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from riebench.models.change_mark import (
    GLOBAL_HOOKS,
    SETTABLE,
    TORCH_ATTRIBUTES,
    ChangeMark,
    is_set_by_calls,
    lasting_attributes,
    left_alone,
)
from riebench.models.described import PLAIN, described
from riebench.models.devices import weights_fingerprint
from riebench.util.errors import UserError
from riebench.util.library_code import FUNCTIONS, is_compiled, of_users

EXACT_HOOKS = ("layerwise_casting", "peft_autocast", "group_offloading", "layer_execution", "lazy_")
"""The beginnings of the names of diffusers' hooks that leave every pass to the network."""
NO_SETTINGS = frozenset(
    {"name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "config"}
    | {"gradient_checkpointing", "verbose", "_is_hf_initialized"}
)
"""Settings and attributes that do not change what a network computes, and those that are described on their own."""
NOT_OF_A_STATE = NO_SETTINGS | TORCH_ATTRIBUTES
BUILT: dict[tuple[type, str], dict[str, nn.Module]] = {}
"""Networks without weights that were built from settings, which takes a second for a large one: the latest."""
MOST_BUILT = 16


def state_fingerprint(pipeline: Any) -> str:
    """A hash of a loaded pipeline's state, 16 hexadecimal digits; see :func:`pipeline_state`."""
    return hashlib.sha256(repr(sorted(pipeline_state(pipeline).items())).encode()).hexdigest()[:16]


def pipeline_state(pipeline: Any) -> dict[str, str]:
    """All that can change a picture of a pipeline: the name of a part, a setting or an attribute to its description.

    It holds the classes and the settings of all parts, weights, tokenizers, the scheduler, adapters with their scales,
    attention processors and other attributes that the configurations do not account for, hooks and replaced functions.

    Raises:
        UserError: if weights are stored in a way that cannot be hashed.
    """
    own_class = next(kind for kind in type(pipeline).__mro__ if not kind.__module__.startswith("riebench."))
    state = {"class": described(own_class), "hooks of all modules": described([_hooks(held) for held in GLOBAL_HOOKS])}
    functions = {name: held for name, held in vars(functional).items() if isinstance(held, FUNCTIONS)}
    if replaced := of_users(functions):
        state["replaced functions of torch"] = described(replaced)
    state["replaced functions of classes"] = described(_replaced_functions(ChangeMark(pipeline).classes))
    for name, value in lasting_attributes(pipeline).items():
        if isinstance(value, nn.Module):
            state.update({f"{name}{path}": text for path, text in _network_state(name, value)})
        elif isinstance(value, PreTrainedTokenizerBase):
            state[name] = _tokenizer_state(value)
        elif isinstance(value, ConfigMixin):
            attributes = {key: held for key, held in lasting_attributes(value).items() if key != "_internal_dict"}
            set_later = {key: attributes.pop(key) for key in list(attributes) if key.startswith(SETTABLE)}
            state[name] = described([type(value), _settings(value.config), attributes])
            state.update({f"{name}.{key}": text for key, text in _unlike_configured(value, set_later)})
        elif name == "_internal_dict":
            state[name] = described(
                {key: held for key, held in _settings(value).items() if not isinstance(held, tuple)}
            )
        elif value is not None:
            state[name] = described(value)
    return state


def refuse_unfollowed(denoiser: nn.Module, name: str) -> None:
    """Refuse a network whose passes forward hooks cannot follow, because it is compiled or leaves passes out.

    Args:
        denoiser: the network that holds the sites.
        name: its name in the pipeline.

    Raises:
        UserError: if it is such a network.
    """
    for path, part in denoiser.named_modules():
        place = ".".join(filter(None, (name, path)))
        forward = vars(part).get("forward")
        if part._compiled_call_impl is not None or is_compiled(forward) or hasattr(part, "_orig_mod"):
            raise UserError(f"{place} is compiled, and edits would not reach it; leave out torch.compile")
        cache = getattr(part, "_cache_config", None)
        if cache is not None:
            hint = f"call pipeline.{place}.disable_cache()"
            raise UserError(f"{place} has a step cache ({type(cache).__name__}), which leaves passes out; {hint}")
        for hook in _diffusers_hooks(part):
            if not hook.startswith(EXACT_HOOKS):
                hint = "hand in a pipeline without it"
                raise UserError(f"{place} has the hook {hook!r} of diffusers, which leaves passes out; {hint}")


def runs_code_of_a_user(network: nn.Module) -> bool:
    """Whether a user's code may run in a network's passes: hooks, functions, modules or objects such as processors.

    Args:
        network: with all its modules.
    """
    modules = list(network.modules())
    hooks = [hook for held in GLOBAL_HOOKS for hook in held.values()]
    hooks += [
        hook for part in modules for held in (part._forward_hooks, part._forward_pre_hooks) for hook in held.values()
    ]
    held = [value for part in modules for name, value in vars(part).items() if name not in TORCH_ATTRIBUTES]
    held += [inner for value in held for inner in getattr(value, "hooks", ())]  # several hooks of accelerate's as one
    objects = [
        type(value) for value in held if hasattr(value, "__dict__") and not isinstance(value, (*FUNCTIONS, type))
    ]
    classes = {*map(type, modules), *objects}
    functions = [
        *hooks,
        *(value for value in held if isinstance(value, FUNCTIONS)),
        *_replaced_functions(classes).values(),
    ]
    return bool(of_users(dict(enumerate([*functions, *classes]))))


def _diffusers_hooks(part: nn.Module) -> Iterable[str]:
    """The names of the hooks that diffusers has put on a module."""
    return getattr(vars(part).get("_diffusers_hook"), "hooks", ())


def refuse_mixed_types(pipeline: Any, name: str) -> None:
    """Refuse a pipeline whose denoiser computes in another type than its autoencoder or its own weights are of.

    Args:
        pipeline: a loaded pipeline.
        name: of the denoiser in the pipeline.

    Raises:
        UserError: if it is such a pipeline.
    """
    denoiser = getattr(pipeline, name)
    weights = {parameter.dtype for parameter in denoiser.parameters() if parameter.is_floating_point()}
    wide = {dtype for dtype in weights if dtype.itemsize > 1}  # float8 is a type of storage
    cast = any(
        "layerwise_casting" in getattr(vars(part).get("_diffusers_hook"), "hooks", ()) for part in denoiser.modules()
    )
    types = {"the vae": {pipeline.vae.dtype}, f"a weight of the {name}": wide if cast else {denoiser.dtype}}
    for what, found in types.items():
        for dtype in found - {denoiser.dtype}:
            hint = f"call pipeline.to({denoiser.dtype}) first"
            raise UserError(f"{what} is of {dtype}, the {name} computes in {denoiser.dtype}; {hint}")


def _network_state(name: str, network: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs of a path below a network, beginning with a dot, and a description; the network's own path is empty."""
    try:
        weights = weights_fingerprint(network)
    except (RuntimeError, TypeError) as error:  # of storage without the operations of plain tensors
        kinds = sorted({type(weight).__name__ for weight in network.parameters()} - {"Parameter"})
        stored = f"the weights of {name} ({', '.join(kinds) or 'Parameter'}) cannot be hashed: {error}".splitlines()[0]
        raise UserError(f"{stored}; load it without quantization") from None
    yield "", described([type(network), weights, _settings(getattr(network, "config", None))])
    kept = network.state_dict().keys()
    yield ".buffers", described({path: held for path, held in network.named_buffers() if path not in kept})
    built = _built_from_settings(network)
    for path, part in network.named_modules():
        usual = built.get(path)
        same_class = usual is not None and type(usual) is type(part)
        if not same_class:
            yield f".{path} class", described(type(part))
        expected = _attributes(usual, private=False) if usual is not None and same_class else {}
        own = _attributes(part, private=not same_class)
        for key in own.keys() | expected.keys():
            one, other = own.get(key), expected.get(key)
            if not (isinstance(one, PLAIN) and one == other) and described(one) != described(other):
                yield f".{path}.{key}", described(one)


def _unlike_configured(part: ConfigMixin, attributes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Pairs of a name and a description, of attributes that differ from those of a part of the same configuration."""
    try:
        configured: Any = vars(type(part).from_config(part.config))
    except Exception:  # noqa: BLE001 - a class of any kind
        configured = {}
    for name, value in attributes.items():
        if name not in configured or described(configured[name]) != described(value):
            yield name, described(value)


def _built_from_settings(network: nn.Module) -> dict[str, nn.Module]:
    """Path to module of a network without weights that has the same settings; empty if none can be built."""
    config = getattr(network, "config", None)
    if config is None:
        return {}
    key = type(network), described(config if isinstance(config, Mapping) else vars(config))
    if key not in BUILT:
        while len(BUILT) >= MOST_BUILT:
            del BUILT[next(iter(BUILT))]
        BUILT[key] = _built(type(network), config)
    return BUILT[key]


def _built(kind: Any, config: Any) -> dict[str, nn.Module]:
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            build = kind.from_config if issubclass(kind, ConfigMixin) else kind
            built = build(copy.deepcopy(config))
    except Exception:  # noqa: BLE001 - a class of any kind; all its attributes are then described
        return {}
    return dict(built.eval().named_modules())


def _attributes(part: nn.Module, private: bool) -> dict[str, Any]:
    """What a module holds beside its weights and the modules in it, by name.

    Args:
        part: the module.
        private: whether names that begin with an underscore count, too.
    """
    alone = left_alone(vars(part), vars(part))
    attributes = {
        name: value
        for name, value in vars(part).items()
        if not (value is None or name in NOT_OF_A_STATE or is_set_by_calls(name, value))
        and name not in alone
        and (private or not name.startswith("_") or name in ("_compiled_call_impl", "_hf_hook"))
    }
    hooks = _hooks(part._forward_hooks) + _hooks(part._forward_pre_hooks)
    return {**attributes, **({"training": True} if part.training else {}), **({"hooks": hooks} if hooks else {})}


def _replaced_functions(classes: Iterable[type]) -> dict[str, Any]:
    """The functions of libraries' classes that no library has written."""
    bases = {base for kind in classes for base in kind.__mro__}
    functions = {
        f"{base.__module__}.{base.__qualname__}.{name}": function
        for base in bases - of_users({base: base for base in bases}).keys()
        for name, function in vars(base).items()
        if isinstance(function, FUNCTIONS)
    }
    return of_users(functions)


def _hooks(hooks: Mapping[int, Any]) -> list[Any]:
    """The hooks that no library has registered for its own use."""
    return [*of_users(hooks).values()]


def _settings(config: Any) -> dict[str, Any]:
    """The settings of a configuration that can change a picture."""
    settings = config.to_diff_dict() if isinstance(config, PretrainedConfig) else dict(config or {})
    return {name: value for name, value in settings.items() if name not in NO_SETTINGS and not name.startswith("_")}


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    """The description of a tokenizer: its vocabulary with added tokens, its rules and its settings."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: Any = sorted(tokenizer.get_vocab().items())
    if backend is not None:
        # Padding and truncation are those of the latest call.
        rules = {**json.loads(backend.to_str()), "padding": None, "truncation": None}
    attributes = {key: held for key, held in lasting_attributes(tokenizer).items() if key not in NO_SETTINGS}
    return described([type(tokenizer), json.dumps(rules, sort_keys=True), attributes])
