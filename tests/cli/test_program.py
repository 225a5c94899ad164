"""What all commands keep to: exit codes, streams, colors, pipes, help, completion, start-up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from importlib import import_module

import click
import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import errors
from kvgit_hamt.cli import EXTRA, exits, program
from kvgit_hamt.cli.program import ELSEWHERE, MODULES, TOPICS
from tests.support.cli import PROGRAM, ROOT, TIMEOUT_S, Kvh, environment, on_terminal

READING = {
    "get", "ls", "count", "sample", "log", "show", "reflog", "diff", "branch", "tag", "du", "check", "stats",
    "bundle verify", "export", "gc",
}  # fmt: skip
MANY = 30_000


def commands():
    """Every command by its full name."""
    context = click.Context(program.program, info_name="kvh")
    for name in MODULES:
        command = program.program.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((f"{name} {part}", found) for part, found in command.commands.items())
        else:
            yield name, command


COMMANDS = dict(commands())
each_command = pytest.mark.parametrize("name", COMMANDS)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A store with more output than a pipe holds."""
    call = Kvh(tmp_path_factory.mktemp("large") / "store")
    with kvgit.open(call.directory) as work:
        work.load({f"key/{number}": "x" * 20 for number in range(MANY)})
        for number in range(300):
            work["n"] = number
            work.commit(info={"message": "m" * 300})
    return call


def run(store, *arguments, code=0, python=(), input=None, **env):
    """The program in a process of its own."""
    done = subprocess.run(
        [sys.executable, *python, "-m", "kvgit_hamt", *arguments], capture_output=True, check=False,
        timeout=TIMEOUT_S, input=input, env=environment(store, **env),
    )  # fmt: skip
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


# the list of commands


def test_all_verbs_are_there():
    assert set(MODULES) == {
        "init", "get", "set", "del", "ls", "count", "sample", "apply", "import", "export", "log", "show",
        "diff", "branch", "tag", "merge", "cherry-pick", "revert", "reset", "reflog", "gc", "check", "du",
        "stats", "compact", "bundle", "copy", "bench", "demo", "completion",
    }  # fmt: skip


@each_command
def test_a_command_has_help_examples_and_options_that_say_what_they_do(name, kvh):
    text = kvh(*name.split(), "--help").text
    assert text.startswith(f"Usage: kvh {name} ")
    assert max(map(len, text.splitlines())) <= 100
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("name", sorted(READING))
def test_a_reading_command_speaks_json(name):
    assert "--json" in {option for each in COMMANDS[name].params for option in each.opts}


@each_command
def test_a_command_that_opens_a_store_takes_it_by_option(name):
    options = {option for each in COMMANDS[name].params for option in each.opts}
    assert ("--store" in options) == (name not in {"demo", "bench", "completion", "bundle verify"})


def test_help_lists_all_commands_by_topic(kvh):
    text = kvh("--help").text
    for topic in TOPICS:
        assert f"\n{topic}:\n" in text
    for name in MODULES:
        assert re.search(rf"^  {name} +[A-Z].*[.]$", text, re.M), name


def test_version_and_no_command(kvh):
    assert kvh("--version").text == f"kvgit-hamt, version {kvgit.__version__}\n"
    assert "Usage: kvh" in kvh(code=2).err


def test_the_scripts_of_the_package_lead_to_the_program():
    text = (ROOT / "pyproject.toml").read_text()
    scripts = dict(re.findall(r'^([\w-]+) = "([\w.]+:\w+)"$', text.partition("[project.scripts]")[2], re.M))
    assert set(scripts) == {"kvgit-hamt", "kvh"}
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))
    assert _names_in(text, "dependencies") == {"lmdb", "msgpack", "xxhash"}
    assert _names_in(text, "cli") == {"click", "rich"}


def _names_in(text, field):
    """The packages that a list of pyproject.toml names."""
    (found,) = re.findall(rf"^{field} = \[(.*?)^\]", text, re.M | re.S)
    return set(re.findall(r'^    "([a-z]+)', found, re.M))


def test_make_installs_the_extra_for_both_commands_of_the_readme():
    rules = re.findall(r"pip install .*-e (\S+)", (ROOT / "Makefile").read_text())
    assert rules
    assert all("[cli" in rule for rule in rules)


