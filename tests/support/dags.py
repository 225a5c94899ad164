"""Random histories, made in a repository and in the model at once."""

from __future__ import annotations

import random

from kvgit_hamt import Repo
from kvgit_hamt.hamt import Editor, Tree
from kvgit_hamt.history import CommitMeta, put_commit
from kvgit_hamt.objects import RefValue
from kvgit_hamt.refs import HEADS
from kvgit_hamt.run import make_run
from tests.support.history import Histories


def grow(repo: Repo, rng: random.Random, count: int, keys: list[str], parents_max: int = 2) -> Histories:
    """Commit ``count`` times on random parents, each with a branch ``c0``, ``c1``, .. of its own.

    Merges have any content, times run backwards now and then or are missing, so nothing but the
    graph itself can give the right order.
    """
    model = Histories()
    initial = repo.branches["main"]
    model.add(initial, {}, ())
    names = [initial]
    encode = repo.codec.encode
    while len(names) <= count:
        recent = names[-rng.choice([3, 8, 8, 1000]) :]
        parents = tuple(dict.fromkeys(rng.choice(recent) for _ in range(rng.randint(1, parents_max))))
        content = dict(model.nodes[rng.choice(parents)].content)
        for _ in range(rng.randint(0, 3)):
            key = rng.choice(keys)
            content[key] = rng.randint(0, 3)
            if rng.random() < 0.3:
                del content[key]
        when = rng.choice([None, rng.randint(0, 40) * 1_000_000])
        writer = repo.store.writer()
        commits = [repo.resolve_commit(parent) for parent in parents]
        empty = Tree(*repo.resolve_commit(initial).tree)
        run = make_run(repo.store.shape, [(key.encode(), encode(value)) for key, value in content.items()])
        tree = Editor(writer, repo.store.shape).apply(empty, run)
        meta = CommitMeta(when, {"n": len(names)}, repo.codec.name)
        commit = put_commit(writer, tree, tuple(commits), meta)
        ref = repo.refs.update(HEADS + f"c{len(names)}", None, RefValue(commit.oid), "test")
        writer.publish([ref])
        time = None if when is None else when / 1_000_000
        names.append(model.add(commit.oid.hex(), content, tuple(c.oid.hex() for c in commits), time))
    return model
