"""``segue lab guest``: guests to move."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from segue import units
from segue.cli import render

app = typer.Typer(help="Guests of the lab: start, stop, list.", no_args_is_help=True)

Lab = Annotated[str, typer.Option("--lab", envvar="SEGUE_LAB", help="Which lab.")]


@app.command()
def start(
    name: Annotated[str, typer.Argument(help="Its name.")],
    *,
    on: Annotated[str, typer.Option("--on", metavar="HOST", help="Where it starts.")],
    kind: Annotated[str, typer.Option(metavar="libvirt|qemu", help="A domain of libvirt, or a QEMU that nobody manages.")],
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Configured memory (bare: MiB).")] = "256MiB",
    touch: Annotated[str, typer.Option(metavar="SIZE", help="Filled once with incompressible bytes (bare: MiB).")] = "0",
    working_set: Annotated[str, typer.Option(metavar="SIZE", help="Written again and again (bare: MiB).")] = "0",
    write_rate: Annotated[str, typer.Option(metavar="MiB/s|max", help="How fast the working set is written.")] = "0",
    whole_pages: Annotated[bool, typer.Option("--whole-pages", help="All of each page is written, not two words of it.")] = False,
    disk: Annotated[bool, typer.Option("--disk", help="With a disk on the lab's storage, to which it appends records.")] = False,
    local_disk: Annotated[str, typer.Option(metavar="raw|qcow2|overlay", help="With such a disk on its host alone.")] = "",
    with_parts: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="PARTS",
            help="What a libvirt guest has besides: uefi,cdrom,usb,agent,vnc,tpm,… (a wrong one is told all).",
        ),
    ] = "",
    transient: Annotated[bool, typer.Option("--transient", help="libvirt: created, not defined.")] = False,
    lab: Lab = "segue",
) -> None:
    """Start a guest and wait until it ticks.

    \b
    Examples:
      segue lab guest start web1 --on alpha --kind libvirt --disk
      segue lab guest start desk --on alpha --kind libvirt --disk --with uefi,tpm,cdrom,usb,vnc
      segue lab guest start ci7 --on alpha --kind qemu --memory 512MiB --touch 256 --working-set 64 --write-rate 50
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    from segue.cli.lab import interruptible
    from segue.lab import Lab, guests

    spec = guests.GuestSpec(
        name=name,
        host=on,
        kind=kind,
        memory_bytes=units.parse_bytes(memory),
        touch_bytes=units.parse_bytes(touch),
        set_bytes=units.parse_bytes(working_set),
        rate=write_rate,
        fill="whole" if whole_pages else "random",
        disk=disk,
        local=local_disk,
        persistent=not transient,
        parts=tuple(with_parts.split(",")) if with_parts else (),
    )
    guest = interruptible(guests.start(Lab.load(lab), spec))
    typer.echo(f"{guest.name} runs on {guest.host} ({guest.kind}) at {guest.address}.")


@app.command()
def stop(name: Annotated[str, typer.Argument(help="Its name.")], *, lab: Lab = "segue") -> None:
    """Stop a guest wherever it is, and remove its definition, disk and logs."""
    import asyncio

    from segue.lab import Lab, guests

    asyncio.run(guests.stop(Lab.load(lab), name))
    typer.echo(f"{name} is gone.")


@app.command("list")
def list_guests(
    *, lab: Lab = "segue", as_json: Annotated[bool, typer.Option("--json", help="One JSON object a guest, a line each.")] = False
) -> None:
    """List the lab's guests and where each is now."""
    from segue.lab import Lab, guests

    found = Lab.load(lab)
    known = guests.records(found).values()
    homes = {guest.name: [host for host, _ in guests.where(found, guest.name)] for guest in known}
    if as_json:
        for guest in known:
            render.print_json({**asdict(guest), "on": homes[guest.name]})
        return
    rows = [(guest.name, guest.kind, ", ".join(homes[guest.name]) or "nowhere", guest.address) for guest in known]
    render.table(("GUEST", "KIND", "ON", "ADDRESS"), rows, none="no guests")