# errors and exit codes


def every_error():
    found = [errors.KvgitHamtError]
    for kind in found:
        found += kind.__subclasses__()
    return {kind for kind in found if kind.__module__ == errors.__name__}


CODES = {
    errors.NotFoundError: 3, errors.ExistsError: 4, errors.ConflictError: 4, errors.CorruptionError: 5,
    errors.FormatVersionError: 6, errors.SourceError: 6, errors.InvalidInputError: 2, errors.BackendError: 7,
    errors.StateError: 4,
}  # fmt: skip


@pytest.mark.parametrize(
    "kind", sorted(every_error(), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__
)
def test_each_error_of_the_library_has_its_exit_code(kind):
    error = kind.__new__(kind)
    found = exits.explain(error, "kvh")
    assert found is not None
    for parent, code in CODES.items():
        if issubclass(kind, parent):
            assert found.code == code
            break
    else:
        assert found.code == exits.ENVIRONMENT
    assert "{" not in found.hint


def test_a_fault_of_the_program_is_not_explained_away(kvh, monkeypatch):
    assert exits.explain(TypeError("x"), "kvh") is None
    monkeypatch.setattr("kvgit_hamt.repo.Repo.reflog", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kvh("reflog")


def test_no_store(kvh, tmp_path, monkeypatch):
    done = kvh("ls", "--store", str(tmp_path / "none"), code=3)
    assert "there is no store at" in done.err
    assert f"hint: `kvh init {tmp_path / 'none'}`" in done.err
    assert not (tmp_path / "none").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    kvh("ls", "--store", str(tmp_path / "other"), code=3)
    monkeypatch.chdir(tmp_path / "other")
    assert "hint: give --store DIR" in kvh("ls", code=2, KVGIT_HAMT_STORE="").err
    monkeypatch.chdir(kvh.directory)
    kvh("ls", KVGIT_HAMT_STORE="")


def test_the_store_option_beats_the_variable_wherever_it_stands(kvh, tmp_path):
    kvh("set", "a", "1")
    other = str(tmp_path / "other")
    kvh("init", other)
    assert kvh("--store", other, "count").text == "0\n"
    assert kvh("count", "--store", other).text == "0\n"
    assert kvh("--store", other, "count", "--store", str(kvh.directory)).text == "1\n"


def test_a_store_of_another_format(filled):
    path = filled.directory / "FORMAT"
    path.write_text(path.read_text().replace("layout ", "layout 9"))
    done = filled("ls", code=6)
    assert "hint: open it with" in done.err


def test_a_store_that_was_cut(filled):
    path = filled.directory / "data.mdb"
    os.truncate(path, path.stat().st_size // 2)
    assert "error: " in filled("ls", code=5).err


def test_a_store_that_may_not_be_read(filled, monkeypatch):
    def refuse(*_, **__):
        raise errors.ReadOnlyError("data.mdb: permission denied")

    monkeypatch.setattr("kvgit_hamt.cli.app.LmdbBackend", refuse)
    done = filled("ls", code=7)
    assert done.err.startswith("error: data.mdb: permission denied\nhint: see who owns")


def test_a_warning_is_one_line(kvh, monkeypatch):
    monkeypatch.setattr("kvgit_hamt.backend.lmdb_env.network_filesystem", lambda _: "nfs")
    done = kvh("ls")
    assert re.fullmatch(r"warning: .* lies on nfs.*\n", done.err)


def test_a_file_in_place_of_a_store(kvh, tmp_path):
    (tmp_path / "file").touch()
    kvh("init", str(tmp_path / "file"), code=7)
    kvh("ls", "--store", str(tmp_path / "file"), code=3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lgo"], "did you mean 'log'"),
        (["switch", "dev"], "every command takes --branch"),
        (["commit", "-m", "x"], "`apply` makes many changes in one"),
        (["quux"], "No such command 'quux'"),
        (["ls", "--lnog"], "No such option"),
        (["log", "-n", "x"], "not a valid integer"),
        (["get"], "Missing argument"),
        (["--nonsense"], "No such option"),
    ],
)
def test_usage_errors_are_two_lines(kvh, arguments, words):
    done = kvh(*arguments, code=2)
    assert words in done.err
    error, hint = done.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert done.out == b""


def test_verbs_of_git_that_are_missing_name_commands_that_are_there():
    assert not set(ELSEWHERE) & set(MODULES)
    for verb, words in ELSEWHERE.items():
        assert {named.split()[0] for named in re.findall(r"`([^`]+)`", words)} <= set(MODULES), verb


def test_reading_commands_write_nothing(filled):
    before = (filled.directory / "data.mdb").read_bytes()
    for arguments in (
        ["ls"],
        ["log"],
        ["diff", "v1"],
        ["stats"],
        ["du"],
        ["check"],
        ["branch"],
        ["reflog"],
        ["show"],
    ):
        filled(*arguments)
    assert (filled.directory / "data.mdb").read_bytes() == before


# streams


@pytest.mark.parametrize(
    "arguments", [["ls"], ["ls", "-z"], ["ls", "--long", "--json"], ["log"], ["diff", "main~301"], ["export"]]
)
@pytest.mark.parametrize("count", [0, 100])
def test_a_reader_that_goes_away_is_no_error(large, arguments, count):
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(large.directory),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if count:
            process.stdout.read(count)
        process.stdout.close()
        said = process.stderr.read()
        code = process.wait(TIMEOUT_S)
    assert said == b""
    assert code == exits.READER_GONE


def test_head_in_a_shell(large):
    words = " ".join(PROGRAM)
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} ls | head -n 2"], capture_output=True, check=False,
        timeout=TIMEOUT_S, env=environment(large.directory),
    )  # fmt: skip
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == b""
    assert done.returncode == exits.READER_GONE


