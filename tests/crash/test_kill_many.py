"""K4 and K5: any of several processes on one store is killed; the others go on, and pages are not pinned."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from kvgit_hamt import Repo
from kvgit_hamt.backend.lmdb_env import READER_CHECK_EVERY
from kvgit_hamt.errors import KvgitHamtError
from tests.support import crash_many
from tests.support.crash import Killed, check_problem, content_of
from tests.support.crash_many import WRITERS, Directories, Member, directory_of
from tests.support.crash_worker import DONE, MESSAGE
from tests.support.scale import pick, record
from tests.support.verify import structure_problems

pytestmark = pytest.mark.slow

MEMBERS = (
    *(Member("writer", n) for n in range(WRITERS)),
    Member("collector", 0),
    Member("reader", 0),
    Member("reader", 1),
)
TURN_S = 0.05  # between two kills
CONTROL_KILLS = 15
COMMITS = 120
FRESH_EVERY = 200  # kills, after which another store is made
SEED = 4


class Company:
    """All processes on one store, and what they have told."""

    def __init__(self, path: Path, fault: str = "") -> None:
        self.path = path
        self._fault = fault
        self._directories = Directories()
        self.told = dict.fromkeys(MEMBERS, 0)  # how often each has done its work; of writers the last commit
        self._heard = dict.fromkeys(MEMBERS, time.monotonic())
        self.longest_s = 0.0  # that one was silent
        Repo(path).close()
        self._processes = {member: self._start(member) for member in MEMBERS}

    def _start(self, member: Member) -> Killed:
        self._heard[member] = time.monotonic()
        return Killed(crash_many.work, self.path, member, self.told[member], self._fault)

    def listen(self) -> None:
        """Take what all have told."""
        for member, process in self._processes.items():
            while process.end.poll(0) and (message := process.receive()):
                self._note(member, message)

    def _note(self, member: Member, message: bytes) -> None:
        what, n = MESSAGE.unpack(message)
        if what == DONE:
            self.told[member] = n
        now = time.monotonic()
        self.longest_s = max(self.longest_s, now - self._heard[member])
        self._heard[member] = now

    def kill(self, member: Member) -> str:
        """Kill one; what is wrong then."""
        process = self._processes.pop(member)
        process.kill()
        while message := process.receive():
            self._note(member, message)
        if (code := process.wait()) != -signal.SIGKILL:
            return f"{member} ended by itself, with {code}"
        return self._judge(member.number) if member.is_writer else ""

    def restart(self, member: Member) -> None:
        """Start one again."""
        self._processes[member] = self._start(member)

    def _judge(self, number: int) -> str:
        """The directory of a writer that is dead: its last acknowledged commit, or the next. Others go on."""
        member = Member("writer", number)
        try:
            with Repo(self.path) as repo:
                found = directory_of(content_of(repo.snapshot()), number)
        except (KvgitHamtError, LookupError) as error:
            return f"{type(error).__name__}: {error}"
        acked = self.told[member]
        for n in (acked, acked + 1):
            if found == self._directories.after(number, n):
                self.told[member] = n
                return ""
        return f"{member} told of commit {acked}, but its directory is at {found.get(f'{number}/n')}"

    def end(self) -> list[str]:
        """Kill all, and check the whole store; what is wrong."""
        problems = [self.kill(member) for member in list(self._processes)]
        with Repo(self.path) as repo:
            problems.append(check_problem(repo))
        problems += structure_problems(self.path)
        return [problem for problem in problems if problem]


def kill_at_random(company: Company, rng: random.Random, kills: int) -> list[str]:
    """Kill one process after the other, and start it again; what is wrong after each."""
    problems = []
    for _ in range(kills):
        time.sleep(rng.uniform(0, 2 * TURN_S))
        company.listen()
        member = rng.choice(MEMBERS)
        if problem := company.kill(member):
            problems.append(problem)
        company.restart(member)
    return problems


def test_k4_any_of_many_processes_may_be_killed_while_the_others_go_on(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    kills = pick(80, 10_000)
    problems: list[str] = []
    done = dict.fromkeys((member.role for member in MEMBERS), 0)
    longest = 0.0
    for first in range(0, kills, FRESH_EVERY):
        company = Company(tmp_path / f"store {first}")
        problems += kill_at_random(company, rng, min(FRESH_EVERY, kills - first))
        problems += company.end()
        for member, count in company.told.items():
            done[member.role] += count
        longest = max(longest, company.longest_s)
    blind = Company(tmp_path / "blind", "blind")
    caught = kill_at_random(blind, rng, CONTROL_KILLS) + blind.end()
    record(
        "K4",
        kills=kills,
        commits=done["writer"],
        collections=done["collector"],
        reads=done["reader"],
        violations=len(problems),
        max_silence_s=longest,
        control_blind_put_problems=len(caught),
        control_kills=CONTROL_KILLS,
    )
    assert problems == []
    assert all(done.values()), done
    assert caught, "refs that are moved without a comparison were not caught"


def growth(repo: Repo, commits: int = COMMITS) -> int:
    """By how many bytes of pages a store grows in some commits of one key."""
    before = repo.stats()["used_bytes"]
    worktree = repo.worktree()
    for _ in range(commits):
        worktree["count"] = worktree.get("count", 0) + 1
        worktree.commit()
    return repo.stats()["used_bytes"] - before


def hold(path: Path) -> Killed:
    """A process that holds a read transaction, and with it all pages that it sees."""
    reader = Killed(crash_many.hold, path)
    assert reader.receive() == b"holding"
    return reader


def bury(reader: Killed) -> None:
    reader.kill()
    assert reader.wait() == -signal.SIGKILL


def test_k5_a_killed_reader_pins_no_pages_once_the_store_is_opened_again(tmp_path: Path) -> None:
    rounds = pick(5, 50)
    with Repo(tmp_path / "alone") as repo:
        growth(repo)
        plain = max(growth(repo) for _ in range(3))
    found = []
    for n in range(rounds):
        path = tmp_path / f"store {n}"
        with Repo(path) as repo:
            growth(repo)
        bury(hold(path))
        with Repo(path) as repo:
            found.append(growth(repo))
    reader = hold(path)
    with Repo(path) as repo:
        pinned = growth(repo)
    bury(reader)
    record("K5", kills=rounds, max_growth_ratio=max(found) / plain, control_live_reader_ratio=pinned / plain)
    assert max(found) <= 2 * plain
    assert pinned > 2 * plain  # control: one that lives does pin them


def test_k5_nor_for_long_where_the_store_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with Repo(path) as repo:
        growth(repo)
        plain = max(growth(repo) for _ in range(3))
        reader = hold(path)
        pinned = growth(repo)
        bury(reader)
        growth(repo, READER_CHECK_EVERY)
        freed = growth(repo)
    record("K5 open", kills=1, growth_ratio=freed / plain, control_live_reader_ratio=pinned / plain)
    assert freed <= 2 * plain < pinned
