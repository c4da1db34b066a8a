"""A hash of a function or object as it is in memory: its code, what it holds and what it uses."""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from riebench.util.code_files import hash_of_files, imported_files, is_installed, is_ours, module_files, own_files
from riebench.util.errors import UserError
from riebench.util.library_code import closed_over, functions_in, is_named

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))


def live_hash(
    code: Callable[..., Any],
    *,
    named: Callable[[Any], bool] | None = None,
    content: Callable[[Any], str | None] = lambda value: None,
) -> str:
    """A hash of a function or a callable object, 16 hexadecimal digits.

    It covers the compiled code with its constants and default arguments, the values that it closes over, what it uses
    of its module (functions, classes, constants), the arguments of a ``functools.partial``, the state of an object, and
    the files of strangers' modules that it uses. Names of variables of a script that the code does not use, its lines
    and its comments do not count. Python's own and installed functions are known by their names, unless they are
    decorators around others; of an installed one that is hashed itself, the files of its package count, too.

    An object with an attribute ``fingerprint`` is known by its class and this text alone.

    Args:
        code: the function or object.
        named: whether a function or a class is known by its name; Python's own and installed ones unless given.
        content: the text that tells a value from others, where another one than that of this function is meant.

    Raises:
        UserError: if a value that it uses raises an error when it is looked at.
    """
    digest = hashlib.sha256()
    try:
        for part in _Walk(named or _is_known, content).parts_of_root(code):
            digest.update(part.encode(errors="backslashreplace") + b"\n")
    except Exception as error:  # noqa: BLE001 - a stranger's objects may raise anything
        name, reason = getattr(code, "__qualname__", type(code).__name__), f"{type(error).__name__}: {error}"
        mend = "give it as an object with __call__ and a text 'fingerprint' that tells its versions apart"
        raise UserError(f"what {name} computes with cannot be told from other code ({reason}); {mend}") from None
    return digest.hexdigest()[:16]