def test_an_interrupt_is_told_without_a_trace(large):
    with subprocess.Popen(
        [*PROGRAM, "apply", "-"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(large.directory),
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b'{"key": "a", "value": 1}\n' * 50_000)  # more than a pipe holds: it is reading
        process.stdin.flush()
        while process.poll() is None:  # a signal that comes just before a blocking read is seen only after it
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(2)
        said = process.stderr.read()
        code = process.returncode
    assert code == exits.INTERRUPTED
    assert b"Traceback" not in said
    large("get", "a", code=3)


def test_a_full_device_is_told(large):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*PROGRAM, "ls"], stdout=full, stderr=subprocess.PIPE, check=False, timeout=TIMEOUT_S,
            env=environment(large.directory),
        )  # fmt: skip
    assert done.returncode == exits.ENVIRONMENT
    assert done.stderr.startswith(b"error: ")
    assert b"Traceback" not in done.stderr


def test_colors_on_a_terminal_only_and_not_with_no_color(filled):
    arguments = ("log", "--oneline")
    assert "\x1b" not in filled(*arguments).text
    assert "\x1b[33m" in on_terminal(filled.directory, *arguments)[1]
    assert "\x1b" not in on_terminal(filled.directory, *arguments, NO_COLOR="1")[1]
    assert "\x1b" not in on_terminal(filled.directory, *arguments, TERM="dumb")[1]
    assert "\x1b" in on_terminal(filled.directory, *arguments, NO_COLOR="")[1]
    code, text = on_terminal(filled.directory, "get", "nobody")
    assert (code, "error:" in text) == (3, True)
    assert "\x1b" not in on_terminal(filled.directory, "du", NO_COLOR="1")[1]
    assert "\x1b" not in on_terminal(filled.directory, "merge", "nothing", NO_COLOR="1")[1]


def test_a_terminal_gets_no_control_characters_of_values(kvh):
    kvh("set", "text", "a\x1b[2Jb\n\tc")
    kvh("set", "bytes", "--bytes", "\x07x")
    code, text = on_terminal(kvh.directory, "get", "text", "bytes")
    assert (code, text) == (0, "a\\u001b[2Jb\n        c\n<2 bytes> \\x07x\n") or text == (
        "a\\u001b[2Jb\n\tc\n<2 bytes> \\x07x\n"
    )


def test_progress_goes_to_a_terminal_on_stderr_only(large):
    assert large("check").err.count("\r") == 0
    code, text = on_terminal(large.directory, "check", COLUMNS="120")
    assert code == 0
    assert "check: " in text
    assert "\r" not in on_terminal(large.directory, "check", "-q")[1].replace("\r\n", "\n")


