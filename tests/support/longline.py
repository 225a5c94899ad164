"""Histories that are long, made fast: many commits in one transaction."""

from __future__ import annotations

from kvgit_hamt import Repo
from kvgit_hamt.hamt import Editor, Tree
from kvgit_hamt.history import CommitMeta, put_commit
from kvgit_hamt.kernel import make_run
from kvgit_hamt.objects import RefValue
from kvgit_hamt.refs import HEADS

STEP = 2_000  # commits in a transaction
EDIT_EVERY = 10  # commits of which one changes a key
EPOCH_US = 1_700_000_000_000_000


def grow(repo: Repo, branch: str, count: int) -> None:
    """Append commits to a branch, one after another; the n-th has n in its info and as its time."""
    head = repo.read_head(branch)
    shape = repo.store.shape
    tree = Tree(*head.tree)
    for first in range(0, count, STEP):
        writer = repo.store.writer()
        start = head
        for n in range(first, min(count, first + STEP)):
            if n % EDIT_EVERY == 0:
                edit = make_run(shape, [(b"key/%d" % (n // EDIT_EVERY % 50), repo.codec.encode(n))])
                tree = Editor(writer, shape).apply(tree, edit)
            meta = CommitMeta(EPOCH_US + n, {"n": n}, repo.codec.name)
            head = put_commit(writer, tree, (head,), meta)
        move = repo.refs.update(HEADS + branch, RefValue(start.oid), RefValue(head.oid), "grown")
        assert writer.publish([move]) == 0


def create_branches(repo: Repo, names: list[str], at: str = "main") -> None:
    """Make many branches at one commit, in one transaction."""
    oid = repo.resolve_commit(at).oid
    moves = [repo.refs.update(HEADS + name, None, RefValue(oid), "branch: created") for name in names]
    repo.store.writer().publish(moves, [oid])