class _Walk:
    """The walk through what a function uses; see :func:`live_hash` for the arguments."""

    def __init__(self, named: Callable[[Any], bool], content: Callable[[Any], str | None]) -> None:
        self._named, self._content = named, content
        self._seen: dict[int, Any] = {}  # values are held, so that no other value gets the identity of one

    def parts_of_root(self, code: Any) -> Iterator[str]:
        """The texts that tell a function or object from others."""
        yield from self._parts(code)
        if isinstance(code, FunctionType) and is_named(code, self._named):
            yield from self._each("with", closed_over(code))
            yield from _of_files(code.__module__, own_files(code.__module__))

    def _parts(self, value: Any) -> Iterator[str]:
        """The texts that tell a value from others; a value that is met again is a text that names its place."""
        if isinstance(value, PLAIN):
            yield f"{type(value).__name__} {value!r}"
            return
        if id(value) in self._seen:
            yield f"again {list(self._seen).index(id(value))}"
            return
        self._seen[id(value)] = value
        if (text := self._content(value)) is not None:
            yield text
        elif isinstance(value, CodeType):
            yield from self._of_compiled(value)
        elif isinstance(value, FunctionType):
            yield from self._of_function(value)
        elif isinstance(value, functools.partial):
            yield from self._each("partial", [value.func, value.args, value.keywords])
        elif isinstance(value, MethodType):
            yield from self._each("method", [value.__func__, value.__self__])
        elif isinstance(value, ModuleType):
            yield from _of_files(value.__name__, own_files(value.__name__) if _is_strangers(value.__name__) else [])
        elif isinstance(value, type):
            yield from self._of_class(value)
        else:
            yield from self._of_object(value)

    def _each(self, name: str, values: Iterable[Any]) -> Iterator[str]:
        yield f"{name} ("
        for value in values:
            yield from self._parts(value)
        yield ")"

    def _of_compiled(self, code: CodeType) -> Iterator[str]:
        yield f"code {code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars} {code.co_cellvars}"
        yield from self._each("constants", code.co_consts)

    def _of_function(self, function: FunctionType) -> Iterator[str]:
        if self._named(function):
            yield f"function {function.__module__}.{function.__qualname__}"
            strangers = [inner for inner in functions_in(function) if not is_named(inner, self._named)]
            if strangers:  # a library has decorated a user's function
                yield from self._each("of", strangers)
            return
        yield from self._parts(function.__code__)
        yield from self._each("with", [function.__defaults__, function.__kwdefaults__, closed_over(function)])
        module = sys.modules.get(str(function.__globals__.get("__name__")))
        folder = Path(getattr(module, "__file__", None) or "x").parent
        modules: dict[str, Any] = {}
        for name in sorted(_names(function.__code__, "LOAD_GLOBAL")):
            if name in function.__globals__:
                modules[name] = function.__globals__[name]
                yield name
                yield from self._parts(modules[name])
        for name in sorted(_names(function.__code__, "IMPORT_NAME") - {""}):
            modules[name] = sys.modules.get(name)
        for name in sorted({name.partition(".")[0] for name in _names(function.__code__, "IMPORT_NAME")} - {""}):
            yield from _of_files(name, module_files(name, folder))
        used = set().union(*(_names(function.__code__, kind) for kind in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM")))
        yield from self._of_used(modules.values(), used)
        if wrapped := getattr(function, "__wrapped__", None):
            yield from self._parts(wrapped)

    def _of_used(self, modules: Iterable[Any], names: set[str]) -> Iterator[str]:
        """What code takes from strangers' modules: it may have been set since these were read."""
        for module in modules:
            if isinstance(module, ModuleType) and _is_strangers(module.__name__):
                for name in sorted(names & vars(module).keys()):
                    yield f"{module.__name__}.{name}"
                    yield from self._parts(vars(module)[name])

    def _of_class(self, cls: type) -> Iterator[str]:
        yield f"class {cls.__module__}.{cls.__qualname__}"
        if not self._named(cls):
            own = {name: value for name, value in vars(cls).items() if not name.startswith("__") or callable(value)}
            yield from self._each("holds", [*cls.__bases__, _sorted(own)])

    def _of_object(self, value: Any) -> Iterator[str]:
        if isinstance(value, BuiltinFunctionType):
            yield f"built in {value.__module__}.{value.__qualname__}"
            return
        yield from self._parts(type(value))
        if isinstance(fingerprint := getattr(value, "fingerprint", None), str):
            yield fingerprint
        elif hasattr(value, "detach"):  # a tensor, without importing torch
            tensor = value.detach().cpu()
            yield f"{tensor.dtype}"
            yield from self._parts(tensor.float().numpy())
        elif (np := sys.modules.get("numpy")) and isinstance(value, np.ndarray | np.generic):
            array = np.ascontiguousarray(value)
            content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
            yield f"{array.dtype} {array.shape} {hashlib.sha256(content).hexdigest()}"
        elif isinstance(value, tuple | list):
            yield from self._each("", value)
        elif isinstance(value, Mapping):
            yield from self._each("", _sorted(value))
        elif isinstance(value, Set):
            yield from self._each("", sorted(value, key=repr))
        elif isinstance(value, Path):
            yield str(value)
        else:
            yield from self._each("state", _sorted(_state(value)))
            if wrapped := getattr(value, "__wrapped__", None):
                yield from self._parts(wrapped)


def _names(code: CodeType, operation: str) -> set[str]:
    """The names that instructions of a kind have, as ``LOAD_GLOBAL``, in code and in the functions inside it."""
    inner = [_names(constant, operation) for constant in code.co_consts if isinstance(constant, CodeType)]
    here = {str(line.argval) for line in dis.get_instructions(code) if line.opname == operation}
    return here.union(*inner)


def _state(value: Any) -> dict[str, Any]:
    """The attributes of an object, those in slots, too."""
    slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
    return {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})


def _of_files(name: str, files: list[Path]) -> Iterator[str]:
    yield f"module {name} {hash_of_files([*files, *imported_files(files)])}"


def _sorted(values: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    return sorted(values.items(), key=lambda item: repr(item[0]))


def _is_known(code: Any) -> bool:
    """Whether a function or a class is Python's, riebench's or an installed package's."""
    if isinstance(code, FunctionType):
        return not _is_strangers(code.__globals__.get("__name__"))  # functools.wraps gives __module__ of another
    return not _is_strangers(getattr(code, "__module__", None))


def _is_strangers(module_name: str | None) -> bool:
    """Whether a module is a user's: neither Python's, nor riebench's, nor of an installed package."""
    if module_name is None or is_ours(module_name):
        return False
    if module_name == "__main__":
        return True
    file = getattr(sys.modules.get(module_name), "__file__", None)
    return module_name not in sys.modules if file is None else not is_installed(Path(file))
