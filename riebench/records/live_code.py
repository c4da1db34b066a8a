"""A hash of a function or object as it is in memory: its code, what it holds and what it uses."""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from riebench.records.code import hash_of_files
from riebench.records.code_files import imported_files, is_installed, is_ours, module_files, own_files
from riebench.util.errors import UserError

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))


def live_hash(code: Callable[..., Any]) -> str:
    """A hash of a function or a callable object, 16 hexadecimal digits.

    It covers the compiled code with its constants and default arguments, the values that it closes over, what it uses
    of its module (functions, classes, constants), the arguments of a ``functools.partial``, the state of an object, and
    the files of strangers' modules that it uses. Names of variables of a script that the code does not use, its lines
    and its comments do not count. Python's own and installed functions are known by their names.

    An object with an attribute ``fingerprint`` is known by its class and this text alone.

    Raises:
        UserError: if a value that it uses raises an error when it is looked at.
    """
    digest = hashlib.sha256()
    try:
        for part in _parts(code, {}):
            digest.update(part.encode(errors="backslashreplace") + b"\n")
    except Exception as error:  # noqa: BLE001 - a stranger's objects may raise anything
        name, reason = getattr(code, "__qualname__", type(code).__name__), f"{type(error).__name__}: {error}"
        mend = "give it as an object with __call__ and a text 'fingerprint' that tells its versions apart"
        raise UserError(f"what {name} computes with cannot be told from other code ({reason}); {mend}") from None
    return digest.hexdigest()[:16]


def _parts(value: Any, seen: dict[int, Any]) -> Iterable[str]:
    """The texts that tell a value from others; a value that is met again is a text that names its place."""
    if isinstance(value, PLAIN):
        yield f"{type(value).__name__} {value!r}"
        return
    if id(value) in seen:
        yield f"again {list(seen).index(id(value))}"
        return
    seen[id(value)] = value  # held, so that no other value gets its identity
    if isinstance(value, CodeType):
        yield from _of_compiled(value, seen)
    elif isinstance(value, FunctionType):
        yield from _of_function(value, seen)
    elif isinstance(value, functools.partial):
        yield from _of_each("partial", [value.func, value.args, value.keywords], seen)
    elif isinstance(value, MethodType):
        yield from _of_each("method", [value.__func__, value.__self__], seen)
    elif isinstance(value, ModuleType):
        yield from _of_module(value)
    elif isinstance(value, type):
        yield from _of_class(value, seen)
    else:
        yield from _of_object(value, seen)


def _of_each(name: str, values: Iterable[Any], seen: dict[int, Any]) -> Iterable[str]:
    yield f"{name} ("
    for value in values:
        yield from _parts(value, seen)
    yield ")"


def _of_compiled(code: CodeType, seen: dict[int, Any]) -> Iterable[str]:
    yield f"code {code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars} {code.co_cellvars}"
    yield from _of_each("constants", code.co_consts, seen)


def _of_function(function: FunctionType, seen: dict[int, Any]) -> Iterable[str]:
    module = function.__globals__.get("__name__")  # functools.wraps gives __module__ of another function
    if not _is_strangers(module):
        yield f"function {function.__module__}.{function.__qualname__}"
        return
    yield from _parts(function.__code__, seen)
    cells = [cell.cell_contents if _is_filled(cell) else None for cell in function.__closure__ or ()]
    yield from _of_each("with", [function.__defaults__, function.__kwdefaults__, cells], seen)
    folder = Path(getattr(sys.modules.get(str(module)), "__file__", None) or "x").parent
    for name in sorted(_names(function.__code__, "LOAD_GLOBAL")):
        if name in function.__globals__:
            yield name
            yield from _parts(function.__globals__[name], seen)
    for name in sorted({name.partition(".")[0] for name in _names(function.__code__, "IMPORT_NAME")} - {""}):
        yield from _of_files(name, module_files(name, folder))
    if wrapped := getattr(function, "__wrapped__", None):
        yield from _parts(wrapped, seen)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _names(code: CodeType, operation: str) -> set[str]:
    """The names that instructions of a kind have, as ``LOAD_GLOBAL``, in code and in the functions inside it."""
    inner = [_names(constant, operation) for constant in code.co_consts if isinstance(constant, CodeType)]
    here = {str(line.argval) for line in dis.get_instructions(code) if line.opname == operation}
    return here.union(*inner)


def _of_module(module: ModuleType) -> Iterable[str]:
    files = own_files(module.__name__) if _is_strangers(module.__name__) else []
    yield from _of_files(module.__name__, files)


def _of_files(name: str, files: list[Path]) -> Iterable[str]:
    yield f"module {name} {hash_of_files([*files, *imported_files(files)])}"


def _of_class(cls: type, seen: dict[int, Any]) -> Iterable[str]:
    yield f"class {cls.__module__}.{cls.__qualname__}"
    if _is_strangers(cls.__module__):
        own = {name: value for name, value in vars(cls).items() if not name.startswith("__") or callable(value)}
        yield from _of_each("holds", [*cls.__bases__, _sorted(own)], seen)


def _of_object(value: Any, seen: dict[int, Any]) -> Iterable[str]:
    if isinstance(value, BuiltinFunctionType):
        yield f"built in {value.__module__}.{value.__qualname__}"
        return
    yield from _parts(type(value), seen)
    if isinstance(fingerprint := getattr(value, "fingerprint", None), str):
        yield fingerprint
    elif hasattr(value, "detach"):  # a tensor, without importing torch
        tensor = value.detach().cpu()
        yield f"{tensor.dtype}"
        yield from _parts(tensor.float().numpy(), seen)
    elif (np := sys.modules.get("numpy")) and isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
        yield f"{array.dtype} {array.shape} {hashlib.sha256(content).hexdigest()}"
    elif isinstance(value, tuple | list):
        yield from _of_each("", value, seen)
    elif isinstance(value, Mapping):
        yield from _of_each("", _sorted(value), seen)
    elif isinstance(value, Set):
        yield from _of_each("", sorted(value, key=repr), seen)
    elif isinstance(value, Path):
        yield str(value)
    else:
        slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
        state = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})
        yield from _of_each("state", _sorted(state), seen)
        if wrapped := getattr(value, "__wrapped__", None):
            yield from _parts(wrapped, seen)


def _sorted(values: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    return sorted(values.items(), key=lambda item: repr(item[0]))


def _is_strangers(module_name: str | None) -> bool:
    """Whether a module is a user's: neither Python's, nor riebench's, nor of an installed package."""
    if module_name is None or is_ours(module_name):
        return False
    if module_name == "__main__":
        return True
    file = getattr(sys.modules.get(module_name), "__file__", None)
    return module_name not in sys.modules if file is None else not is_installed(Path(file))
