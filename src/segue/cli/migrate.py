"""``segue migrate``: move one running guest, show how it goes, let Ctrl-C turn it back."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from segue.cli import exit_codes, render, wishes
from segue.core.model import Control, Limits, OnMiss, Transport
from segue.core.storage import CopyStorage, CopyWish
from segue.core.wishes import LibvirtWishes
from segue.units import parse_bytes, parse_downtime_ms, parse_duration_ms, parse_overrides, parse_percent, parse_ports, parse_rate

if TYPE_CHECKING:
    from segue.engine.migration import Migration


class PostCopy(StrEnum):
    """What may be done with post-copy."""

    NEVER = "never"
    ALLOWED = "allowed"
    PREFER = "prefer"


class Command(wishes.GroupedHelp):
    """``--postcopy`` may stand alone; neither click's parser nor Typer's knows options whose value may be left out."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # typer's own is click's
        """Say ``--postcopy=allowed`` for ``--postcopy`` that no value follows."""
        end = args.index("--") if "--" in args else len(args)
        values = set(PostCopy)
        full = [
            f"--postcopy={PostCopy.ALLOWED}"
            if word == "--postcopy" and place < end and not values & {*args[place + 1 : place + 2]}
            else word
            for place, word in enumerate(args)
        ]
        return super().parse_args(ctx, full)


EPILOG = """Examples:
  segue migrate web1 beta
      names from segue.toml; web1 is looked for on every host
  segue migrate web1 beta --max-downtime 100ms --within 10min --postcopy
      stand still for 100 ms at the most; post-copy when it does not converge
  segue migrate web1 beta --within 2min --max-slowdown 30% --on-miss suspend
      slow it by 30 % at the most; not done after two minutes, it stands still while the rest is sent
  segue migrate web1 qemu+ssh://beta/system --from qemu:///system
      no segue.toml at all
  segue migrate ci7 qmp+ssh://root@beta/ --from qmp:///
      a QEMU that no libvirt manages
  segue migrate ci7 beta --transport tunnelled
      no open port at all: all of it goes through ssh
  segue migrate web1 beta --probe ping:10.0.0.5
      ask the guest all the while: the outcome tells how long a client on the network got no answer
  segue migrate web1 beta --detach
      go on without this terminal; segue watch, tune and cancel take the id that is printed

Ctrl-C turns back: the guest stays on the source and nothing is left on the destination (exit status 4)."""


