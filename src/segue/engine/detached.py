"""A migration that goes on without the terminal that asked for it: a process of its own leads it.

    python -m segue.engine.detached ID

What may live here: starting that process, and what it runs.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Final

from segue.core.ports import Store
from segue.core.record import Record
from segue.drivers import driver
from segue.engine.leader import Leader
from segue.errors import MigrationFailed, SegueError
from segue.store import open_store

LEADS: Final = b"leads\n"
START_S: Final = 20.0


async def start(record: Record) -> None:
    """Start the process that leads it; returns when it does.

    Raises:
        MigrationFailed: it did not start; nothing was touched.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", __name__, record.id),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
    )
    if process.stdout is None or process.stderr is None:
        raise AssertionError("both are pipes")
    try:
        async with asyncio.timeout(START_S):
            if await process.stdout.readline() == LEADS:
                return
            said = (await process.stderr.read()).decode(errors="replace").strip()
    except TimeoutError:
        process.kill()
        said = f"it did not begin within {START_S:g} s"
    raise MigrationFailed(
        f"The process that was to lead the migration did not begin: {said}",
        guest_at=f"it runs on {record.spec.source}, untouched",
    )


def main(migration: str) -> int:
    """Lead a migration that is written down and that nobody has begun."""
    store = open_store()
    try:
        record = store.load(migration)
        outcome = asyncio.run(_lead(store, record))
    except SegueError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    finally:
        store.close()
    return 0 if outcome else 1


async def _lead(store: Store, record: Record) -> bool:
    from segue.engine.inventory import Inventory

    async with Inventory(driver) as inventory:
        source, destination = await asyncio.gather(inventory.connect(record.source), inventory.connect(record.destination))
        leader = Leader(store, record, driver=driver, report=lambda _: None)
        running = asyncio.create_task(leader.run(source, destination))
        await asyncio.wait({running, asyncio.create_task(leader.leads.wait())}, return_when=asyncio.FIRST_COMPLETED)
        if leader.leads.is_set():
            _let_go_of_the_terminal()
        return not (await running).error


def _let_go_of_the_terminal() -> None:
    """Say that it has begun, then have no connection left with whoever asked."""
    sys.stdout.buffer.write(LEADS)
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
