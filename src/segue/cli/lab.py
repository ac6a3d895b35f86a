"""``segue lab``: two or more real hosts on this machine, to rehearse on."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer

from segue import units
from segue.cli import lab_guest, lab_observe, render
from segue.errors import LabError

T = TypeVar("T")

app = typer.Typer(
    help="Real hosts on this machine to rehearse on: up, run, link, guest, observe, status, down.", no_args_is_help=True
)
app.add_typer(lab_guest.app, name="guest")
app.command("observe")(lab_observe.observe)


Name = Annotated[str, typer.Option("--name", envvar="SEGUE_LAB", help="Which lab; several may be up at once.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


@app.command()
def up(
    *,
    hosts: Annotated[int, typer.Option(help="How many hosts that run guests: alpha, beta, gamma …")] = 2,
    link: Annotated[
        str, typer.Option(metavar="RATE", help="Rate of every host's link, as 300mbit or 1gbit; default: unshaped.")
    ] = "",
    image: Annotated[
        str,
        typer.Option(metavar="RELEASES", help="Hosts that are an untouched Debian with systemd: trixie, or bookworm,trixie."),
    ] = "",
    name: Name = "segue",
    as_json: Json = False,
) -> None:
    """Bring a lab up: hosts with their own libvirtd and sshd, an NFS server, an admin host to work from.

    With --image a host has an sshd and no libvirt: 'segue host prepare' is for that. Trees are built once, in some minutes.

    \b
    Examples:
      segue lab up
      segue lab up --hosts 3 --link 1gbit
      segue lab up --image bookworm,trixie
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    from segue.lab import up as bring_up

    images = [word.strip() for word in image.split(",")] if image else []
    rate_bps = units.parse_rate(link) if link else None
    lab = interruptible(bring_up(name=name, hosts=hosts, rate_bps=rate_bps, image=images, say=render.say))
    if as_json:
        render.print_json(
            {
                "name": lab.name,
                "hosts": list(lab.hosts),
                "storage": lab.storage,
                "config": str(lab.layout.config),
                "root": str(lab.root),
            }
        )
    else:
        typer.echo(f"The lab {lab.name!r} is up: {', '.join(lab.hosts)}; storage reached by {STORAGE_WORDS[lab.storage]}.")
        if images:
            typer.echo("Next: segue lab run -- segue pki init, then segue lab run -- segue host prepare alpha")
            return
        typer.echo("Next: segue lab guest start web1 --on alpha --kind libvirt, then segue lab run -- segue migrate web1 beta")


STORAGE_WORDS = {"kernel": "the kernel's NFS client at one path", "qemu-nfs": "QEMU's own NFS client (this kernel has none)"}


@app.command()
def down(*, name: Name = "segue") -> None:
    """Take a lab down, whatever state it is in. Harmless when there is none."""
    import asyncio

    from segue.lab import down as take_down

    there = asyncio.run(take_down(name, say=render.say))
    typer.echo(f"The lab {name!r} is down." if there else f"There was no lab {name!r}.")


@app.command()
def status(*, name: Name = "segue", as_json: Json = False) -> None:
    """Show a lab: hosts, links, storage, accelerator, guests. Exit status 1 when it is not up."""
    import asyncio

    from segue.lab import Lab, accelerator, guests
    from segue.lab.layout import address

    lab = Lab.load(name)
    verdict = accelerator.cached()
    cut = asyncio.run(lab.cuts())
    homes = {guest: [host for host, _ in guests.where(lab, guest)] for guest in guests.records(lab)}
    hosts = {
        host: {
            "address": address(host),
            "rate_bps": lab.rates.get(host),
            "cut": host in cut,
            "pid": pid,
            "daemons": lab.daemons(host),
            "guests": [guest for guest, places in homes.items() if host in places],
        }
        for host, pid in lab.pids.items()
    }
    if as_json:
        render.print_json(
            {
                "name": lab.name,
                "hosts": hosts,
                "storage": lab.storage,
                "export": str(lab.export),
                "accelerator": verdict.name if verdict else None,
                "accelerator_reason": verdict.reason if verdict else "not probed yet",
                "guests": homes,
            }
        )
        return
    rows = [_status_row(host, facts) for host, facts in hosts.items()]
    render.table(("HOST", "ADDRESS", "LINK", "INIT", "DAEMONS", "GUESTS"), rows, none="no hosts")
    typer.echo(f"storage: {STORAGE_WORDS[lab.storage]}, {lab.export}")
    typer.echo(f"accelerator: {f'{verdict.name} ({verdict.reason})' if verdict else 'not probed yet'}")


def _status_row(host: str, facts: dict[str, Any]) -> tuple[str, ...]:
    rate_bps = facts["rate_bps"]
    link = f"{rate_bps * 8 / 10**6:g} Mbit/s" if rate_bps else "unshaped"
    daemons = (name if runs else f"{name} DIED" for name, runs in facts["daemons"].items())
    return (
        host,
        facts["address"],
        f"cut, else {link}" if facts["cut"] else link,
        str(facts["pid"]),
        ", ".join(daemons),
        ", ".join(facts["guests"]),
    )


@app.command(context_settings={"ignore_unknown_options": True})
def run(
    command: Annotated[list[str], typer.Argument(help="The command and its words, after --.")],
    *,
    on: Annotated[str, typer.Option("--on", metavar="HOST", help="Where: admin, storage, alpha …")] = "admin",
    name: Name = "segue",
) -> None:
    """Become a command inside a host of the lab; its exit status is yours.

    \b
    Examples:
      segue lab run -- segue guests
      segue lab run -- virsh -c qemu+tcp://alpha/system list
      segue lab run --on beta -- bash
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import os

    from segue.lab import Lab

    argv = Lab.load(name).enter_argv(on, command)
    sys.stdout.flush()
    os.execvp(argv[0], argv)  # noqa: S606  # an argv: no shell sees it


@app.command()
def link(
    host: Annotated[str, typer.Argument(help="Whose link.")],
    rate: Annotated[str, typer.Argument(metavar="RATE|cut|heal", help="A rate as 300mbit, or cut, heal, unshaped.")],
    *,
    name: Name = "segue",
) -> None:
    """Change a host's link: its rate, or cut it (packets vanish, nobody is told) and heal it.

    \b
    Examples:
      segue lab link beta 300mbit
      segue lab link beta cut
      segue lab link beta heal
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import asyncio

    from segue.lab import Lab

    lab = Lab.load(name)
    actions = {"cut": lab.cut, "heal": lab.heal}
    if rate in actions:
        asyncio.run(actions[rate](host))
    else:
        asyncio.run(lab.set_rate(host, None if rate == "unshaped" else units.parse_rate(rate)))
    typer.echo(f"{host}: {rate}")


def interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Run it so that Ctrl-C and a plain kill end it in order, its clean-up included.

    Raises:
        LabError: it was interrupted; nothing is left.
    """
    import asyncio
    import signal

    async def main() -> T:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise LabError("Interrupted; nothing is left of it.") from None
