"""Exit codes, and what the program says of an error: one line why, one what to do next."""

from __future__ import annotations

from typing import Final, NamedTuple

from kvgit_hamt import errors

OK: Final = 0
DIFFERENT: Final = 1  # of `diff --exit-code`
USAGE: Final = 2
NOT_FOUND: Final = 3
CONFLICT: Final = 4
CORRUPTION: Final = 5
FORMAT: Final = 6
ENVIRONMENT: Final = 7
INTERRUPTED: Final = 130  # what shells give for SIGINT
READER_GONE: Final = 141  # and for SIGPIPE

MEANINGS: Final = {
    OK: "done",
    DIFFERENT: "`diff --exit-code` found differences; a check of `demo` failed",
    USAGE: "the command cannot be right: an unknown option, a bad name, a value that cannot be stored",
    NOT_FOUND: "no such store, branch, tag, commit, key or file",
    CONFLICT: "a conflict: contested keys, a branch that moved, a name that is taken. Nothing was changed",
    CORRUPTION: "stored bytes are damaged or missing",
    FORMAT: "a store or file of another format than expected, a malformed line, what a format cannot hold",
    ENVIRONMENT: "the environment: disk, rights, locks, a part that is not installed",
    INTERRUPTED: "interrupted (Ctrl-C)",
    READER_GONE: "whoever read the output went away, as `head` does",
}


class Failure(Exception):
    """An error that the command line itself finds."""

    def __init__(self, code: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class ReaderGone(Exception):
    """Whoever read stdout has closed it."""


class Explained(NamedTuple):
    """What to tell of an error."""

    code: int
    message: str
    hint: str


PATH_HINT: Final = "see whether the path is right"
PLACE_HINT: Final = "see whether there is room, and who may read and write there"

# The library's errors speak of its calls; here they are options.
WORDS: Final = (
    ("; create it with branches.create", ""),
    ("say with mainline=1.. which parent", "say with --mainline N which parent"),
    ("or force it", "or give --force"),
)

# Most specific first.
_RULES: Final[tuple[tuple[type[BaseException], int, str], ...]] = (
    (errors.BranchNotFoundError, NOT_FOUND, "`{prog} branch` lists the branches"),
    (errors.TagNotFoundError, NOT_FOUND, "`{prog} tag` lists the tags"),
    (errors.CommitNotFoundError, NOT_FOUND, "`{prog} log --oneline` and `{prog} reflog` list commits"),
    (errors.BundlePrerequisiteError, NOT_FOUND, "load the bundle first that holds them"),
    (errors.NotFoundError, NOT_FOUND, ""),
    (errors.BranchExistsError, CONFLICT, "take another name; `{prog} reset` moves a branch"),
    (errors.ExistsError, CONFLICT, "take another name, or delete that one first"),
    (errors.MergeConflict, CONFLICT, "settle them with --ours or --theirs PREFIX, or in a terminal"),
    (errors.NotFastForwardError, CONFLICT, "--force moves it; the reflog keeps where it was"),
    (errors.ConflictError, CONFLICT, "run the command again"),
    (errors.StoreRolledBackError, CORRUPTION, "put the newest data file back, or restore a backup"),
    (errors.CorruptionError, CORRUPTION, "`{prog} check` tells what is damaged; restore it from a backup"),
    (errors.FormatVersionError, FORMAT, "open it with the kvgit-hamt that wrote it, or a newer one"),
    (errors.LockedError, ENVIRONMENT, "wait for the other process, or stop it; then run the command again"),
    (errors.StoreFullError, ENVIRONMENT, "make room on the device, or run `{prog} gc` and `{prog} compact`"),
    (errors.ReadOnlyError, ENVIRONMENT, "see who owns the directory and whether it may be written"),
    (errors.OutcomeUnknownError, ENVIRONMENT, "`{prog} log -n 1` tells whether the commit is there"),
    (errors.BackendError, ENVIRONMENT, ""),
    (errors.AmbiguousCommitError, USAGE, "give more characters of the id"),
    (errors.SourceError, FORMAT, ""),
    (errors.EncodeError, USAGE, ""),
    (errors.InvalidInputError, USAGE, ""),
    (errors.StateError, CONFLICT, "run the command again"),
    (errors.KvgitHamtError, ENVIRONMENT, ""),
    (FileNotFoundError, NOT_FOUND, PATH_HINT),
    (OSError, ENVIRONMENT, PLACE_HINT),
)  # fmt: skip


def of_source(error: errors.SourceError) -> tuple[int, str]:
    """The exit code and hint for a file: what is in it is wrong, or it cannot be read or written at all."""
    if isinstance(error.__cause__, FileNotFoundError):
        return NOT_FOUND, PATH_HINT
    if isinstance(error.__cause__, OSError) or "cannot be written: " in str(error):
        return ENVIRONMENT, PLACE_HINT
    return FORMAT, ""


def explain(error: BaseException, prog: str) -> Explained | None:
    """The exit code, message and hint for an error; None for one that is a fault of the program."""
    if isinstance(error, Failure):
        return Explained(error.code, str(error), error.hint.replace("{prog}", prog))
    for kind, code, hint in _RULES:
        if isinstance(error, kind):
            message = str(error) or type(error).__name__
            for word, option in WORDS:
                message = message.replace(word, option)
            if isinstance(error, errors.SourceError):
                code, hint = of_source(error)
            if isinstance(error, OSError) and error.strerror:
                message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
            return Explained(code, message, hint.replace("{prog}", prog))
    return None
