"""Ready merge functions. Each is a factory: ``merge_fns={"visits": counter()}``.

A merge asks its function only for keys that both sides changed differently, with (old, ours, theirs) and
None where a side has no such key. What a function raises makes the key a conflict that carries the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from kvgit_hamt.policy import DELETE, OURS, THEIRS, MergeChoice, MergeFn
from kvgit_hamt.textmerge import merge_text

_ABSENT: Final[Any] = object()  # a missing key inside a value, where None is a value like others


def counter() -> MergeFn:
    """Add up what both sides added: ``ours + theirs - (old or 0)``; a side without the key counts as 0."""

    def merge_counter(old: Any, ours: Any, theirs: Any) -> Any:
        return (ours or 0) + (theirs or 0) - (old or 0)

    return merge_counter


def last_writer_wins() -> MergeFn:
    """Take theirs, its deletion included."""

    def merge_last_writer(old: Any, ours: Any, theirs: Any) -> Any:
        return THEIRS if theirs is None else theirs

    return merge_last_writer


def ours() -> MergeFn:
    """Take our side, its deletion included."""

    def merge_ours(old: Any, ours: Any, theirs: Any) -> Any:
        return OURS

    return merge_ours


def theirs() -> MergeFn:
    """Take their side, its deletion included."""

    def merge_theirs(old: Any, ours: Any, theirs: Any) -> Any:
        return THEIRS

    return merge_theirs


def maximum() -> MergeFn:
    """The larger value; of a value and a deletion, the value."""
    return _extreme("merge_maximum", lambda ours, theirs: theirs > ours)


def minimum() -> MergeFn:
    """The smaller value; of a value and a deletion, the value."""
    return _extreme("merge_minimum", lambda ours, theirs: theirs < ours)


def _extreme(name: str, theirs_wins: Callable[[Any, Any], Any]) -> MergeFn:
    def merge(old: Any, ours: Any, theirs: Any) -> Any:
        if ours is None:
            return THEIRS
        if theirs is None:
            return OURS
        return theirs if theirs_wins(ours, theirs) else ours

    merge.__name__ = merge.__qualname__ = name
    return merge


def set_union() -> MergeFn:
    """Merge sets, or lists and tuples taken as sets, item by item.

    What either side added is in, what either side removed is out. The result has the type of the sides;
    a list keeps our order, then has what only they added in their order, each item once. A deleted key
    counts as an emptied set; it stays deleted when nothing is left.

    Raises (as the conflict's error):
        TypeError: a side is no set, list or tuple, or the two are of different types.
    """

    def merge_set_union(old: Any, ours: Any, theirs: Any) -> Any:
        kind = _common_type("set_union", (set, frozenset, list, tuple), ours, theirs)
        base, ours_items, theirs_items = (_Items(side) for side in (old, ours, theirs))
        merged = _Items(None)
        for item in [*ours_items, *theirs_items]:
            if item not in base or (item in ours_items and item in theirs_items):
                merged.add(item)
        if not merged.items and (ours is None or theirs is None):
            return DELETE
        return kind(merged.items)

    return merge_set_union


class _Items:
    """Distinct items in order; those that cannot be hashed are compared one by one."""

    def __init__(self, items: Iterable[Any] | None) -> None:
        self.items: list[Any] = []
        self._hashed: set[Any] = set()
        self._others: list[Any] = []
        for item in () if items is None else items:
            self.add(item)

    def __contains__(self, item: Any) -> bool:
        try:
            return item in self._hashed
        except TypeError:
            return item in self._others

    def __iter__(self) -> Any:
        return iter(self.items)

    def add(self, item: Any) -> None:
        if item in self:
            return
        self.items.append(item)
        try:
            self._hashed.add(item)
        except TypeError:
            self._others.append(item)


def append_only_list(first: Literal["ours", "theirs"] = "ours") -> MergeFn:
    """Join lists that both sides only appended to: the old items, then the new ones of each side.

    Args:
        first: whose new items come first.

    Raises (as the conflict's error):
        TypeError: a side is no list or tuple.
        ValueError: a side removed or changed an old item, or deleted the key.
    """
    if first not in ("ours", "theirs"):
        raise ValueError(f'first is "ours" or "theirs", not {first!r}')

    def merge_append_only(old: Any, ours: Any, theirs: Any) -> Any:
        if ours is None or theirs is None:
            raise ValueError("append_only_list: the list was deleted on one side and changed on the other")
        kind = _common_type("append_only_list", (list, tuple), ours, theirs)
        base = kind() if old is None else old
        for name, side in (("ours", ours), ("theirs", theirs)):
            if side[: len(base)] != base:
                raise ValueError(f"append_only_list: {name} removed or changed an item instead of appending")
        upper, lower = (ours, theirs) if first == "ours" else (theirs, ours)
        return upper + lower[len(base) :]

    return merge_append_only


def _common_type(name: str, allowed: tuple[type, ...], ours: Any, theirs: Any) -> Callable[..., Any]:
    kinds = {type(side) for side in (ours, theirs) if side is not None}
    if len(kinds) == 1 and (kind := next(iter(kinds))) in allowed:
        return kind
    got = " and ".join(sorted(kind.__name__ for kind in kinds))
    wanted = ", ".join(kind.__name__ for kind in allowed)
    raise TypeError(f"{name} merges two values of one type of {wanted}; got {got}")


def nested_dict(leaf: MergeFn | MergeChoice | None = None) -> MergeFn:
    """Merge dicts key by key, and dicts in them likewise.

    A key changed on one side is taken from it, removed keys included. A key that both sides changed
    differently, and that is not a dict on both, goes to ``leaf``.

    Args:
        leaf: a merge function or choice for such keys, for instance ``theirs()``; None: they conflict.

    Returns:
        A function whose dicts have our order of keys, then those that only they have.

    Raises (as the conflict's error):
        ValueError: keys conflict and there is no ``leaf``; the message names all of them by path.
    """

    def merge_nested_dict(old: Any, ours: Any, theirs: Any) -> Any:
        faults: list[str] = []
        present = [_ABSENT if side is None else side for side in (old, ours, theirs)]
        merged = _merge_item((), _Sides(*present), leaf, faults)
        if faults:
            raise ValueError(f"nested_dict: changed on both sides: {', '.join(faults)}")
        return DELETE if merged is _ABSENT else merged

    return merge_nested_dict


class _Sides(NamedTuple):
    old: Any
    ours: Any
    theirs: Any


_Leaf: TypeAlias = MergeFn | MergeChoice | None


def _merge_item(path: tuple[Any, ...], sides: _Sides, leaf: _Leaf, faults: list[str]) -> Any:
    old, ours, theirs = sides
    if _same(ours, theirs) or _same(theirs, old):
        return ours
    if _same(ours, old):
        return theirs
    if isinstance(ours, dict) and isinstance(theirs, dict):
        base = old if isinstance(old, dict) else {}
        merged = {}
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            inner = _Sides(*[side.get(key, _ABSENT) for side in (base, ours, theirs)])
            item = _merge_item((*path, key), inner, leaf, faults)
            if item is not _ABSENT:
                merged[key] = item
        return merged
    if leaf is None:
        faults.append("".join(f"[{key!r}]" for key in path) or "the whole value")
        return ours
    choice = leaf
    if not isinstance(leaf, MergeChoice):
        choice = leaf(*[None if side is _ABSENT else side for side in sides])
    if isinstance(choice, MergeChoice):
        return {OURS: ours, THEIRS: theirs, DELETE: _ABSENT}[choice]
    return choice


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and bool(a == b))


def text_merge(
    labels: tuple[str, str] = ("ours", "theirs"), on_conflict: Literal["markers", "raise"] = "markers"
) -> MergeFn:
    """Merge ``str`` or UTF-8 ``bytes`` line by line, as ``git merge-file`` does.

    Args:
        labels: what stands behind the markers ``<<<<<<<`` and ``>>>>>>>``.
        on_conflict: "markers" puts both versions of contested lines between markers into the result;
            "raise" makes the key a conflict.

    Raises (as the conflict's error):
        TypeError: a side is not text.
        ValueError: the text was deleted on one side, or lines conflict and on_conflict is "raise".
    """
    if on_conflict not in ("markers", "raise"):
        raise ValueError(f'on_conflict is "markers" or "raise", not {on_conflict!r}')

    def merge_lines(old: Any, ours: Any, theirs: Any) -> Any:
        if ours is None or theirs is None:
            raise ValueError("text_merge: the text was deleted on one side and changed on the other")
        kind = _common_type("text_merge", (str, bytes), ours, theirs)
        base, ours_text, theirs_text = (_as_text(kind, side) for side in (old, ours, theirs))
        merged = merge_text(base, ours_text, theirs_text, labels)
        if merged.conflict_count and on_conflict == "raise":
            raise ValueError(f"text_merge: {merged.conflict_count} place(s) changed on both sides")
        return merged.text if kind is str else merged.text.encode("utf-8", "surrogateescape")

    return merge_lines


def _as_text(kind: Callable[..., Any], side: Any) -> str:
    if isinstance(side, bytes) and kind is bytes:
        return side.decode("utf-8", "surrogateescape")
    # An old value that was no text is as good as none: both sides wrote the text anew.
    return side if isinstance(side, str) and kind is str else ""
