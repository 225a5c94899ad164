"""Bad input gives a clear error at once, which names the way out, and nothing is changed by it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import wire
from kvgit_hamt.backend.base import Batch, RefUpdate
from kvgit_hamt.codec import Codec
from kvgit_hamt.objects import encode_config
from kvgit_hamt.refs import CONFIG
from tests.support.homes import KINDS, Home, raised_by, state_of

LONG = "x" * 70_000
SURROGATE = "a\ud800b"
LONG_NAME = "n" * 201
EVERYTHING_BAD_AS_A_KEY = [(5, "int"), (b"a", "bytes"), (None, "NoneType"), (("a",), "tuple"), (1.5, "float")]


@pytest.fixture(params=KINDS)
def home(request, tmp_path):
    home = Home(request.param, tmp_path)
    yield home
    home.close()


@pytest.fixture
def repo(home):
    repo = home.open()
    worktree = repo.worktree()
    worktree.update({"a": 1, "b/c": 2})
    worktree.commit()
    repo.branches.create("side")
    repo.tags.create("v1")
    return repo


@pytest.fixture
def worktree(repo):
    worktree = repo.worktree()
    worktree["pending"] = 1
    del worktree["a"]
    return worktree


@pytest.fixture
def refused(repo, worktree):
    """refused(call, type, text): the call raises that, and what was there is as it was."""

    def check(call, kind, text):
        before = (state_of(repo), worktree.status(), worktree.base, dict(worktree))
        error = raised_by(call)
        assert type(error) is kind, repr(error)
        assert isinstance(error, kvgit.KvgitHamtError)
        assert text in str(error)
        assert len(str(error)) < 500
        assert (state_of(repo), worktree.status(), worktree.base, dict(worktree)) == before

    return check


def key_calls(repo, worktree, key):
    snapshot = repo.snapshot()
    return {
        "get": lambda: worktree.get(key),
        "getitem": lambda: worktree[key],
        "in": lambda: key in worktree,
        "set": lambda: worktree.__setitem__(key, 1),
        "del": lambda: worktree.__delitem__(key),
        "pop": lambda: worktree.pop(key, None),
        "setdefault": lambda: worktree.setdefault(key, 1),
        "update": lambda: worktree.update([("good", 1), (key, 1)]),
        "get_many": lambda: worktree.get_many(["a", key]),
        "discard": lambda: worktree.discard(["pending", key]),
        "commit keys": lambda: worktree.commit(keys=["pending", key]),
        "in keys": lambda: key in worktree.keys("p"),
        "snapshot get": lambda: snapshot.get(key),
        "snapshot raw": lambda: snapshot.raw[key],
        "load": lambda: repo.worktree().load([("good", 1), (key, 1)]),
    }


@pytest.mark.parametrize(("key", "kind"), EVERYTHING_BAD_AS_A_KEY)
def test_a_key_that_is_no_str_is_refused(repo, worktree, refused, key, kind):
    for name, call in key_calls(repo, worktree, key).items():
        if name != "load":  # leaves unreachable records: see test_worktree
            refused(call, kvgit.KeyTypeError, f"str, not {kind}")
    assert isinstance(raised_by(key_calls(repo, worktree, key)["load"]), kvgit.KeyTypeError)
    assert issubclass(kvgit.KeyTypeError, TypeError)
    if key is not None:
        refused(lambda: list(repo.log(key=key)), kvgit.KeyTypeError, f"str, not {kind}")
        refused(lambda: list(repo.log(prefix=key)), kvgit.KeyTypeError, f"str, not {kind}")
        refused(lambda: worktree.keys(key), kvgit.KeyTypeError, f"str, not {kind}")
        refused(lambda: repo.diff("main", "main", prefix=key), kvgit.KeyTypeError, f"str, not {kind}")
    refused(lambda: worktree.commit(merge_fns={key: kvgit.OURS}), kvgit.KeyTypeError, kind)
    refused(lambda: worktree.commit(merge_prefixes={key: kvgit.OURS}), kvgit.KeyTypeError, kind)


@pytest.mark.parametrize(("key", "text"), [(LONG, "65,535"), (SURROGATE, "lone surrogate")])
def test_a_key_that_cannot_be_stored_is_refused(repo, worktree, refused, key, text):
    for name, call in key_calls(repo, worktree, key).items():
        if name != "load":
            refused(call, kvgit.InvalidKeyError, text)
    assert isinstance(raised_by(key_calls(repo, worktree, key)["load"]), kvgit.InvalidKeyError)
    refused(lambda: worktree.items(key), kvgit.InvalidKeyError, text)
    refused(lambda: list(repo.log(key=key)), kvgit.InvalidKeyError, text)


def test_the_longest_key_is_accepted(repo):
    worktree = repo.worktree()
    key = "k" * 65_535
    worktree[key] = 1
    worktree.commit()
    assert repo.snapshot()[key] == 1
    assert list(repo.snapshot().keys("kk")) == [key]


def test_one_str_where_keys_are_wanted_is_refused(worktree, refused):
    refused(lambda: worktree.commit(keys="pending"), kvgit.InvalidInputError, "list of keys")
    refused(lambda: worktree.get_many("pending"), kvgit.InvalidInputError, "list of keys")
    refused(lambda: worktree.discard("pending"), kvgit.InvalidInputError, "list of keys")


def test_a_commit_of_a_key_without_an_edit_is_refused(worktree, refused):
    refused(lambda: worktree.commit(keys=["pending", "b/c"]), kvgit.InvalidInputError, "'b/c'")


@pytest.mark.parametrize("bad", [object(), {1, 2}, 1 << 70, (1, 2), {"x": [1j]}, SURROGATE])
def test_one_value_that_cannot_be_encoded_among_a_thousand_loses_none(worktree, refused, bad):
    values = {f"k{i}": i for i in range(1000)}
    for key, value in values.items():
        worktree[key] = value
    refused(lambda: worktree.__setitem__("k500", bad), kvgit.EncodeError, "key 'k500'")
    refused(lambda: worktree.__setitem__("new", bad), kvgit.EncodeError, 'codec="pickle"')
    refused(lambda: worktree.setdefault("new", bad), kvgit.EncodeError, type(bad).__name__)
    many = {**{f"k{i}": -i for i in range(1000)}, "k700": bad}
    refused(lambda: worktree.update(many), kvgit.EncodeError, "key 'k700'")
    worktree.commit()
    assert dict(worktree) == {**values, "pending": 1, "b/c": 2}


def test_other_codecs_name_the_way_out_too(tmp_path):
    for codec, bad, text in (
        ("pickle", lambda: 0, "(encoder, decoder)"),
        ("bytes", "text", "encode it first"),
    ):
        worktree = kvgit.open(codec=codec)
        error = raised_by(lambda worktree=worktree, bad=bad: worktree.__setitem__("a", bad))
        assert isinstance(error, kvgit.EncodeError)
        assert text in str(error)
        assert not worktree.has_changes


BAD_NAMES = [
    ("", "empty"),
    (LONG_NAME, "longer than 200"),
    ("a" * 100_000, "longer than 200"),
    ("a/", "end with /"),
    ("/a", "start with /"),
    ("a//b", "//"),
    ("a b", "a space"),
    ("a\0", "control character"),
    ("-a", "start with / or -"),
    ("a..b", ".."),
    ("a.lock", ".lock"),
    ("x/.hidden", "starts with ."),
    ("@", "@"),
    (SURROGATE, "lone surrogate"),
    (5, "not int"),
    (None, "not NoneType"),
    (b"main", "not bytes"),
]


@pytest.mark.parametrize(("name", "text"), BAD_NAMES)
def test_a_bad_name_is_refused_with_the_rule_it_breaks(repo, refused, name, text):
    for call in (
        lambda: repo.branches.create(name),
        lambda: repo.branches.delete(name),
        lambda: repo.branches[name],
        lambda: repo.branches.get(name),
        lambda: repo.branches.rename(name, "new"),
        lambda: repo.branches.rename("side", name),
        lambda: repo.worktree(name),
        lambda: repo.worktree(name, create=True),
        lambda: repo.tags.create(name),
        lambda: repo.tags.delete(name),
        lambda: repo.tags[name],
        lambda: repo.tags.get(name),
        lambda: repo.tags.info(name),
        lambda: repo.reflog(name),
    ):
        refused(call, kvgit.InvalidNameError, text)
    if name is not None:
        refused(lambda: repo.snapshot(branch=name), kvgit.InvalidNameError, text)
        refused(lambda: repo.snapshot(tag=name), kvgit.InvalidNameError, text)
    assert name not in repo.branches
    assert name not in repo.tags


@pytest.mark.parametrize("name", ["", LONG_NAME, "a/", 5])
def test_a_bad_branch_name_makes_no_store(tmp_path, name):
    path = tmp_path / "new"
    error = raised_by(lambda: kvgit.open(path, branch=name))
    assert isinstance(error, kvgit.InvalidNameError)
    assert not path.exists()


def test_names_up_to_the_longest_work(repo):
    for name in ("n" * 200, "é" * 100, "feature/x", "HEAD", "a.b", "日本", "v1.0-rc"):
        repo.branches.create(name)
        repo.tags.create(name)
        assert name in repo.branches
        repo.worktree(name).commit(info={})
        repo.branches.rename(name, f"{name[:-1]}z" if len(name) > 50 else f"{name}z")


def test_a_missing_branch_or_tag_names_the_way_out(repo, refused):
    missing = kvgit.BranchNotFoundError
    refused(lambda: repo.worktree("none"), missing, "branches.create")
    refused(lambda: repo.snapshot(branch="none"), missing, "'none'")
    refused(lambda: repo.branches.delete("none"), missing, "'none'")
    refused(lambda: repo.branches.rename("none", "new"), missing, "'none'")
    refused(lambda: repo.snapshot(tag="none"), kvgit.TagNotFoundError, "'none'")
    refused(lambda: repo.tags.delete("none"), kvgit.TagNotFoundError, "'none'")
    refused(lambda: repo.branches.create("side"), kvgit.BranchExistsError, "'side'")
    refused(lambda: repo.branches.rename("main", "side"), kvgit.BranchExistsError, "'side'")
    refused(lambda: repo.tags.create("v1"), kvgit.TagExistsError, "never move")


def commit_calls(repo, worktree, text):
    clean = repo.worktree()
    return [
        lambda: repo.get_commit(text),
        lambda: repo.snapshot(commit=text),
        lambda: repo.log(text),
        lambda: repo.diff(text, "main"),
        lambda: repo.diff("main", text),
        lambda: repo.diff_stat("main", text),
        lambda: repo.merge_base("main", text),
        lambda: repo.branches.create("new", at=text),
        lambda: repo.tags.create("new", at=text),
        lambda: clean.merge(commit=text),
        lambda: clean.reset(text),
        lambda: clean.cherry_pick(text),
        lambda: clean.revert(text),
        lambda: clean.apply(text, "main"),
        lambda: clean.apply("main", text),
    ]


@pytest.mark.parametrize(
    ("text", "kind", "part"),
    [
        ("0" * 64, kvgit.CommitNotFoundError, "no commit"),
        ("0" * 12, kvgit.CommitNotFoundError, "no commit"),
        ("0" * 65, kvgit.CommitNotFoundError, "up to 64 hex digits"),
        ("no-such-branch", kvgit.CommitNotFoundError, "up to 64 hex digits"),
        ("abc", kvgit.InvalidInputError, "4 characters or more"),
        ("", kvgit.InvalidInputError, "4 characters or more"),
        (5, kvgit.InvalidInputError, "str of hex digits, not int"),
        (b"abcd", kvgit.InvalidInputError, "str of hex digits, not bytes"),
        (SURROGATE, kvgit.InvalidInputError, "4 characters or more"),
        (SURROGATE * 9, kvgit.CommitNotFoundError, "up to 64 hex digits"),
        ("e" * 100_000, kvgit.CommitNotFoundError, "up to 64 hex digits"),
    ],
)
def test_a_commit_id_that_names_nothing_is_refused(repo, worktree, refused, text, kind, part):
    for call in commit_calls(repo, worktree, text):
        refused(call, kind, part)


def test_an_ambiguous_commit_id_is_refused_and_says_which_it_could_be(repo, worktree, refused):
    loader = repo.worktree("side")
    seen = {}
    for number in range(3000):
        commit = loader.commit(info={"n": number}, time=None).commit
        if commit[:4] in seen:
            break
        seen[commit[:4]] = commit
    both = sorted([commit, seen[commit[:4]]])
    for call in commit_calls(repo, worktree, commit[:4]):
        refused(call, kvgit.AmbiguousCommitError, "give more of the id")
    assert both[0][:8] in str(raised_by(lambda: repo.get_commit(commit[:4])))
    assert repo.get_commit(commit[:40].upper()).id == commit


def test_calls_that_name_no_commit_or_two_are_refused(repo, worktree, refused):
    clean = repo.worktree()
    for call in (
        clean.merge,
        lambda: clean.merge(branch="side", tag="v1"),
        lambda: repo.snapshot(branch="main", commit="0000"),
        lambda: repo.snapshot(tag="v1", branch="main"),
    ):
        refused(call, kvgit.InvalidInputError, "exactly one of branch, tag and commit")


def test_merges_with_pending_changes_are_refused(worktree, refused):
    for call in (
        lambda: worktree.merge(branch="side"),
        lambda: worktree.merge(branch="side", dry_run=True),
        lambda: worktree.cherry_pick("side"),
        lambda: worktree.revert("side"),
        lambda: worktree.apply("main", "side"),
        lambda: worktree.reset("side"),
        lambda: worktree.load({}),
    ):
        refused(call, kvgit.PendingChangesError, "2 pending edit(s); commit or discard them first")


OPTIONS = [
    ("commit", {"on_moved": "retry"}, "'merge', 'raise'"),
    ("commit", {"on_moved": None}, "'merge', 'raise'"),
    ("commit", {"on_conflict": "ours"}, "'raise', 'abandon'"),
    ("commit", {"on_conflict": []}, "'raise', 'abandon'"),
    ("commit", {"time": "today"}, "'now'"),
    ("commit", {"time": True}, "seconds since 1970, not bool"),
    ("commit", {"time": float("nan")}, "nan"),
    ("commit", {"time": float("inf")}, "inf"),
    ("commit", {"time": 1.7e12}, "seconds"),
    ("commit", {"time": -1e12}, "seconds"),
    ("commit", {"time": 10**30}, "seconds"),
    ("commit", {"time": [1]}, "not list"),
    ("commit", {"info": 5}, "info is a mapping, not int"),
    ("commit", {"info": "text"}, "info is a mapping, not str"),
    ("commit", {"info": {"a": object()}}, "plain data"),
    ("commit", {"info": {1: "a"}}, "str keys"),
    ("commit", {"info": {"a": 1 << 70}}, "plain data"),
    ("commit", {"info": {"a": SURROGATE}}, "plain data"),
    ("commit", {"merge_fns": [1]}, "merge_fns maps keys to rules"),
    ("commit", {"merge_fns": {"a": "ours"}}, "OURS, THEIRS, DELETE"),
    ("commit", {"merge_prefixes": {"a": 1}}, "OURS, THEIRS, DELETE"),
    ("commit", {"default_merge": kvgit.counter}, "call it"),
    ("merge", {"on_conflict": "ignore"}, "'raise', 'abandon'"),
    ("merge", {"time": "today"}, "'now'"),
    ("merge", {"info": [1]}, "info is a mapping, not list"),
    ("merge", {"info": {"a": {1}}}, "plain data"),
    ("merge", {"default_merge": "theirs"}, "OURS, THEIRS, DELETE"),
    ("pick", {"on_conflict": "ignore"}, "'raise', 'abandon'"),
    ("pick", {"info": {"a": {1}}}, "plain data"),
    ("pick", {"merge_fns": {"a": 7}}, "OURS, THEIRS, DELETE"),
    ("load", {"info": {"a": {1}}}, "plain data"),
    ("load", {"time": "today"}, "'now'"),
]


@pytest.mark.parametrize(("method", "options", "text"), OPTIONS)
def test_unknown_option_values_are_refused(repo, worktree, refused, method, options, text):
    other = repo.worktree("side")
    other["x"] = 1
    other.commit()
    clean = repo.worktree()
    call = {
        "commit": lambda: worktree.commit(**options),
        "merge": lambda: clean.merge(branch="side", fast_forward=False, **options),
        "pick": lambda: clean.cherry_pick("side", **options),
        "load": lambda: clean.load({"a": 1}, **options),
    }[method]
    refused(call, kvgit.InvalidInputError, text)


def test_a_time_a_caller_gave_can_be_shown_again(repo):
    worktree = repo.worktree()
    for when in (-62_135_596_800, 253_402_300_799, 0, -0.000001):
        worktree.commit(info={}, time=when)
        assert repo.get_commit("main").time.timestamp() == when
    assert len(list(repo.log())) == 6


def test_unknown_values_for_views_and_lists_are_refused(repo, worktree, refused):
    bad = kvgit.InvalidInputError
    refused(lambda: repo.log(limit=-1), bad, "limit is 0 or more")
    refused(lambda: repo.reflog(limit=-1), bad, "limit is 0 or more")
    refused(lambda: repo.log(limit="1"), bad, "limit is 0 or more")
    refused(lambda: repo.snapshot(as_of="monday"), bad, "seconds since 1970")
    refused(lambda: worktree.sample(-1), bad, "-1")
    refused(lambda: repo.snapshot().sample(-1), bad, "-1")
    refused(lambda: repo.tags.create("t", info={"a": object()}), bad, "plain data")
    refused(lambda: repo.tags.create("t", info=5), bad, "plain data")
    refused(lambda: repo.snapshot(as_of=-1), kvgit.CommitNotFoundError, "that old")


def test_an_unknown_option_is_a_type_error(worktree):
    with pytest.raises(TypeError):
        worktree.cherry_pick("main", on_conflicts="raise")
    with pytest.raises(TypeError):
        worktree.commit(message="x")


# --- opening


@pytest.mark.parametrize(
    "codec", ["json", "", 5, b"pickle", ("a", "b"), (len,), (len, len, len), [len, len], object()]
)
def test_a_bad_codec_is_refused_before_a_store_is_made(tmp_path, codec):
    path = tmp_path / "new"
    error = raised_by(lambda: kvgit.open(path, codec=codec))
    assert isinstance(error, kvgit.InvalidInputError)
    assert "codec" in str(error)
    assert not path.exists()


def test_another_codec_than_the_stores_is_refused_and_names_it(home, repo):
    before = state_of(repo)
    for codec in ("pickle", "bytes", (lambda x: x, lambda x: x), Codec("mine", bytes, bytes)):
        error = raised_by(lambda codec=codec: home.open(codec=codec))
        assert type(error) is kvgit.InvalidInputError
        assert "codec='msgpack'" in str(error)
    assert state_of(repo) == before
    assert home.open(codec="msgpack").snapshot()["a"] == 1


def test_a_refused_codec_leaves_the_backend_that_was_handed_over_open(home):
    backend = home.backend()
    kvgit.Repo(backend).worktree().commit(info={})
    assert isinstance(raised_by(lambda: kvgit.Repo(backend, codec="pickle")), kvgit.InvalidInputError)
    assert len(list(kvgit.Repo(backend).log())) == 2
    backend.close()


def test_a_store_with_a_pair_of_its_own_asks_for_it(home):
    pair = (lambda value: str(value).encode(), lambda data: data.decode())
    home.open(codec=pair).worktree().commit(info={})
    error = raised_by(home.open)
    assert type(error) is kvgit.InvalidInputError
    assert "codec=(encoder, decoder)" in str(error)


@pytest.mark.parametrize(
    "options",
    [
        {"cache_bytes": -1},
        {"merge_fns": 5},
        {"merge_fns": {"a": 1}},
        {"default_merge": "x"},
        {"cache_bytes": "1"},
    ],
)
def test_bad_options_of_open_make_no_store(tmp_path, options):
    path = tmp_path / "new"
    assert isinstance(raised_by(lambda: kvgit.open(path, **options)), kvgit.InvalidInputError)
    assert not path.exists()


@pytest.mark.parametrize("where", [5, b"path", "", object(), ["a"]])
def test_a_place_that_can_be_none_is_refused(where):
    error = raised_by(lambda: kvgit.Repo(where))
    assert type(error) is kvgit.InvalidInputError
    assert "directory" in str(error)


def newer_config(repo, **changes):
    fields = wire.unpack(repo.store.backend.get_ref(CONFIG), "config")
    return wire.pack({**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": 2}, "Install a kvgit_hamt that knows it"),
        ({"format": "1"}, "format version '1'"),
        ({"hash": "xxh4"}, "parameters"),
        ({"bits": 5}, "parameters"),
        ({"bits": "6"}, "parameters"),
        ({"future": 1}, "parameters"),
    ],
)
def test_a_store_of_a_newer_format_is_refused_and_not_touched(home, repo, changes, text):
    backend = repo.store.backend
    old, new = backend.get_ref(CONFIG), newer_config(repo, **changes)
    backend.publish(Batch(refs=[RefUpdate(CONFIG, old, new, None)]))
    before = state_of(repo)
    error = raised_by(home.open)
    assert type(error) is kvgit.FormatVersionError
    assert text in str(error)
    assert state_of(repo) == before
    backend.publish(Batch(refs=[RefUpdate(CONFIG, new, old, None)]))
    assert home.open().snapshot()["a"] == 1


def test_a_description_that_is_none_is_corruption(home, repo):
    backend = repo.store.backend
    old = backend.get_ref(CONFIG)
    for bad in (b"", b"junk", wire.pack([1]), wire.pack({"bits": 6}), old + b"\0"):
        backend.publish(Batch(refs=[RefUpdate(CONFIG, old, bad, None)]))
        assert type(raised_by(home.open)) is kvgit.CorruptionError
        backend.publish(Batch(refs=[RefUpdate(CONFIG, bad, old, None)]))


def test_a_description_says_what_the_store_was_made_with(repo):
    config = repo.store.backend.get_ref(CONFIG)
    assert encode_config(kvgit.repo._config_of(repo.store.backend, None, None, None)) == config


def test_a_path_that_is_a_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"mine")
    for place in (path, path / "below"):
        error = raised_by(lambda place=place: kvgit.open(place))
        assert type(error) is kvgit.BackendError
        assert str(place) in str(error)
    assert "a store is a directory" in str(raised_by(lambda: kvgit.open(path)))
    assert path.read_bytes() == b"mine"


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert type(raised_by(lambda: kvgit.open(tmp_path))) is kvgit.BackendError
    assert os.listdir(tmp_path) == ["notes.txt"]


CHILD = """
import ctypes, os, sys
import kvgit_hamt as kvgit
if os.getuid() == 0:  # root without its capabilities is bound by permissions as anybody
    empty = ctypes.create_string_buffer(24)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None).capset(header, empty):
        sys.exit("cannot drop capabilities")
