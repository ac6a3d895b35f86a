"""``segue``: the verbs put together, and the one place where an error becomes words and an exit status.

What may live here: the list of verbs and `main`. A verb has a file of its own and imports what is heavy only when it runs:
``segue --help`` must answer at once.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys
import traceback
from collections.abc import Iterable
from importlib import import_module
from typing import Annotated, Any, Final

import typer

from segue.cli import render
from segue.errors import OutcomeAmbiguous, SegueError

VERBS: Final = {
    "migrate": "migrate.migrate",
    "check": "check.check",
    "forecast": "forecast.forecast",
    "guests": "guests.guests",
    "status": "history.status",
    "watch": "watch.watch",
    "tune": "steer.tune",
    "cancel": "steer.cancel",
    "recover": "recover.recover",
    "show": "show.show",
    "history": "history.history",
    "guest": "guest.app",
    "hosts": "hosts.app",
    "pki": "pki.app",
    "host": "host.app",
    "lab": "lab.app",
}
"""Each verb's file in this package and its name there, in the order in which they are shown."""
_PARSERS: Final = dict.fromkeys(("migrate", "check", "forecast"), "asking.Command")
OBJECTS_BETWEEN_LOOKS: Final = 100_000
"""So many more before the interpreter looks for circles among them. After its own 700 it would look two hundred times while it
loads what a migration needs, find none, and take a tenth of that time for it."""

DEFECT: Final = """\
segue: This is a defect of Segue itself, not of a host.
  to do: If a guest was being moved, 'segue recover' looks at both hosts and settles it. Please report what is printed above."""

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C where nothing had begun, as shells tell it; Typer's own."""

SWITCH_S: Final = 0.0005
"""So long a thread may keep others waiting, a tenth of the interpreter's own: one loads while another speaks to hosts."""


def assembled(verbs: Iterable[str] = VERBS) -> typer.Typer:
    """The command line with these verbs; only their files are loaded."""
    app = typer.Typer(
        name="segue",
        help="Move running QEMU/KVM guests between hosts: checked first, steered until they converge, proven at the end.",
        epilog="Exit status: 0 done, 1 failed, 2 usage, 3 refused, 4 cancelled, 5 ambiguous, 6 unreachable.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_segue)
    for verb in verbs:
        what = _loaded(VERBS[verb])
        if isinstance(what, typer.Typer):
            app.add_typer(what, name=verb)
        else:
            app.command(verb, cls=_loaded(_PARSERS[verb]) if verb in _PARSERS else None)(what)
    return app


def _loaded(place: str) -> Any:  # noqa: ANN401  # a function, a group of verbs, a class
    file, name = place.split(".")
    return getattr(import_module(f"segue.cli.{file}"), name)


def _tell_version(wanted: bool) -> None:  # noqa: FBT001  # typer calls it so
    if wanted:
        from importlib.metadata import version

        typer.echo(f"segue {version('segue')}")
        raise typer.Exit


def _segue(
    *,
    version: Annotated[  # its callback has answered
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and leave with the documented exit status; wrong words are told by Typer (exit status 2)."""
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(OBJECTS_BETWEEN_LOOKS)
    atexit.register(gc.freeze)  # else the interpreter goes through all that was imported once more: 0.1 s of a migration
    asked = [word for word in sys.argv[1:2] if word in VERBS]
    try:
        assembled(asked or VERBS)()
    except SegueError as error:
        with contextlib.suppress(OSError):  # nobody listens: the status still says it
            typer.echo(explain(error), err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # before Typer heeds it: a verb was being loaded
        typer.echo("Aborted.", err=True)
        sys.exit(INTERRUPTED)
    except Exception:  # a defect; what it has left undone is not a person's to guess
        traceback.print_exc()
        typer.echo(DEFECT, err=True)
        sys.exit(OutcomeAmbiguous.exit_code)


def explain(error: SegueError) -> str:
    """An error as a person reads it: what happened, where the guest is, what to do, each on its line; and who said what."""
    lines = [f"segue: {error.message}"]
    if error.guest_at:
        lines.append(f"  guest: {error.guest_at}.")
    if error.hint:
        lines.append(f"  to do: {error.hint}")
    lines += [f"  | {render.cell(quote)}" for quote in error.quotes]
    return "\n".join(lines)
