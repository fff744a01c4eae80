"""One generic registry: names to objects that may be imported late, so that listing names imports nothing."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module, metadata
from typing import Generic, TypeVar, cast

from idtool.errors import MissingError, UsageError

T = TypeVar("T")
Warn = Callable[[str], None]


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most alike of `names`, or None when nothing is close enough to be a slip of the keys."""
    lowered = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return lowered[close[0]] if close else None


def did_you_mean(name: str, names: Iterable[str], listed_as: str = "Available") -> str:
    """`Did you mean 'min'? Available: max, min.`, for the end of an error sentence."""
    known = list(names)
    guess = nearest(name, known)
    start = f"Did you mean {guess!r}? " if guess else ""
    return f"{start}{listed_as}: {', '.join(known) or 'nothing'}."


class Registry(Generic[T]):
    """Objects of one sort by name. A value may be a lazy `"module:Attr"`, imported when it is first asked for.

    `sort` is the word used in messages (`step`, `measure`). With an entry-point `group`, installed plug-ins are
    merged in at the first look-up or listing; one that cannot be imported is a warning and leaves the rest alone.
    """

    def __init__(
        self,
        sort: str,
        entries: Mapping[str, T | str] | None = None,
        *,
        group: str | None = None,
        warn: Warn | None = None,
    ) -> None:
        self.sort = sort
        self.group = group
        self._warn: Warn = warn or (lambda text: warnings.warn(text, stacklevel=4))
        self._entries: dict[str, T | str | metadata.EntryPoint] = {}
        self._merged = group is None
        for name, value in (entries or {}).items():
            self.register(name, value)

    def register(self, name: str, value: T | str) -> None:
        """Add an object or a lazy `"module:Attr"`. A name that is taken by something else is a UsageError."""
        self._add(name, value)

    def __contains__(self, name: object) -> bool:
        self._merge()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._merge()
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        self._merge()
        return len(self._entries)

    def names(self) -> list[str]:
        """Every name, in the order of registration, plug-ins last. Imports none of the objects."""
        return list(self)

    def get(self, name: str) -> T:
        """The object. UsageError with the nearest names when there is none of that name; MissingError when what
        it needs is not installed."""
        self._merge()
        if name not in self._entries:
            raise UsageError(f"Unknown {self.sort} {name!r}.", did_you_mean(name, self._entries))
        value = self._entries[name]
        if isinstance(value, str | metadata.EntryPoint):
            value = self._load(name, value)
            self._entries[name] = value
        return value

    def items(self) -> Iterator[tuple[str, T]]:
        """Every name with its object, imported. A plug-in that cannot be imported is left out with a warning."""
        for name in self:
            value = self._entries[name]
            if isinstance(value, metadata.EntryPoint):
                try:
                    yield name, self.get(name)
                except MissingError as error:
                    self._warn(str(error))
            else:
                yield name, self.get(name)

    def _load(self, name: str, value: str | metadata.EntryPoint) -> T:
        try:
            if isinstance(value, metadata.EntryPoint):
                return cast(T, value.load())
            module, _, attribute = value.partition(":")
            return cast(T, getattr(import_module(module), attribute))
        # A plug-in is other people's code: whatever it raises on import is about the plug-in, not about us.
        except Exception as error:
            if isinstance(value, str) and not isinstance(error, ImportError | AttributeError):
                raise
            plugin = isinstance(value, metadata.EntryPoint)
            origin = f"plug-in {_origin(value)}" if plugin else _origin(value)
            raise MissingError(
                f"{self.sort.capitalize()} {name!r} cannot be loaded from {origin}: {type(error).__name__}: {error}.",
                "Install what it needs, or uninstall the plug-in." if plugin else "Install what it needs.",
            ) from error

    def _add(self, name: str, value: T | str | metadata.EntryPoint) -> None:
        taken = self._entries.get(name)
        # An entry point cannot be compared with anything but another one.
        if taken is not None and (type(taken) is not type(value) or taken != value):
            raise UsageError(
                f"Two {self.sort}s are called {name!r}: {_origin(taken)} and {_origin(value)}.",
                "Rename one, or uninstall the plug-in that brings it.",
            )
        self._entries[name] = value

    def _merge(self) -> None:
        """Add what the entry-point group offers. A collision warns and the built-in stays."""
        if self._merged or self.group is None:
            return
        self._merged = True
        for point in metadata.entry_points(group=self.group):
            try:
                self._add(point.name, point)
            except UsageError as error:
                self._warn(f"{error.message} The plug-in is ignored.")


def _origin(value: object) -> str:
    if isinstance(value, metadata.EntryPoint):
        return f"{value.value} of {value.dist.name if value.dist else 'an unnamed package'}"
    return value if isinstance(value, str) else repr(value)
