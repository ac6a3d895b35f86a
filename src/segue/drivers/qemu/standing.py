"""How a QEMU stands: its state, what works on it, what its disks hold besides. What may live here: QMP questions, no action."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from segue.core.preflight.facts import Standing
from segue.drivers.qemu import fold
from segue.drivers.qemu.session import Session

# query-block's io-status (qapi/block-core.json, BlockDeviceIoStatus), in words.
_IO_STATUS: Final = {"failed": "an I/O error", "nospace": "no space left"}


async def look(session: Session, *, arrived_here: bool) -> Standing:
    """How it stands.

    Args:
        session: with it.
        arrived_here: it was started to receive a migration.

    Raises:
        HypervisorError: it does not answer, or makes no sense.
    """
    status, migration, blocks, jobs = await asyncio.gather(
        session.query("query-status"),
        session.query("query-migrate"),
        session.execute("query-block"),
        session.execute("query-block-jobs"),
    )
    run_state = fold.said(status.get("status"))
    return Standing(
        state=fold.guest_state(fold.sighting(run_state, migration, arrived_here=arrived_here), migration),
        raw=f"{run_state}, migration {fold.said(migration.get('status', 'none'))}",
        job=", ".join(f"block {fold.said(job.get('type'))} of {fold.said(job.get('device'))}" for job in _dicts(jobs)),
        snapshots=tuple(sorted({fold.said(one.get("name")) for one in _snapshots(blocks)})),
        io_errors=tuple(_errors(blocks)) or (("a disk",) if run_state == "io-error" else ()),
    )


def _errors(blocks: object) -> Iterator[str]:
    for one in _dicts(blocks):
        if (status := fold.said(one.get("io-status"))) in _IO_STATUS:
            yield f"{fold.said(one.get('device')) or fold.said(one.get('qdev'))} ({_IO_STATUS[status]})"


def _snapshots(blocks: object) -> Iterator[dict[str, object]]:
    """Internal snapshots in disks that are open."""
    for one in _dicts(blocks):
        inserted = one.get("inserted")
        image = inserted.get("image") if isinstance(inserted, dict) else None
        yield from _dicts(image.get("snapshots")) if isinstance(image, dict) else ()


def _dicts(answer: object) -> list[dict[str, object]]:
    return [one for one in answer if isinstance(one, dict)] if isinstance(answer, list) else []
