"""Digests of Python objects: of their values, and of the code of functions and classes that are not installed.

`pickle` is not suitable: its bytes depend on memory, on the order of sets and on which objects are shared.
"""

from __future__ import annotations

import enum
import functools
import re
import sys
import sysconfig
import types
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import xxhash

_SIMPLE = frozenset({type(None), bool, int, float, complex, str, bytes, type(...)})
_CONTAINERS = (Mapping, list, tuple, set, frozenset)
#: A quick description identifies a container with more items by its identity and length.
_MAX_ITEMS = 256
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib"))
#: Attributes of every class that do not affect its behavior.
_OF_CLASSES = frozenset(
    {
        *("__dict__", "__weakref__", "__module__", "__qualname__", "__doc__", "__annotations__", "__firstlineno__"),
        *("__static_attributes__", "__annotate_func__", "__annotations_cache__", "__abstractmethods__", "_abc_impl"),
    }
)
#: Types of class members that are compiled and have no state.
_COMPILED = (
    *(types.GetSetDescriptorType, types.MemberDescriptorType, types.MethodDescriptorType),
    *(types.WrapperDescriptorType, types.ClassMethodDescriptorType, types.BuiltinFunctionType),
)


class Description:
    """Digests of objects, equal in all processes for objects that behave the same.

    A function or class of an installed library is described by its import name. Any other is described by its bytecode
    and the values that it uses: defaults, closures and globals.

    Args:
        quick: Describe tensors, and containers with more than 256 items, by their identity and a sample. Such a
            description is valid only in one process; it detects that an object may have changed.

    Attributes:
        opaque: The classes of objects whose state cannot be read.

    Example:
        >>> def power(exponent):
        ...     return lambda number: number**exponent
        >>> describe = Description().digest
        >>> describe(power(2)) == describe(power(2)), describe(power(2)) == describe(power(3))
        (True, False)
    """

    def __init__(self, *, quick: bool = False) -> None:
        self.quick = quick
        self.opaque: list[str] = []
        # Keep references to the objects, because Python may reuse the id of a deleted object.
        self._known: dict[int, tuple[object, bytes]] = {}
        self._open: set[int] = set()

    def digest(self, value: object) -> bytes:
        """Return the digest of an object."""
        if type(value) in _SIMPLE:
            return repr(value).encode("utf-8", "surrogatepass")
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        if id(value) in self._open:
            return b"cycle"
        self._open.add(id(value))
        try:
            digest = combined(*self.parts(value))
        finally:
            self._open.discard(id(value))
        self._known[id(value)] = (value, digest)
        return digest

    def parts(self, value: Any) -> Iterable[bytes]:
        """Return the parts from which the digest of an object is computed."""
        if isinstance(value, enum.Enum):
            return [b"enum", self.digest(type(value)), value.name.encode()]
        if isinstance(value, _CONTAINERS):
            return self._container(value)
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(np.asarray(value))
        if isinstance(value, type):
            return self._type(value)
        if isinstance(value, types.ModuleType):
            return [b"module", value.__name__.encode()]
        if isinstance(value, functools.partial):
            return [b"partial", *map(self.digest, (value.func, value.args, value.keywords))]
        if callable(value) and (found := self._callable(value)) is not None:
            return found
        if isinstance(value, types.CodeType):
            return self._code(value)
        if isinstance(value, re.Pattern):
            return [b"pattern", self.digest(value.pattern), repr(value.flags).encode()]
        if isinstance(value, PurePath):
            return [b"path", str(value).encode()]
        return self._object(value)

    def attributes(self, value: Any) -> dict[str, Any]:
        """Return the attributes of an instance, without those of its class."""
        found: dict[str, Any] = {}
        for kind in type(value).__mro__:
            slots = vars(kind).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name) and name not in ("__dict__", "__weakref__"):
                    found[name] = getattr(value, name)
        return found | getattr(value, "__dict__", {})

    def patches(self, kind: type, unless: frozenset[str] = frozenset()) -> bytes:
        """Describe the functions patched into a class of a library, except those with certain names."""
        found = [
            (name, self.digest(value))
            for base in kind.__mro__
            if _is_library(base.__module__)
            for name, value in vars(base).items()
            if isinstance(value, types.FunctionType) and name not in unless and not _is_library(value.__module__)
        ]
        return combined(*(part for name, digest in sorted(found) for part in (name.encode(), digest)))

    def _container(self, value: Any) -> Iterable[bytes]:
        name = type(value).__qualname__.encode()
        if own := getattr(value, "__dict__", None):  # a subclass with attributes
            name = combined(name, self.digest(type(value)), self.digest(own))
        if self.quick and len(value) > _MAX_ITEMS:
            return [name, repr((id(value), len(value))).encode()]
        if isinstance(value, Mapping):
            if _are_simple(value.keys()) and _are_simple(value.values()):
                return [name, repr(sorted(map(repr, value.items()))).encode("utf-8", "surrogatepass")]
            pairs = sorted((self.digest(key), self.digest(item)) for key, item in value.items())
            return [name, *(digest for pair in pairs for digest in pair)]
        if isinstance(value, (set, frozenset)):
            return [name, *sorted(map(self.digest, value))]
        if _are_simple(value):
            return [name, repr(list(value)).encode("utf-8", "surrogatepass")]
        return [name, *map(self.digest, value)]

    def _array(self, value: np.ndarray[Any, Any]) -> Iterable[bytes]:
        if value.dtype.hasobject:
            return [b"array", repr(value.shape).encode(), self.digest(value.reshape(-1).tolist())]
        about = repr((str(value.dtype), value.shape)).encode()
        if self.quick and value.size > _MAX_ITEMS:
            sample = value.reshape(-1)[:: value.size // 16].tobytes() if value.flags.c_contiguous else b""
            return [b"array", about, repr(id(value)).encode(), sample]
        return [b"array", about, xxhash.xxh3_128_digest(np.ascontiguousarray(value).tobytes())]

    def _type(self, value: type) -> Iterable[bytes]:
        name = f"{value.__module__}:{value.__qualname__}".encode()
        if _is_imported(value):
            return [b"class", name]
        members = {key: item for key, item in vars(value).items() if key not in _OF_CLASSES}
        members = {key: item for key, item in members.items() if not isinstance(item, _COMPILED)}
        return [b"class", name, *map(self.digest, value.__bases__), self.digest(members)]

    def _callable(self, value: Any) -> Iterable[bytes] | None:
        if isinstance(value, types.MethodType):
            return [b"method", self.digest(value.__func__), self.digest(value.__self__)]
        if isinstance(value, types.FunctionType):
            name = f"{value.__module__}:{value.__qualname__}".encode()
            if _is_imported(value):
                return [b"function", name]
            cells = [_cell(cell) for cell in value.__closure__ or ()]
            used = {name: value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__}
            about = (value.__defaults__, value.__kwdefaults__, cells, used, vars(value))
            return [b"function", self.digest(value.__code__), *map(self.digest, about)]
        if (
            isinstance(value, (types.BuiltinFunctionType, np.ufunc))
            or type(value).__name__ == "builtin_function_or_method"
        ):
            owner = getattr(value, "__self__", None)
            bound = [] if owner is None or isinstance(owner, types.ModuleType) else [self.digest(owner)]
            return [b"builtin", f"{getattr(value, '__module__', '')}:{value.__name__}".encode(), *bound]
        return None

    def _code(self, code: types.CodeType) -> Iterable[bytes]:
        about = (code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_flags, code.co_argcount)
        return [b"code", *map(self.digest, about), *map(self.digest, code.co_consts)]

    def _object(self, value: Any) -> Iterable[bytes]:
        kind = self.digest(type(value))
        if isinstance(value, property):
            return [b"property", self.digest(value.fget)]
        if isinstance(value, (staticmethod, classmethod)):
            return [kind, self.digest(value.__func__)]
        if attributes := self.attributes(value):
            return [b"object", kind, self.digest(attributes)]
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:  # extension objects that cannot be pickled (clients, locks, handles) may raise anything
            self.opaque.append(type(value).__qualname__)
            return [b"opaque", kind]
        if isinstance(reduced, str):
            return [b"global", kind, reduced.encode()]
        return [b"object", kind, self.digest(reduced[1]), self.digest(reduced[2] if len(reduced) > 2 else None)]


def combined(*parts: bytes) -> bytes:
    """Combine several digests into one; it depends on their number and lengths."""
    return xxhash.xxh3_128_digest(
        b"".join([item for part in parts for item in (len(part).to_bytes(8, "little"), part)])
    )


def _are_simple(values: Iterable[object]) -> bool:
    return _SIMPLE.issuperset(map(type, values))


def _cell(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return None


def _names(code: types.CodeType) -> list[str]:
    """Return the names that a function and its inner functions look up."""
    inner = [name for one in code.co_consts if isinstance(one, types.CodeType) for name in _names(one)]
    return sorted({*code.co_names, *inner})


def _is_library(module: str | None) -> bool:
    """Return whether a module belongs to Python or was installed, so that its name and version determine its code."""
    loaded = sys.modules.get(module or "")
    if loaded is None:
        return False
    path = getattr(loaded, "__file__", None)
    if path is None:
        # Modules built into Python have no file; nor does `__main__` in an interactive session.
        return module != "__main__"
    if path.startswith(_LIBRARIES) or "site-packages" in path or "dist-packages" in path:
        return True
    names = (module or "").split(".")
    file = Path(path).parent if Path(path).stem == "__init__" else Path(path)
    return len(file.parents) > len(names) and _is_installed(file.parents[len(names) - 1], names[0])


@functools.cache
def _is_installed(folder: Path, package: str) -> bool:
    """Return whether a distribution installed in this folder has the package, as after `pip install --target`."""
    own = re.compile(rf"^{re.escape(package)}[/.]", re.MULTILINE)
    records = folder.glob("*.dist-info/RECORD")
    return any(own.search(record.read_text(encoding="utf-8", errors="replace")) for record in records)


def _is_imported(value: Any) -> bool:
    """Return whether a function or class belongs to an installed library and can be imported by its name."""
    if not _is_library(value.__module__):
        return False
    found: Any = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is value
