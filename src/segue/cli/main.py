"""``segue``: the verbs put together, and the one place where an error becomes words and an exit status.

What may live here: the list of verbs and `main`. A verb has a file of its own and imports what is heavy only when it runs:
``segue --help`` must answer at once.
"""

from __future__ import annotations

import atexit
import gc
import sys
from typing import Annotated

import typer

from segue.cli import check, forecast, guest, guests, history, host, hosts, lab, migrate, pki, recover, render, show, steer, watch
from segue.errors import SegueError

app = typer.Typer(
    name="segue",
    help="Move running QEMU/KVM guests between hosts: checked first, steered until they converge, proven at the end.",
    epilog="Exit status: 0 done, 1 failed, 2 usage, 3 refused, 4 cancelled, 5 ambiguous, 6 unreachable.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("migrate", cls=migrate.Command)(migrate.migrate)
app.command("check")(check.check)
app.command("forecast", cls=migrate.Command)(forecast.forecast)
app.command("guests")(guests.guests)
app.command("status")(history.status)
app.command("watch")(watch.watch)
app.command("tune")(steer.tune)
app.command("cancel")(steer.cancel)
app.command("recover")(recover.recover)
app.command("show")(show.show)
app.command("history")(history.history)
app.add_typer(guest.app, name="guest")
app.add_typer(hosts.app, name="hosts")
app.add_typer(pki.app, name="pki")
app.add_typer(host.app, name="host")
app.add_typer(lab.app, name="lab")


def _tell_version(wanted: bool) -> None:  # noqa: FBT001  # typer calls it so
    if wanted:
        from importlib.metadata import version

        typer.echo(f"segue {version('segue')}")
        raise typer.Exit


@app.callback()
def _segue(
    *,
    version: Annotated[  # its callback has answered
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and leave with the documented exit status; wrong words are told by Typer (exit status 2)."""
    atexit.register(gc.freeze)  # else the interpreter goes through all that was imported once more: 0.1 s of a migration
    try:
        app()
    except SegueError as error:
        typer.echo(explain(error), err=True)
        sys.exit(error.exit_code)


def explain(error: SegueError) -> str:
    """An error as a person reads it: what happened, where the guest is, what to do, each on its line; and who said what."""
    lines = [f"segue: {error.message}"]
    if error.guest_at:
        lines.append(f"  guest: {error.guest_at}.")
    if error.hint:
        lines.append(f"  to do: {error.hint}")
    lines += [f"  | {render.cell(quote)}" for quote in error.quotes]
    return "\n".join(lines)
