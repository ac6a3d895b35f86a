"""What Segue changes by itself so that a guest can be moved, where it is asked to; and how that is written down.

Each change can be undone. What that takes is in the journal before the change is made, so that whoever takes the migration up can
undo it. What may live here: the nouns, and the way between them and the journal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class MendKind(StrEnum):
    """What Segue can do by itself where it is asked to (``--fix``). Each can be undone."""

    EJECT = "eject"
    """Take the medium out of a CD-ROM or floppy drive. Target: the drive."""
    DETACH = "detach"
    """Unplug a device. Target: its id (libvirt: the alias)."""
    MAKE_DIRECTORY = "make-directory"
    """Make a directory on the destination. Target: its path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mend:
    """One change that Segue can make to mend a finding.

    Attributes:
        kind: what.
        target: of what, in the words of the source's driver.
        words: what it does, for people, as an imperative clause.
        again: what a person does on the destination after the move, to have it as it was; empty where nothing is lost.
        like: of a directory that is made: owner and mode, as `files.Seen.owner`.
    """

    kind: MendKind
    target: str
    words: str
    again: str = ""
    like: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """A change that was made, or at least begun.

    Attributes:
        mend: what.
        before: what it takes to undo it, in the words of whoever made it.
    """

    mend: Mend
    before: str


def written(mended: Mended) -> str:
    """As it stands in the journal."""
    return json.dumps({"words": mended.mend.words, **asdict(mended.mend), "before": mended.before}, ensure_ascii=False)


def outstanding(made: Sequence[str], undone: Sequence[str]) -> tuple[Mended, ...]:
    """The changes that were begun and not undone, the last one first: in that order they are undone.

    Args:
        made: each that was to be made, as it is `written`.
        undone: each that was seen to be undone.
    """
    left = dict.fromkeys(detail for detail in reversed(made) if detail not in undone)
    return tuple(_read(detail) for detail in left)


def _read(detail: str) -> Mended:
    found = json.loads(detail)
    before = found.pop("before")
    return Mended(mend=Mend(**{**found, "kind": MendKind(found["kind"])}), before=before)
