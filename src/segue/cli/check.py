"""``segue check``: preflight alone, as a page that one wants to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from segue.cli import asking, exit_codes, render

if TYPE_CHECKING:
    from segue.engine.preflight import Preflight


@asking.of_migration
def check(
    *,
    asked: asking.Asked,
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

    migration = segue.migrate(**asked, accept=accept or (), fix=fix)
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