def test_tables_on_a_terminal_are_drawn_and_hold_the_same_figures(filled):
    code, text = on_terminal(filled.directory, "du", "--bytes")
    assert code == 0
    for record in filled("du", "--json").records:
        assert f"{record['exclusive_bytes']:,}" in text


def test_a_poor_encoding_is_no_error(kvh):
    kvh("set", "é日", "ü")
    done = run(kvh.directory, "ls", "--long", PYTHONIOENCODING="ascii")
    assert b"\\xe9\\u65e5" in done.stdout


def test_arguments_that_are_no_unicode_are_refused(kvh):
    done = run(kvh.directory, "set", os.fsdecode(b"key\xff"), "x", code=2)
    assert b"error: " in done.stderr
    run(kvh.directory, "set", "key", os.fsdecode(b"\xff\xfe"), "--bytes")
    assert kvh("get", "key").out == b"\xff\xfe"
    assert b"not UTF-8" in run(kvh.directory, "set", "key", os.fsdecode(b"\xff"), code=2).stderr


# the extra, and what is imported


BLOCK = "import sys; sys.modules[{0!r}] = None; from kvgit_hamt.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("name", ["click"])
def test_without_the_extra_it_says_how_to_install_it(kvh, name, tmp_path):
    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-c", BLOCK.format(name), *arguments], capture_output=True, text=True,
            check=False, timeout=TIMEOUT_S, env=environment(kvh.directory),
        )  # fmt: skip

    done = call("ls")
    assert (done.returncode, done.stdout, done.stderr) == (exits.ENVIRONMENT, "", EXTRA + "\n")
    demo = call("demo", str(tmp_path / "demo"), "--code-points", "2048")
    assert demo.returncode == 0, demo.stderr
    assert "checks hold" in demo.stdout


def test_without_rich_what_needs_it_says_so(filled):
    code, text = on_terminal(filled.directory, "du", words=(sys.executable, "-c", BLOCK.format("rich")))
    assert (code, EXTRA in text) == (exits.ENVIRONMENT, True)
    assert on_terminal(filled.directory, "ls", words=(sys.executable, "-c", BLOCK.format("rich")))[0] == 0


def test_the_library_imports_neither_click_nor_rich(kvh):
    text = "import sys, kvgit_hamt; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        check=True,
        text=True,
        env=environment(kvh.directory),
    )
    imported = set(done.stdout.split())
    assert not {"click", "rich"} & {name.partition(".")[0] for name in imported}
    assert not HEAVY & imported


HEAVY = {
    "rich", "kvgit_hamt.interchange", "kvgit_hamt.classic.versioned", "kvgit_hamt.bundle", "kvgit_hamt.check",
    "kvgit_hamt.repair", "sqlite3", "asyncio",
}  # fmt: skip


@pytest.mark.parametrize("arguments", [["get", "motd"], ["ls"], ["log", "--oneline"], ["diff", "v1"]])
def test_a_simple_command_imports_little(filled, arguments):
    done = run(filled.directory, *arguments, python=("-X", "importtime"))
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr.decode(), re.M))
    assert "kvgit_hamt.cli.app" in imported
    assert not HEAVY & imported
    others = {name for name in imported if name.startswith("kvgit_hamt.cli.")} - {
        f"kvgit_hamt.cli.{name}" for name in ("program", "app", "complete", "exits", "output", "values")
    }
    assert len(others) <= 4, others


# completion


def complete(store, line, **env):
    words = line.split(" ")
    done = run(
        store, _KVH_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), **env
    )  # fmt: skip
    return [line.partition(",")[2] for line in done.stdout.decode().splitlines() if line]


def test_shells_complete_commands_names_and_keys(filled):
    assert "cherry-pick" in complete(filled.directory, "kvh che")
    assert complete(filled.directory, "kvh merge d") == ["dev"]
    assert set(complete(filled.directory, "kvh diff ")) == {"dev", "main", "v1"}
    assert complete(filled.directory, "kvh get us") == ["user/1"]
    assert complete(filled.directory, "kvh log --branch ma") == ["main"]
    assert "--oneline" in complete(filled.directory, "kvh log --one")
    assert complete(filled.directory / "none", "kvh get us") == []
