"""What anyone may do with a migration that some process leads: watch it, ask for it to be cancelled, ask for other limits.

None of it touches a hypervisor: what is wanted is written down, and the leader reads it. What may live here: that, and the
waiting for the leader's answer.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator
from typing import Final

from segue.core.model import OnMiss, Progress
from segue.core.ports import Store
from segue.core.record import Record, Settings, Wishes
from segue.engine import holder
from segue.engine.leader import withdraw
from segue.engine.runner import Told
from segue.errors import AnswerNotSeen, RefusedError

LOOK_S: Final = 0.1
"""Between two looks at what is written: there is no event between processes that share nothing but a database."""
ANSWER_S: Final = 10.0
"""For a leader to grant a wish: it looks for them several times a second, and QEMU answers in milliseconds."""

Seen = Record | Progress | Told


def is_led(record: Record) -> bool:
    """Somebody leads it, as far as can be seen from here."""
    return record.led and record.lease is not None and not holder.is_dead(record.lease.holder)


async def watch(store: Store, migration: str) -> AsyncIterator[Seen]:
    """What is written of a migration, as it is written, until its end: the record at each change, samples, notes.

    Whoever watches has no part in it: it may be stopped at any time, and others may watch beside.

    Raises:
        RefusedError: nobody leads it any more, and it has not ended.
    """
    last: Record | None = None
    told, seen_ms = 0, 0
    while True:
        record = await asyncio.to_thread(store.load, migration)
        story = await asyncio.to_thread(store.story, migration)
        changed = last is None or (record.state, record.outcome) != (last.state, last.outcome)
        if changed and record.outcome is None:  # what follows belongs to that state; an end comes last
            yield record
        for sample in await asyncio.to_thread(functools.partial(store.samples, migration, after_ms=seen_ms)):
            seen_ms = sample.at_ms
            yield sample.progress
        for note in story.notes[told:]:
            yield Told(text=note.text)
        told = len(story.notes)
        if record.outcome is not None:
            yield record
            return
        if not is_led(record) and last is not None and not is_led(last):
            raise _abandoned(record)
        last = record
        await asyncio.sleep(LOOK_S)


def _abandoned(record: Record) -> RefusedError:
    return RefusedError(
        f"Migration {record.id} stands in {record.state}, and nobody leads it: the process that did is gone.",
        guest_at=f"not known; it was being moved from {record.spec.source} to {record.spec.destination}",
        hint=f"'segue recover {record.id}' looks at both hosts and settles it.",
    )


async def cancel(store: Store, migration: str) -> None:
    """Ask for the guest to stay; `watch` shows what comes of it. One that nobody has begun yet is ended here.

    Raises:
        RefusedError: it has ended, there is no way back any more, or nobody leads it.
    """
    record = await asyncio.to_thread(store.load, migration)
    if record.outcome is not None:
        raise RefusedError(f"Migration {record.id} has ended: {record.outcome.outcome}.", guest_at=_place(record))
    if not record.state.may_cancel and not record.wishes.cancel:
        raise RefusedError(
            f"Migration {record.id} is in {record.state}: there is no way back any more.",
            guest_at=f"{record.spec.destination} has it, or is about to",
            hint=f"'segue watch {record.id}' shows how it ends.",
        )
    if await asyncio.to_thread(withdraw, store, record):
        return
    record = await asyncio.to_thread(store.load, record.id)
    if not is_led(record):
        raise _abandoned(record)
    await asyncio.to_thread(store.wish, record.id, Wishes(cancel=True))


async def tune(store: Store, migration: str, wishes: Wishes) -> Settings:
    """Ask for other limits, and wait until the leader has set them.

    Returns:
        What is in force now, read back from the hypervisor.

    Raises:
        RefusedError: it has ended, nobody leads it, or the hypervisor refused; the guest is as it was.
        AnswerNotSeen: the leader did not answer in time.
    """
    record = await asyncio.to_thread(store.load, migration)
    if record.outcome is not None:
        raise RefusedError(f"Migration {record.id} has ended: {record.outcome.outcome}.", guest_at=_place(record))
    if not is_led(record):
        raise _abandoned(record)
    if (wishes.postcopy_now or wishes.on_miss is OnMiss.POSTCOPY) and not record.spec.limits.postcopy:
        raise RefusedError(
            f"Post-copy was not allowed when migration {record.id} began, and both QEMUs must know of it from the start.",
            guest_at=f"it runs on {record.spec.source}",
            hint="Cancel it, and begin again with --postcopy.",
        )
    revision = await asyncio.to_thread(store.wish, record.id, wishes)
    until = time.monotonic() + ANSWER_S
    while time.monotonic() < until:
        record = await asyncio.to_thread(store.load, record.id)
        if record.settings is not None and record.settings.revision >= revision:
            if record.settings.error:
                raise RefusedError(f"It could not be set: {record.settings.error}", guest_at=f"{record.id} goes on as before")
            return record.settings
        if record.outcome is not None:
            raise RefusedError(
                f"Migration {record.id} ended before it was set: {record.outcome.outcome}.", guest_at=_place(record)
            )
        await asyncio.sleep(LOOK_S / 2)
    raise AnswerNotSeen(f"The leader of {record.id} did not answer within {ANSWER_S:g} s.", host=record.spec.source)


def _place(record: Record) -> str:
    owner = record.outcome.owner if record.outcome is not None else ""
    return f"it runs on {owner}" if owner else "see 'segue show'"
