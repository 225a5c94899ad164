"""Whatever is typed: an exit code that is documented, and never a traceback."""

from __future__ import annotations

import os

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgit_hamt.cli import exits
from kvgit_hamt.cli.program import program
from tests.cli.test_program import COMMANDS
from tests.support.cli import Kvh

LEFT_OUT = {"demo", "bench"}  # long; their arguments are a directory, and another program's
WORDS = [
    '', '-', '--', 'a', 'motd', 'user/', 'user/1', 'main', 'dev', 'v1', '@', 'HEAD', 'main~1',
    'main~99999999999999999999', 'main^2', 'main^99999999999999999999', '@{0}', '@{1}',
    '@{99999999999999999999}', '@{now}', '@{-1}', 'main@{', 'main~x', '~', '^', '..', '...',
    'main..dev', 'main...dev', 'v1:motd', ':', '\x1b[31m', 'é', '{', '[1]', '{"$bytes": 1}', 'NaN',
    '1', '-1', '99999999999999999999', '1e9', '0', '2026-01-31', '3 days ago', '0001-01-01',
    '9999-12-31T23:59:59-14:00', 'none', 'x=y', '=', '*=x/*', 'file', 'store', '/nowhere/x',
    '\udcff',
    "x" * 300,
]  # fmt: skip


@pytest.fixture(scope="module")
def kvh(tmp_path_factory):
    base = tmp_path_factory.mktemp("any")
    call = Kvh(base / "store")
    call("init", str(call.directory))
    call("set", "motd", "hello", "-m", "first")
    call("branch", "dev")
    call("set", "user/1", "x")
    call("tag", "v1")
    (base / "file").write_text('{"key": "a", "value": 1}\n')
    before = os.getcwd()
    os.chdir(base)
    yield call
    os.chdir(before)


@st.composite
def calls(draw):
    """A command with some of its options and arguments, most of them wrong."""
    name = draw(st.sampled_from(sorted(set(COMMANDS) - LEFT_OUT)))
    words = list(name.split())
    for option in draw(st.lists(st.sampled_from(list(COMMANDS[name].params)), max_size=4)):
        if isinstance(option, click.Option):
            if option.name == "store":
                continue
            words.append(draw(st.sampled_from([*option.opts, *option.secondary_opts])))
            if not option.is_flag and not option.flag_value:
                words.append(draw(word))
        else:
            words.append(draw(word))
    return words


# What a shell can pass: any bytes but NUL.
word = st.sampled_from(WORDS) | st.binary(max_size=5).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))


@settings(max_examples=300)
@given(calls(), st.sampled_from(["", "{}", '{"key": "a", "value": 1}', "x\n", "\x00"]))
def test_any_arguments_end_in_a_documented_exit_code(kvh, words, given_in):
    runner = CliRunner(env={"KVGIT_HAMT_STORE": str(kvh.directory)})
    done = runner.invoke(program, words, prog_name="kvh", input=given_in)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in exits.MEANINGS
    if done.exit_code not in (exits.OK, exits.DIFFERENT):
        assert done.stderr.startswith(("error: ", "conflict ", "deleted ")) or "\nerror: " in done.stderr, (
            words
        )
