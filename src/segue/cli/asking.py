"""What a migration can be asked for: the one reader of the words that ``segue migrate``, ``check`` and ``forecast`` share.

What may live here: those words, and what they come to. Words of one verb alone are in its file, those of libvirt in `wishes`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from segue.cli import wishes
from segue.core.model import Control, Limits, OnMiss, Transport
from segue.core.storage import CopyStorage, CopyWish
from segue.core.wishes import LibvirtWishes
from segue.units import parse_bytes, parse_downtime_ms, parse_duration_ms, parse_overrides, parse_percent, parse_ports, parse_rate

Asked = dict[str, Any]
"""Keywords of `segue.migrate`."""


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


def _asked(
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
    libvirt: LibvirtWishes,
) -> Asked:
    """What was typed as `segue.migrate` takes it.

    Raises:
        UsageError: a word makes no sense.
    """
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
    return {
        "guest": guest,
        "destination": destination,
        "source": source,
        "control": control,
        "transport": transport,
        "connections": connections,
        "migration_address": migration_address,
        "migration_ports": parse_ports(migration_ports) if migration_ports else None,
        "persist": persist,
        "undefine_source": undefine_source,
        "overrides": parse_overrides(overrides or ()),
        "limits": limits,
        "policy": policy,
        "disks": disks,
        "libvirt": libvirt,
    }


def of_migration(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options: it gets what they come to, as its argument ``asked``."""
    own, shared = _parameters(command), _parameters(_asked)

    def with_options(**typed: Any) -> None:  # noqa: ANN401  # what each is, Typer has seen to
        libvirt = wishes.read({option.field: typed.pop(option.field) for option in wishes.OPTIONS})
        mine = {name: typed.pop(name) for name in own}
        command(asked=_asked(libvirt=libvirt, **typed), **mine)

    parameters = [*shared.values(), *own.values(), *(option.parameter for option in wishes.OPTIONS)]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {one.name: one.annotation for one in parameters}
    with_options.__doc__ = command.__doc__
    return with_options


def _parameters(function: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Its options, without what is made of others."""
    found = inspect.signature(function, eval_str=True).parameters
    return {name: one for name, one in found.items() if name not in ("asked", "libvirt")}
