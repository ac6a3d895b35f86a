"""Changes what stands in the way, where somebody asked for it, and undoes that when the guest is not moved.

Every change is in the journal before it is made, with what it takes to undo it: whoever takes the migration up does so, too.
What may live here: when what is changed and undone, and the one change that is a host's and no hypervisor's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from segue.core.mends import Mend, Mended, MendKind, outstanding, written
from segue.core.model import Outcome, OutcomeKind
from segue.core.ports import ActionLog, Hypervisor
from segue.core.record import Action, Record, Step, Story
from segue.errors import RefusedError, SegueError
from segue.hosts import reach, way_in
from segue.hosts.shell import checked

CONNECT_DEADLINE_S: Final = 10.0
MAKE_DEADLINE_S: Final = 10.0

# $1 directory: those on the way to it that are missing, the deepest first.
_MISSING: Final = r"""
path=$1
while [ -n "$path" ] && [ ! -e "$path" ]; do printf '%s\n' "$path"; path=${path%/*}; done
"""
# $1 directory, $2 owner or nothing, $3 permission bits.
_MAKE: Final = r"""
mkdir -p -- "$1" && chmod -- "$3" "$1" && { [ -z "$2" ] || chown -- "$2" "$1"; }
"""
# Directories: removed where they are empty.
_REMOVE: Final = r"""for path; do rmdir -- "$path" 2>/dev/null; done; exit 0"""


def _intents(story: Story, action: Action) -> list[str]:
    return [entry.detail for entry in story.entries if entry.action is action and entry.step is Step.INTENT]


def _done(story: Story) -> list[str]:
    """What was seen to be undone: the intents that have come to their end. They come one after the other."""
    undoing, undone = "", []
    for entry in story.entries:
        if entry.action is Action.UNDO_MEND and entry.step is Step.INTENT:
            undoing = entry.detail
        elif entry.action is Action.UNDO_MEND and entry.step is Step.DONE:
            undone.append(undoing)
    return undone


class Mender:
    """The changes of one migration.

    Args:
        record: the migration.
        source: where its guest is.
        log: the journal.
        report: is told what was changed; must return at once.
    """

    def __init__(self, record: Record, source: Hypervisor, log: ActionLog, report: Callable[[str], None]) -> None:
        self._record = record
        self._source = source
        self._log = log
        self._report = report

    async def mend(self) -> None:
        """Make every change that was asked for.

        Raises:
            RefusedError: one cannot be made; all are undone.
        """
        made: list[Mended] = []
        try:
            for one in self._record.spec.mends:
                mended = Mended(mend=one, before=await self._before(one))
                made.append(mended)
                async with self._log.acting(Action.MEND, written(mended)):
                    await self._make(one)
                self._report(f"mended: {one.words}")
        except SegueError as error:
            left = await self._undo(tuple(reversed(made)))
            raise RefusedError(
                f"What stands in the way could not be mended: {error.message}",
                guest_at=f"it is on {self._source.host}; {'; '.join(left) or 'everything is as it was'}",
                hint=error.hint,
            ) from error

    async def end(self, story: Story, outcome: Outcome) -> None:
        """When it has ended: undo what was changed, unless the guest moved; then say what was left off.

        Args:
            story: all that was written of it.
            outcome: its end.
        """
        left = outstanding(_intents(story, Action.MEND), _done(story))
        if outcome.outcome is OutcomeKind.MOVED:
            for one in left:
                if one.mend.again:
                    self._report(f"left off for the move: on {outcome.destination}, {one.mend.again}")
        elif outcome.owner == outcome.source:
            for trouble in await self._undo(left):
                self._report(trouble)
        elif left:
            self._report(f"changed before the move, and not undone: {'; '.join(one.mend.words for one in left)}")

    async def _undo(self, made: tuple[Mended, ...]) -> list[str]:
        """Undo them; what could not be undone, in words."""
        trouble = []
        for one in made:
            try:
                async with self._log.acting(Action.UNDO_MEND, written(one)):
                    await self._unmake(one)
            except SegueError as error:
                trouble.append(f"could not be undone: {one.mend.words} ({error.message})")
            else:
                self._report(f"undone: {one.mend.words}")
        return trouble

    async def _before(self, mend: Mend) -> str:
        if mend.kind is not MendKind.MAKE_DIRECTORY:
            return await self._source.before(self._record.spec.guest, mend)
        return json.dumps((await self._there(_MISSING, mend.target)).splitlines())

    async def _make(self, mend: Mend) -> None:
        if mend.kind is not MendKind.MAKE_DIRECTORY:
            await self._source.mend(self._record.spec.guest, mend)
            return
        owner, _, mode = mend.like.partition(" ")
        await self._there(_MAKE, mend.target, owner, mode or "755")

    async def _unmake(self, mended: Mended) -> None:
        if mended.mend.kind is not MendKind.MAKE_DIRECTORY:
            await self._source.unmend(self._record.spec.guest, mended)
            return
        await self._there(_REMOVE, *json.loads(mended.before))

    async def _there(self, script: str, *words: str) -> str:
        """Run a constant script on the destination."""
        shell = await reach(way_in((self._record.destination,)), deadline_s=CONNECT_DEADLINE_S)
        try:
            command = ["sh", "-c", script, "sh", *words]
            done = checked(shell.name, command, await shell.run(command, deadline_s=MAKE_DEADLINE_S))
            return done.stdout.decode(errors="surrogateescape")
        finally:
            await shell.aclose()