try:
    kvgit.open(sys.argv[1])
except kvgit.KvgitHamtError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX only")
@pytest.mark.skipif(sys.platform != "linux" and os.getuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("place", ["the directory", "below it", "a store"])
def test_a_read_only_directory_is_refused_with_its_name(tmp_path, place):
    here = tmp_path / "locked"
    if place == "a store":
        kvgit.open(here).close()
        for name in os.listdir(here):
            os.chmod(here / name, 0o444)
    else:
        here.mkdir()
    before = sorted(os.listdir(here))
    os.chmod(here, 0o555)
    path = here / "below" if place == "below it" else here
    try:
        child = subprocess.run(
            [sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=False
        )
    finally:
        os.chmod(here, 0o755)
    assert child.stdout.startswith("ReadOnlyError"), child
    assert str(here) in child.stdout
    assert child.stderr == ""
    assert sorted(os.listdir(here)) == before


# --- use after close


def test_everything_raises_after_close(home, repo, worktree):
    snapshot, items = repo.snapshot(), iter(repo.snapshot().items())
    clean = repo.worktree()
    first = list(repo.log())[-1].id
    log, diff = repo.log(), repo.diff(first, "main")
    repo.close()
    repo.close()
    for call in (
        lambda: repo.worktree(), lambda: repo.worktree("new", create=True), lambda: repo.snapshot(),
        lambda: repo.get_commit("main"), lambda: repo.log(), lambda: next(log), lambda: list(diff),
        lambda: repo.merge_base("main", "side"), lambda: repo.diff("main", "side"), lambda: repo.reflog(),
        lambda: repo.diff_stat("main", "side"), lambda: repo.stats(), lambda: repo.branches["main"],
        lambda: list(repo.branches), lambda: len(repo.tags), lambda: "main" in repo.branches,
        lambda: repo.branches.create("new"), lambda: repo.tags.create("new"),
        lambda: repo.branches.delete("side"), lambda: repo.branches.rename("side", "new"),
        lambda: repo.tags.info("v1"),
        lambda: worktree["b/c"], lambda: worktree.get("b/c"), lambda: "b/c" in worktree,
        lambda: worktree.__setitem__("b/c", 1), lambda: worktree.__delitem__("b/c"), worktree.refresh,
        lambda: worktree.update({"b/c": 1}), lambda: worktree.commit(), lambda: len(worktree),
        lambda: list(worktree), lambda: list(worktree.items("b")), lambda: list(worktree.diff()),
        lambda: worktree.pop("b/c"), worktree.clear, lambda: worktree.get_many(["b/c"]),
        lambda: worktree.sample(1), lambda: worktree.byte_size,
        lambda: clean.merge(branch="side"), lambda: clean.apply("main", "side"), lambda: clean.load({}),
        lambda: clean.cherry_pick("side"), lambda: clean.revert("side"), lambda: clean.reset("side"),
        lambda: snapshot["a"], lambda: len(snapshot), lambda: list(snapshot), lambda: snapshot.raw["a"],
        lambda: list(snapshot.raw.items()), lambda: snapshot.sample(1), lambda: list(items) and None,
    ):  # fmt: skip
        error = raised_by(call)
        assert type(error) is kvgit.ClosedError, error
    assert "closed" in repr(repo)
    assert home.open().snapshot()["a"] == 1
