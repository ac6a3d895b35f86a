"""``segue guests``: every guest of every host, of both kinds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from segue import units
from segue.cli import render, survey


def guests(
    hosts: Annotated[
        list[str] | None, typer.Argument(help="Names from segue.toml or connection URIs; default: every host of segue.toml.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a guest, a line each.")] = False,
) -> None:
    """List guests, libvirt's and bare QEMU's, with what stands in the way of moving them.

    Of a bare QEMU also its pid, the user it runs as, and the monitor by which it is asked to move.

    \b
    Examples:
      segue guests
      segue guests alpha beta --json
      segue guests qemu+ssh://alpha/system qmp+ssh://root@alpha/
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    surveyed = survey.ask(hosts or [], facts=False)
    found = [guest for answer in surveyed for guest in answer.guests]
    if as_json:
        for guest in found:
            render.print_json(asdict(guest))
    else:
        rows = [
            (
                guest.name,
                guest.host,
                guest.driver.value,
                guest.state.value,
                units.format_bytes(guest.memory_bytes) if guest.memory_bytes is not None else "?",
                "persistent" if guest.persistent else "transient",
                *((str(guest.process.pid), guest.process.user, guest.process.monitor or "-") if guest.process else "---"),
                guest.obstacle,
            )
            for guest in found
        ]
        headings = ("GUEST", "HOST", "KIND", "STATE", "MEMORY", "DEFINITION", "PID", "USER", "QMP SOCKET", "OBSTACLE")
        render.table(headings, rows, none="no guests on the hosts that answered")
    survey.leave(surveyed)
