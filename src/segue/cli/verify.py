"""``segue hosts verify``: the connectivity matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from segue.cli import render
from segue.errors import UsageError

if TYPE_CHECKING:
    from segue.core.connectivity import Cell
    from segue.provision.connectivity import Matrix

SIGNS: Final = {"ok": "ok", "warn": "WARN", "bad": "BAD", "unused": "-", "unchecked": "?"}


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[HOSTS]...", help="Names or connection URIs, two or more; default: every host of segue.toml."),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a cell, a line each.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also what is well, with what was seen.")] = False,
) -> None:
    """Try every way from each host to each other: ssh, libvirt, the migration port, names, clocks, MTU, speed, firewall.

    \b
    In the table: ok, WARN, BAD; - does not work and nothing configured needs it; ? could not be tried.
    Exit status: 0 nothing is BAD, 1 something is, 6 a host did not answer.

    \b
    Examples:
      segue hosts verify
      segue hosts verify alpha beta -v
      segue hosts verify --json | jq 'select(.state == "bad")'
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import asyncio

    from segue import config
    from segue.provision import connectivity

    settings = config.load()
    hosts = {name: settings.addresses(name) for name in names or settings.hosts}
    if len(hosts) < 2:
        raise UsageError(
            "To verify what hosts reach of each other takes two of them.", hint="Name two, or list them in segue.toml."
        )
    matrix = asyncio.run(connectivity.verify(hosts))
    if as_json:
        for cell in matrix.cells:
            render.print_json(asdict(cell))
    else:
        _show(matrix, verbose=verbose)
    for host, error in matrix.silent.items():
        render.say(f"{host}: {error}")
    if matrix.silent:
        raise typer.Exit(next(iter(matrix.silent.values())).exit_code)
    if any(cell.state == "bad" for cell in matrix.cells):
        raise typer.Exit(1)


def _show(matrix: Matrix, *, verbose: bool) -> None:
    """The table, then what is not well, each with its fix."""
    ways = list(dict.fromkeys(cell.way for cell in matrix.cells))
    pairs: dict[str, list[Cell]] = {}
    for cell in matrix.cells:
        pairs.setdefault(f"{cell.source} → {cell.destination}", []).append(cell)
    rows = [[pair, *(SIGNS[cell.state] for cell in cells)] for pair, cells in pairs.items()]
    render.table(("FROM → TO", *(way.upper() for way in ways)), rows, none="no two hosts could be reached")
    _explain([cell for cell in matrix.cells if cell.state == "bad"])
    _explain([cell for cell in matrix.cells if cell.state == "warn"])
    _explain([cell for cell in matrix.cells if cell.state == "unchecked"])
    if verbose:
        _explain([cell for cell in matrix.cells if cell.state in ("ok", "unused")])


def _explain(cells: Sequence[Cell]) -> None:
    for cell in cells:
        typer.echo(f"\n{SIGNS[cell.state]}  {cell.source} → {cell.destination}, {cell.way}: {render.cell(cell.text)}")
        if cell.fix:
            typer.echo(f"    to do: {render.cell(cell.fix)}")
