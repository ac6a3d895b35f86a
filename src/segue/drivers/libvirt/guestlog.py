"""What libvirt and QEMU wrote of one guest on one host: the end of /var/log/libvirt/qemu/GUEST.log.

libvirt writes a guest's log on the host where it runs, and no call of its API reads it; so it is read by the way in to it.
The log has every life of the guest there: which lines are of now, the host's own clock says. What may live here: reading it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from segue.core.causes import Quote, telling
from segue.core.model import HostAddress
from segue.errors import SegueError
from segue.hosts import reach, way_in

REACH_DEADLINE_S: Final = 2.0
READ_DEADLINE_S: Final = 2.0
"""Nobody waits longer for words: a host that was reached a moment ago answers in a tenth of that."""
SLACK_S: Final = 1.0
"""For what began just before, such as the destination's QEMU under a clock that is read later than it is written."""
_TAIL_BYTES: Final = 32768
_DIRECTORY: Final = "/var/log/libvirt/qemu"
_READ: Final = 'date -u +%s.%N && if [ -e "$1" ]; then tail -c "$2" -- "$1"; fi'
# libvirt's own lines, and QEMU's under -msg timestamp=on, which libvirt always gives it.
_STAMP: Final = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d\.\d+)(?:\+0000|Z)")


async def telling_lines(address: HostAddress, guest: str, elapsed_s: float) -> Sequence[Quote]:
    """The lines that a host wrote in the last so many seconds, without what is in every log. Never raises.

    Args:
        address: of the host.
        guest: whose log.
        elapsed_s: since the attempt began.
    """
    path = f"{_DIRECTORY}/{guest}.log"
    where = f"{guest}.log"
    try:
        shell = await reach(way_in([address]), deadline_s=REACH_DEADLINE_S)
        try:
            done = await shell.run(["sh", "-c", _READ, "sh", path, str(_TAIL_BYTES)], deadline_s=READ_DEADLINE_S)
        finally:
            await shell.aclose()
    except SegueError as error:
        return [_unread(address, where, f"{path} could not be read: {error.message}")]
    if done.status:
        return [_unread(address, where, f"{path} could not be read: {done.complaint or f'status {done.status}'}")]
    now, _, text = done.stdout.decode(errors="replace").partition("\n")
    lines = since(text.splitlines(), float(now) - elapsed_s - SLACK_S)
    return [Quote(host=address.name, where=where, text=line) for line in telling(lines)]


def _unread(address: HostAddress, where: str, why: str) -> Quote:
    return Quote(host=address.name, where=where, text=why, silent=True)


def since(lines: Sequence[str], began_s: float) -> list[str]:
    """The lines written from that time on (Unix time); one without a time is of the time of the line before it."""
    kept, at = [], 0.0
    for line in lines:
        if stamp := _STAMP.match(line):
            at = datetime.fromisoformat(f"{stamp[1]}T{stamp[2][:15]}").replace(tzinfo=UTC).timestamp()
        if at >= began_s:
            kept.append(line)
    return kept
