"""``segue check``: preflight alone, as a page that one wants to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from segue.cli import exit_codes, render
from segue.core.model import Control, Limits, Transport
from segue.core.storage import CopyStorage, CopyWish
from segue.units import parse_downtime_ms, parse_duration_ms, parse_overrides, parse_ports, parse_rate

if TYPE_CHECKING:
    from segue.engine.preflight import Preflight


def check(
    guest: Annotated[str, typer.Argument(help="Name or UUID of a running guest.")],
    destination: Annotated[str, typer.Argument(help="A host's name in segue.toml, or a connection URI.")],
    *,
    source: Annotated[
        str, typer.Option("--from", metavar="HOST", help="Where the guest is, a name or a URI; default: look on every host.")
    ] = "",
    control: Annotated[Control, typer.Option(help="As for 'segue migrate'.")] = Control.DIRECT,
    transport: Annotated[Transport, typer.Option(help="As for 'segue migrate'.")] = Transport.NATIVE,
    connections: Annotated[int, typer.Option(metavar="N", min=1, max=255, help="As for 'segue migrate'.")] = 1,
    migration_address: Annotated[str, typer.Option(metavar="ADDRESS", help="As for 'segue migrate'.")] = "",
    migration_ports: Annotated[str, typer.Option(metavar="FIRST-LAST", help="As for 'segue migrate'.")] = "",
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="PART=VALUE", help="As for 'segue migrate'.")] = None,
    max_downtime: Annotated[str, typer.Option(metavar="TIME", help="As for 'segue migrate'.")] = "300ms",
    bandwidth: Annotated[str, typer.Option(metavar="RATE", help="As for 'segue migrate'.")] = "",
    within: Annotated[str, typer.Option(metavar="TIME", help="As for 'segue migrate'.")] = "",
    postcopy: Annotated[bool, typer.Option("--postcopy", help="As for 'segue migrate'.")] = False,
    copy_storage: Annotated[CopyStorage | None, typer.Option(help="As for 'segue migrate'.")] = None,
    accept: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="Judge as if this blocker were none; may be given again.")
    ] = None,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix", help="Name each change that 'segue migrate --fix' would make, and judge as after it; none is made."
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what is fine, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: the verdict and every finding.")] = False,
) -> None:
    """Look at both hosts and the path between them, and list everything that stands in the way of moving a guest, all at once.

    Each finding comes with its evidence and its fix; what could not be seen is told as not checked. Nothing is touched,
    with --fix neither: what is mended for a move is undone when there is none, and here nobody would be left to undo it.
    The words after the destination say how it would be moved, as for 'segue migrate', which looks at the same first.

    Exit status: 0 it can move, 3 something stands in the way.

    \b
    Examples:
      segue check web1 beta
      segue check web1 beta --transport tls --postcopy -v
      segue check web1 beta --fix
      segue check web1 qemu+ssh://beta/system --from qemu:///system --json
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import asyncio

    import segue

    migration = segue.migrate(
        guest,
        destination,
        source=source,
        control=control,
        transport=transport,
        connections=connections,
        migration_address=migration_address,
        migration_ports=parse_ports(migration_ports) if migration_ports else None,
        overrides=parse_overrides(overrides or ()),
        limits=Limits(
            max_downtime_ms=parse_downtime_ms(max_downtime),
            bandwidth_bps=parse_rate(bandwidth) if bandwidth else None,
            postcopy=postcopy,
            within_ms=parse_duration_ms(within, bare="s") if within else None,
        ),
        disks=CopyWish(how=copy_storage) if copy_storage else None,
        accept=accept or (),
        fix=fix,
    )
    seen = asyncio.run(migration.check())
    if as_json:
        render.print_json(_as_json(seen))
    else:
        from segue.cli import findings

        typer.echo(findings.page(seen, verbose=verbose))
    raise typer.Exit(exit_codes.of_check(seen.blockers))


def _as_json(seen: Preflight) -> dict[str, object]:
    from dataclasses import asdict

    from segue.core.preflight import CHECKS

    spec = seen.facts.spec
    return {
        "guest": spec.guest,
        "source": spec.source,
        "destination": spec.destination,
        "driver": spec.driver,
        "verdict": seen.verdict,
        "findings": [
            {
                **asdict(one),
                "theme": CHECKS[one.code].theme,
                "accepted": one.code in seen.accepted,
                "fixable": one.fixable,
                "page": one.page,
            }
            for one in seen.findings
        ],
        "mends": [one.words for one in seen.mends],
        "fine": list(seen.fine),
    }
