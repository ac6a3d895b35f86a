"""Changes of a running QEMU that let it be moved, and their undoing. What may live here: QMP commands for exactly that."""

from __future__ import annotations

import json
from typing import Final

from segue.core.argv import CommandLine
from segue.core.live import drives
from segue.core.mends import Mend, Mended, MendKind
from segue.drivers.qemu.session import Session
from segue.errors import HypervisorError

GONE_DEADLINE_S: Final = 5.0
_STEP_S: Final = 0.2


async def before(session: Session, line: CommandLine, mend: Mend) -> str:
    """The arguments that would have it back: of ``blockdev-change-medium``, or of ``device_add``.

    Raises:
        HypervisorError: it is not there, or nobody knows any more how it was plugged in.
    """
    if mend.kind is MendKind.EJECT:
        for drive in drives(await session.execute("query-block")):
            if mend.target in (drive.device, drive.name) and drive.medium is not None:
                medium = {"filename": drive.medium.file, "format": drive.medium.format}
                return json.dumps({**_drive(mend, drive.device), **medium})
        raise HypervisorError(f"There is nothing in {mend.target} any more.", host=session.host)
    for found in line.each("device"):
        if found.get("id") == mend.target:
            return json.dumps(found)
    raise HypervisorError(
        f"How {mend.target} was plugged in is not on the command line, so it could not be had back.",
        host=session.host,
        hint=f"Unplug it by hand: device_del {mend.target} in its monitor.",
    )


def _drive(mend: Mend, device: str) -> dict[str, str]:
    """A drive by the id of its device, or by its own name where that has none (qapi/block.json)."""
    return {"id": mend.target} if mend.target == device else {"device": mend.target}


async def mend(session: Session, mend: Mend) -> None:
    """Change it, if it is not changed already.

    Raises:
        HypervisorError: QEMU's own.
    """
    if mend.kind is MendKind.EJECT:
        for drive in drives(await session.execute("query-block")):
            if mend.target in (drive.device, drive.name) and drive.medium is not None:
                await session.execute("eject", {**_drive(mend, drive.device), "force": True})
        return
    if not await _is_there(session, mend.target):
        return
    await session.execute("device_del", {"id": mend.target})
    for _ in range(round(GONE_DEADLINE_S / _STEP_S)):
        if not await _is_there(session, mend.target):
            return
        await session.woken(timeout_s=_STEP_S)
    raise HypervisorError(f"The guest does not let go of {mend.target}.", host=session.host)


async def unmend(session: Session, mended: Mended) -> None:
    """Put it back, if it is not back already.

    Raises:
        HypervisorError: QEMU's own.
    """
    arguments = json.loads(mended.before)
    if mended.mend.kind is MendKind.EJECT:
        await session.execute("blockdev-change-medium", {**arguments, "force": True})
    elif not await _is_there(session, mended.mend.target):
        await session.execute("device_add", arguments)


async def _is_there(session: Session, device: str) -> bool:
    found = await session.execute("qom-list", {"path": "/machine/peripheral"})
    return any(isinstance(one, dict) and one.get("name") == device for one in (found if isinstance(found, list) else []))
