"""``segue guest``: what is done to one guest beside moving it."""

from __future__ import annotations

from typing import Annotated

import typer

from segue.cli import render

app = typer.Typer(help="Start a guest that runs nowhere.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _guest() -> None:
    pass


@app.command()
def start(
    name: Annotated[str, typer.Argument(help="Its name.")],
    *,
    host: Annotated[str, typer.Option("--on", metavar="HOST", help="Where; it must have its definition, or its launch record.")],
    fenced: Annotated[
        list[str] | None, typer.Option("--fenced", metavar="HOST", help="A host that you know to be off; it is not asked.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Start a guest from its definition, after every configured host was seen not to run it.

    A host that does not answer stands in the way: it may run the guest, and two copies would destroy its disks.

    \b
    Examples:
      segue guest start ci7 --on beta
      segue guest start ci7 --on beta --fenced alpha
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import asyncio

    from segue import config
    from segue.drivers import driver
    from segue.engine import starting

    asyncio.run(starting.start(name, host, config.load(), driver=driver, fenced=fenced or ()))
    if as_json:
        render.print_json({"guest": name, "host": host, "state": "running"})
    else:
        typer.echo(f"{name} runs on {host}.")
