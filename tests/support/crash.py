"""Kill processes that work on a store, and compare what they leave with what it must hold.

``Track`` follows one store over many kills: it knows the state before and after each step as plain dicts,
reads which steps were acknowledged, and judges what is left: the last acknowledged step or the one after it,
wholly.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from kvgit_hamt import Repo, Snapshot
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.errors import KvgitHamtError
from tests.support import crash_worker
from tests.support.crash_model import MAIN, START, Content, Plan, State, copy_path
from tests.support.crash_worker import DONE, MESSAGE, STARTED, Job
from tests.support.verify import structure_problems

PATIENCE_S = 60  # a process that is silent for longer hangs
CHECK_EVERY = 10  # judgements, of which one runs the whole check, and looks at LMDB's pages from outside

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.crash_worker"])


class Killed:
    """A process at work, from its start to its end."""

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        self.end, other = _context.Pipe(duplex=False)
        self._process = _context.Process(target=target, args=(*arguments, other), daemon=True)
        self._process.start()
        other.close()
        self.is_dead = False

    def receive(self) -> bytes | None:
        """The next message, None when the process is dead and has left no more."""
        if not self.end.poll(PATIENCE_S):
            raise AssertionError(f"a process was silent for {PATIENCE_S} s")
        try:
            return self.end.recv_bytes()
        except (EOFError, ConnectionResetError):
            return None

    def kill(self) -> None:
        """End it at once, by SIGKILL."""
        self._process.kill()

    def wait(self) -> int:
        """Wait for its end; its exit code (below 0: the signal)."""
        self._process.join(PATIENCE_S)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise AssertionError(f"a process did not end in {PATIENCE_S} s")
        self.end.close()
        self._process.close()
        return code


class Track:
    """A store and its plan.

    Attributes:
        step: the step that the store was found at.
        acked: the last step that was acknowledged; what must be there.
        latest: the last one that may have been acknowledged when the process was stopped; the same as a rule.
        count: judgements.
        inside_count: kills in the middle of the step that they were meant for.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.plan = plan
        self.step = 0
        self.acked = 0
        self.latest = 0
        self.count = 0
        self.inside_count = 0
        self._at = 0
        self._state: State = START
        self._hashes: dict[str, str] = {}  # of main's content, by commit
        self._rng = random.Random(plan.seed)

    def start(self, *, kill_at: str = "", fault: str = "", may_fail: bool = False) -> Killed:
        """A process that goes on where the store is."""
        self.acked = self.latest = self.step
        return Killed(crash_worker.work, Job(self.path, self.plan, self.step, kill_at, fault, may_fail))

    def note(self, message: bytes) -> int:
        """Take a message of the process; what it tells."""
        what, step = MESSAGE.unpack(message)
        if what == DONE:
            self.acked = self.latest = step
        return int(what)

    def drain(self, process: Killed) -> None:
        """Take the messages that a dead process left."""
        while message := process.receive():
            self.note(message)

    def state(self, step: int) -> State:
        """The state after a step; steps are asked for in ascending order."""
        while self._at < step:
            self._at += 1
            self._state = self.plan.after(self._state, self._at)
        return self._state

    def judge(self) -> str:
        """Compare the store with what it must hold: "" or what is wrong. Then ``step`` is where it stands."""
        self.count += 1
        allowed = self.allowed()
        try:
            with Repo(self.path) as repo:
                found = read_state(repo)
                if found not in allowed:
                    return f"step {self.acked} was acknowledged; {differences(found, allowed[0])}"
                problem = self._judge_history(repo, found[MAIN])
                if not problem and self.count % CHECK_EVERY == 0:
                    problem = check_problem(repo) or "; ".join(structure_problems(self.path)[:3])
        except (KvgitHamtError, LookupError) as error:
            return f"{type(error).__name__}: {error}"
        self.step = self.acked + allowed.index(found)
        return problem or self._judge_copy(found)

    def _judge_copy(self, state: State) -> str:
        """A copy holds all that the store holds, or is not there at all."""
        path = copy_path(self.path, self.acked + 1)
        if not path.exists():
            return ""
        try:
            with Repo(LmdbBackend(path, create=False)) as repo:
                found = read_state(repo)
                return check_problem(repo) if found == state else f"the copy: {differences(found, state)}"
        except (KvgitHamtError, LookupError) as error:
            return f"the copy: {type(error).__name__}: {error}"
        finally:
            for left in path.parent.glob(f"{self.path.name} copy *"):
                shutil.rmtree(left)

    def allowed(self) -> list[State]:
        """The states that the store may be in, the first of them that of the last acknowledged step."""
        states = [self.state(self.acked)]
        for step in range(self.acked, self.latest + 1):
            states.append(self.plan.after(states[-1], step + 1))
        return states

    def _judge_history(self, repo: Repo, content: Content) -> str:
        """An older commit of main must hold what it held then, and the log must lead to it."""
        head = repo.branches[MAIN]
        self._hashes[head] = content_hash(content)
        commit = self._rng.choice(list(self._hashes))
        if repo.merge_base(MAIN, commit) != commit:
            return f"commit {commit} is no ancestor of main any more"
        if content_hash(content_of(repo.snapshot(commit=commit))) != self._hashes[commit]:
            return f"commit {commit} holds something else than it did"
        return ""


