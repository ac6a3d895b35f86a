"""What came of each cell, kept beside the page that is written from it: one line a cell, of the last time that it was played,
and how the times before that ended.

So a part of the matrix can be played again, on newer code, and the rest stays; and a run that was broken off goes on where it
was. What may live here: that file, and which code a result is of.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path as FilePath

from tests.faults.cells import Cell

HERE = FilePath(__file__).parents[2]
FILE = HERE / "docs/reference/faults.jsonl"
CODE = ("src", "guest", "tests/faults")
"""What a result depends on, as far as it is ours."""
BROKEN = "BROKEN"
NOT_PLAYED = "NOT PLAYED"

Key = tuple[int, int, str]
"""What something is the result of: the seed and the number of a random kill, 0 both for a cell of the matrix, and the cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one cell ended.

    Attributes:
        cell: in words.
        kill: its number among the random ones of its seed; 0 for a cell of the matrix.
        seed: of the random ones.
        word: how it ended.
        before: how earlier plays of it ended, and how many each way.
        recover_s: what `segue recover` took; 0 where it was not needed.
        watched_s: of that, how long it watched the hypervisors go on with the migration.
        cell_s: all of it, from a guest that runs to the verdict; 0 where that was not kept.
        load: the machine's load average when it ended; 0 where that was not kept. All times grow with it.
        day: of the play, as ISO 8601 writes it.
        commit: the code that was played; with a ``+`` where it was not committed.
        machine: what it was played on.
    """

    cell: str
    kill: int = 0
    seed: int = 0
    word: str
    before: Mapping[str, int] = field(default_factory=dict)
    recover_s: float = 0.0
    watched_s: float = 0.0
    cell_s: float = 0.0
    load: float = 0.0
    day: str
    commit: str
    machine: str

    @property
    def key(self) -> Key:
        """What it is the result of."""
        return self.seed, self.kill, self.cell

    @property
    def ends(self) -> Counter[str]:
        """How all its plays ended, and how many each way."""
        return Counter(self.before) + Counter([self.word])

    @property
    def is_good(self) -> bool:
        """It was played, and no promise was broken in any of its plays."""
        return not any(word.startswith((BROKEN, NOT_PLAYED)) for word in self.ends)

    def after(self, earlier: Result | None) -> Result:
        """The same, with the plays before it. One in which nothing was played counts for nothing."""
        ends = earlier.ends if earlier is not None else Counter[str]()
        return replace(self, before={word: count for word, count in ends.items() if not word.startswith(NOT_PLAYED)})


def load() -> dict[Key, Result]:
    """All that is kept, the newest of each cell."""
    lines = FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []
    return {result.key: result for result in (Result(**json.loads(line)) for line in lines)}


def save(results: dict[Key, Result]) -> None:
    """Replace what is kept, as a whole."""
    kept = [asdict(results[key]) for key in sorted(results)]
    lines = [json.dumps({name: value for name, value in one.items() if value}, ensure_ascii=False) for one in kept]
    new = FILE.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n", encoding="utf-8")
    new.replace(FILE)


def made(cell: Cell, word: str, *, number: int = 0, seed: int = 0, times_s: tuple[float, float, float]) -> Result:
    """A result of the present code, on this machine: what recovery took, what it watched, the whole cell."""
    recover_s, watched_s, cell_s = (round(time_s, 2) for time_s in times_s)
    return Result(
        cell=str(cell),
        kill=number,
        seed=seed,
        word=word,
        recover_s=recover_s,
        watched_s=watched_s,
        cell_s=cell_s,
        load=round(os.getloadavg()[0], 1),
        day=datetime.now(tz=UTC).date().isoformat(),
        commit=present(),
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
    )


def git(*words: str) -> subprocess.CompletedProcess[str]:
    """Git on this checkout, which may be somebody else's."""
    argv = ["git", "-c", f"safe.directory={HERE}", "-C", str(HERE), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def present() -> str:
    """The commit that is checked out; ``unknown`` outside of git."""
    head = git("rev-parse", "--short=9", "HEAD").stdout.strip() or "unknown"
    return head + ("+" if git("status", "--porcelain", "--", *CODE).stdout else "")


def is_since(since: str, commit: str) -> bool:
    """That commit is this one, or came after it, or nothing that a result depends on has changed between them."""
    commit = commit.rstrip("+")
    later = git("merge-base", "--is-ancestor", since, commit).returncode == 0
    return later or git("diff", "--quiet", commit, since, "--", *CODE).returncode == 0