@wishes.of_libvirt
def migrate(
    guest: Annotated[str, typer.Argument(help="Name or UUID of a running guest.")],
    destination: Annotated[str, typer.Argument(help="A host's name in segue.toml, or a connection URI.")],
    *,
    source: Annotated[
        str, typer.Option("--from", metavar="HOST", help="Where the guest is, a name or a URI; default: look on every host.")
    ] = "",
    control: Annotated[
        Control,
        typer.Option(
            help="direct: this Segue talks to both. p2p: the source's daemon (bare QEMU: its Segue) leads. "
            "unmanaged: through both monitors (bare QEMU)."
        ),
    ] = Control.DIRECT,
    transport: Annotated[
        Transport,
        typer.Option(
            help="How memory travels. native: in the clear. tls: with certificates. tls-psk: with a key for this one migration "
            "(bare QEMU). tunnelled: no port has to be open; through ssh (bare QEMU) or the daemons (libvirt)."
        ),
    ] = Transport.NATIVE,
    connections: Annotated[
        int, typer.Option(metavar="N", min=1, max=255, help="Send over so many connections at once (QEMU's multifd).")
    ] = 1,
    migration_address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where the destination receives; default: as in segue.toml, or its host.")
    ] = "",
    migration_ports: Annotated[
        str, typer.Option(metavar="FIRST-LAST", help="The ports it may listen on; default: as in segue.toml, or its own choice.")
    ] = "",
    persist: Annotated[
        bool | None,
        typer.Option("--persist/--no-persist", help="Keep its definition on the destination; default: where the source has one."),
    ] = None,
    undefine_source: Annotated[
        bool | None,
        typer.Option("--undefine-source/--keep-source", help="Forget its definition on the source; default: where it is kept."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PART=VALUE",
            help="Another place on the destination: disk.ID, nic.ID, vnc (bare QEMU) or graphics.TYPE (libvirt).",
        ),
    ] = None,
    max_downtime: Annotated[
        str, typer.Option(metavar="TIME", help="The guest may stand still this long at the switchover (bare: ms).")
    ] = "300ms",
    bandwidth: Annotated[str, typer.Option(metavar="RATE", help="At most this much, as 100MiB/s or 1gbit (bare: MiB/s).")] = "",
    within: Annotated[str, typer.Option(metavar="TIME", help="To be done by then (bare: seconds); else --on-miss.")] = "",
    max_slowdown: Annotated[
        str, typer.Option(metavar="PERCENT", help="The guest's CPUs may be slowed by so much at the most, as 30%.")
    ] = "",
    max_bytes: Annotated[str, typer.Option(metavar="SIZE", help="No more than this over the wire; else --on-miss.")] = "",
    on_miss: Annotated[
        OnMiss,
        typer.Option(
            help="What to do when it is not done in that time or that much. abort: stay on the source. suspend: stand "
            "still while the rest is sent. postcopy: go over. extend: say so and go on."
        ),
    ] = OnMiss.ABORT,
    postcopy: Annotated[
        PostCopy | None,
        typer.Option(
            "--postcopy",
            metavar="[never|allowed|prefer]",
            help="Post-copy when it does not converge, or as soon as all was sent once (a link lost then can cost the guest); "
            "alone: allowed.",
        ),
    ] = None,
    policy: Annotated[str, typer.Option(metavar="NAME", help="Climb this ladder of segue.toml in place of Segue's own.")] = "",
    observe_only: Annotated[
        bool, typer.Option("--observe-only", help="Say what would be done when it does not converge, and do none of it.")
    ] = False,
    auto_converge: Annotated[bool, typer.Option(help="Let QEMU slow the guest's CPUs when it does not converge.")] = True,
    copy_storage: Annotated[
        CopyStorage | None,
        typer.Option(help="Copy disks that are not shared: all of each, or inc, the topmost file over what is there already."),
    ] = None,
    disk_bandwidth: Annotated[str, typer.Option(metavar="RATE", help="At most this much for all disks that are copied.")] = "",
    synchronous_writes: Annotated[
        bool,
        typer.Option("--copy-storage-synchronous-writes", help="Copied disks: a write is done when it is on both hosts."),
    ] = False,
    disks_port: Annotated[int, typer.Option(metavar="PORT", help="Copied disks: the destination's port; 0: a free one.")] = 0,
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="Go past this blocker of 'segue check' all the same; may be given again."),
    ] = None,
    probe: Annotated[
        str,
        typer.Option(
            metavar="HOW:ADDR", help="Ask the guest all the while and tell its clients' downtime: ping:ADDR, tcp|udp:ADDR:PORT."
        ),
    ] = "",
    libvirt: LibvirtWishes,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Mend what 'segue check' can mend by itself (eject, unplug); undone if it is not moved."),
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the migration's id and come back at once; it goes on by itself.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a sample on stdout; the last line is the outcome.")
    ] = False,
) -> None:
    """Move a running guest to another host, and prove that exactly one copy runs."""
    import asyncio

    import segue

    limits = Limits(
        max_downtime_ms=parse_downtime_ms(max_downtime),
        bandwidth_bps=parse_rate(bandwidth) if bandwidth else None,
        postcopy=postcopy in (PostCopy.ALLOWED, PostCopy.PREFER) or on_miss is OnMiss.POSTCOPY,
        prefer_postcopy=postcopy is PostCopy.PREFER,
        auto_converge=auto_converge,
        max_slowdown_percent=parse_percent(max_slowdown) if max_slowdown else None,
        within_ms=parse_duration_ms(within, bare="s") if within else None,
        max_bytes=parse_bytes(max_bytes) if max_bytes else None,
        on_miss=on_miss,
    )
    limit_bps = parse_rate(disk_bandwidth) if disk_bandwidth else None
    disks = (
        CopyWish(how=copy_storage, limit_bps=limit_bps, synchronous=synchronous_writes, port=disks_port) if copy_storage else None
    )
    migration = segue.migrate(
        guest,
        destination,
        source=source,
        control=control,
        transport=transport,
        connections=connections,
        migration_address=migration_address,
        migration_ports=parse_ports(migration_ports) if migration_ports else None,
        persist=persist,
        undefine_source=undefine_source,
        overrides=parse_overrides(overrides or ()),
        limits=limits,
        policy=policy,
        observe_only=observe_only,
        disks=disks,
        accept=accept or (),
        fix=fix,
        probe=probe,
        libvirt=libvirt,
    )
    if detach:
        raise typer.Exit(asyncio.run(_detach(migration, as_json=as_json)))
    status = asyncio.run(_follow(migration, title=f"{guest} → {destination}", as_json=as_json))
    raise typer.Exit(status)


async def _detach(migration: Migration, *, as_json: bool) -> int:
    """Let another process lead it; the id is all that goes to stdout."""
    from segue.core.model import DriverKind

    record = await migration.detach()
    if as_json:
        render.print_json({"id": record.id})
        return 0
    typer.echo(record.id)
    led_there = record.spec.driver is DriverKind.QEMU and record.spec.control is Control.P2P
    where = f" on {record.spec.source}" if led_there else ""
    render.say(f"it goes on by itself{where}: 'segue watch {record.id}' shows it, 'segue cancel {record.id}' turns it back")
    return 0


async def _follow(migration: Migration, *, title: str, as_json: bool) -> int:
    """Show it until its end; the exit status. An end that began is told by its outcome, a refusal by the error it raises."""
    from segue.core.model import Progress
    from segue.core.phases import State
    from segue.engine.runner import Steered, Told
    from segue.errors import SegueError

    display = render.display(title, as_json=as_json)
    _turn_back_on_signals(migration, display)
    refusal: SegueError | None = None
    try:
        async for event in migration:
            match event:
                case State():
                    display.state(event)
                case Progress():
                    display.progress(event)
                case Steered():
                    display.note(f"{event.decision}: {event.reason}")
                case Told():
                    display.note(event.text)
    except SegueError as error:
        refusal = error
    finally:
        display.close()
    if migration.trouble:
        render.say(f"not all of it could be written down: {migration.trouble}")
    outcome = migration.outcome
    if as_json and outcome is not None:
        render.print_json(asdict(outcome))
    if refusal is not None:
        raise refusal
    if outcome is None:  # cannot be: the iteration ends with an outcome or an error
        raise AssertionError("a migration ended without an outcome")
    if not as_json:
        typer.echo(render.summary(outcome))
    return exit_codes.of_outcome(outcome)


def _turn_back_on_signals(migration: Migration, display: render.Display) -> None:
    """Ctrl-C, a plain kill and a lost terminal ask for the guest to stay; asking twice is harmless."""
    import asyncio
    import signal

    def asked() -> None:
        if migration.cancel():
            display.note("cancelling: waiting until the guest is seen running on the source")
        else:
            display.note("too late to cancel: the guest has been handed over; waiting for the proof")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, asked)


migrate.__doc__ = f"{migrate.__doc__}\n\n\b\n{EPILOG}"