def content_of(snapshot: Snapshot) -> Content:
    """All that a snapshot holds, read by iteration; a few keys are read one by one too."""
    content = dict(snapshot.items())
    if len(content) != len(snapshot):
        raise LookupError(f"{len(content)} keys, but a length of {len(snapshot)}")
    for key in list(content)[:3]:
        if snapshot[key] != content[key]:
            raise LookupError(f"{key!r} reads otherwise alone")
    return content


def read_state(repo: Repo) -> State:
    """All branches, and all that they hold."""
    return {name: content_of(repo.snapshot(branch=name)) for name in repo.branches}


def content_hash(content: Content) -> str:
    """SHA-256 over sorted pairs."""
    return sha256(repr(sorted(content.items())).encode()).hexdigest()


def check_problem(repo: Repo) -> str:
    """What ``Repo.check`` finds."""
    faults = list(repo.check())
    return f"{len(faults)} faults, first: {faults[0]}" if faults else ""


def differences(found: State, expected: State) -> str:
    """In words, how two states differ."""
    if set(found) != set(expected):
        return f"branches {sorted(found)} instead of {sorted(expected)}"
    for name, content in found.items():
        keys = [key for key in {**content, **expected[name]} if content.get(key) != expected[name].get(key)]
        if keys:
            steps = content.get("n"), expected[name].get("n")
            return (
                f"{name}: {len(keys)} keys differ, such as {min(keys)!r}; it is at {steps[0]} of {steps[1]}"
            )
    return "no difference"


def kill_after(track: Track, delay_s: float, kind: str = "", fault: str = "") -> str:
    """Start a process and kill it ``delay_s`` after it began a step of ``kind``; the judgement.

    ``kind`` "": after it was started, perhaps in the middle of opening.
    """
    process = track.start(fault=fault)
    step = await_step(track, process, kind) if kind else 1
    time.sleep(delay_s)
    process.kill()
    track.drain(process)
    code = process.wait()
    track.inside_count += track.acked < step
    problem = track.judge()
    return problem if fault or code == -signal.SIGKILL else f"it ended by itself, with {code}; {problem}"


def await_step(track: Track, process: Killed, kind: str) -> int:
    """Wait until a step of ``kind`` was begun; its number."""
    while message := process.receive():
        what, step = MESSAGE.unpack(message)
        track.note(message)
        if what == STARTED and track.plan.kind(step) == kind:
            return int(step)
    raise AssertionError(f"the process ended before a step of kind {kind!r}")


def measure(track: Track, kind: str, times: int) -> float:
    """How long a step of ``kind`` takes, in seconds: the longest of some. The store goes on by them."""
    process = track.start()
    longest = 0.0
    for _ in range(times):
        step = await_step(track, process, kind)
        began = time.monotonic()
        while track.acked < step and (message := process.receive()):
            track.note(message)
        longest = max(longest, time.monotonic() - began)
    process.kill()
    track.drain(process)
    process.wait()
    assert track.judge() == ""
    return longest
