"""Who wins where both sides of a merge changed a key.

Three kinds of rule, most specific first: for an exact key, for the longest prefix of it, the default.
A rule is a function or a standing choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from inspect import CO_VARARGS
from types import FunctionType, MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from kvgit_hamt.errors import InvalidInputError, KeyTypeError


class MergeChoice(Enum):
    """A side to take. Also what a merge function may return instead of a value."""

    OURS = "ours"
    THEIRS = "theirs"
    DELETE = "delete"

    def __repr__(self) -> str:
        return self.name


OURS: Final = MergeChoice.OURS
THEIRS: Final = MergeChoice.THEIRS
DELETE: Final = MergeChoice.DELETE

MergeFn: TypeAlias = Callable[[Any, Any, Any], Any]
"""(old, ours, theirs) -> the value or a MergeChoice; None where a side has no such key."""

MergeRule: TypeAlias = MergeFn | MergeChoice

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Standing(NamedTuple):
    """A prefix of which one side takes everything.

    ``except_keys`` and ``except_prefixes`` lie beneath it and have rules of their own; only when both
    are empty may the whole prefix be taken unread.
    """

    prefix: str
    choice: MergeChoice
    except_keys: tuple[str, ...]
    except_prefixes: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Nothing beneath the prefix has a rule of its own."""
        return not self.except_keys and not self.except_prefixes


@dataclass(frozen=True)
class MergePolicy:
    """The rules of a merge, checked when made.

    A function, wherever it stands, and a choice for an exact key or as default are asked only for keys
    that both sides changed differently. OURS or THEIRS for a *prefix* stands for the whole directory:
    that side has everything beneath, changes that only the other side made included, except where a more
    specific rule lies beneath. DELETE for a prefix is no side and is asked for contested keys only.

    Attributes:
        fns: exact key -> rule.
        prefixes: prefix -> rule; any string, "users/" covers a directory, "" everything.
        default: for keys no other rule covers; None leaves them in conflict.

    Raises:
        KeyTypeError: a key or prefix is not a ``str``.
        InvalidInputError: a rule is neither callable nor a MergeChoice, or a map is not a mapping.
    """

    fns: Mapping[str, MergeRule] = field(default_factory=lambda: _NOTHING)
    prefixes: Mapping[str, MergeRule] = field(default_factory=lambda: _NOTHING)
    default: MergeRule | None = None
    _lengths: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fns = _checked("merge_fns", self.fns)
        prefixes = _checked("merge_prefixes", self.prefixes)
        if self.default is not None:
            _check_rule("default_merge", self.default)
        put = object.__setattr__  # the one way to set a field of a frozen value
        put(self, "fns", fns)
        put(self, "prefixes", prefixes)
        put(self, "_lengths", tuple(sorted({len(prefix) for prefix in prefixes}, reverse=True)))

    @classmethod
    def of(
        cls,
        fns: Mapping[str, MergeRule] | None = None,
        prefixes: Mapping[str, MergeRule] | None = None,
        default: MergeRule | None = None,
    ) -> MergePolicy:
        """The policy of a call's three optional arguments; the same object when all are empty."""
        if fns is None and prefixes is None and default is None:
            return EMPTY_POLICY
        return cls(_NOTHING if fns is None else fns, _NOTHING if prefixes is None else prefixes, default)

    def __bool__(self) -> bool:
        return bool(self.fns or self.prefixes or self.default is not None)

    def over(self, other: MergePolicy) -> MergePolicy:
        """Both policies' rules; where they are equally specific, this one's.

        ``call.over(worktree).over(repo)`` is the order of a merge. A more specific rule of ``other``
        stands before a less specific one of this.
        """
        if not other:
            return self
        if not self:
            return other
        return MergePolicy(
            {**other.fns, **self.fns},
            {**other.prefixes, **self.prefixes},
            other.default if self.default is None else self.default,
        )

    def rule_for(self, key: str) -> MergeRule | None:
        """The most specific rule for a key both sides changed, None when no rule covers it."""
        rule = self.fns.get(key)
        if rule is not None:
            return rule
        prefix = self._longest_prefix(key)
        return self.default if prefix is None else self.prefixes[prefix]

    def standing_for(self, key: str) -> MergeChoice | None:
        """OURS or THEIRS when that side has this key even if it is not contested; else None."""
        if key in self.fns:
            return None
        prefix = self._longest_prefix(key)
        rule = None if prefix is None else self.prefixes[prefix]
        return rule if rule is OURS or rule is THEIRS else None

    def standing_prefixes(self) -> list[Standing]:
        """The prefixes with a standing OURS or THEIRS, sorted, each with what is excepted beneath.

        A nested prefix with the same choice is no exception and is not listed again.
        """
        found: list[Standing] = []
        for prefix in sorted(self.prefixes):
            choice = self.prefixes[prefix]
            if choice is not OURS and choice is not THEIRS:
                continue
            outer = self._longest_prefix(prefix[:-1]) if prefix else None
            if outer is not None and self.prefixes[outer] is choice:
                continue
            found.append(self._standing(prefix, choice))
        return found

    def _standing(self, prefix: str, choice: MergeChoice) -> Standing:
        beneath = sorted(other for other in self.prefixes if other != prefix and other.startswith(prefix))
        keys = sorted(key for key in self.fns if key.startswith(prefix))
        return Standing(
            prefix,
            choice,
            tuple(keys),
            tuple(other for other in beneath if self.prefixes[other] is not choice),
        )

    def _longest_prefix(self, key: str) -> str | None:
        prefixes = self.prefixes
        for length in self._lengths:
            # A key shorter than ``length`` is compared whole, which can only find a true prefix of it.
            head = key[:length]
            if head in prefixes:
                return head
        return None


def _checked(name: str, rules: object) -> Mapping[str, MergeRule]:
    if rules is _NOTHING:
        return _NOTHING
    if not isinstance(rules, Mapping):
        raise InvalidInputError(f"{name} maps keys to rules; got {type(rules).__name__}")
    for key, rule in rules.items():
        if not isinstance(key, str):
            raise KeyTypeError(f"{name}: keys are str, not {type(key).__name__} ({key!r})")
        _check_rule(f"{name}[{key!r}]", rule)
    return MappingProxyType(dict(rules))


def _check_rule(where: str, rule: Any) -> None:
    if isinstance(rule, MergeChoice):
        return
    if not callable(rule) or isinstance(rule, type):
        raise InvalidInputError(
            f"{where} must be a function (old, ours, theirs) or OURS, THEIRS, DELETE; got {rule!r}"
        )
    if isinstance(rule, FunctionType) and not _takes_three(rule):
        # The slip this is for: ``counter`` instead of ``counter()``.
        raise InvalidInputError(
            f"{where}: {rule.__name__} cannot be called with (old, ours, theirs); "
            "if it makes a merge function, call it"
        )


def _takes_three(fn: FunctionType) -> bool:
    code = fn.__code__
    required = code.co_argcount - len(fn.__defaults__ or ())
    return required <= 3 and (code.co_argcount >= 3 or bool(code.co_flags & CO_VARARGS))


EMPTY_POLICY: Final = MergePolicy()
