"""``segue migrate``: move one running guest, show how it goes, let Ctrl-C turn it back."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from segue.cli import asking, exit_codes, render, unheard
from segue.core.model import Control

if TYPE_CHECKING:
    from segue.engine.migration import Migration


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


@asking.of_migration
def migrate(
    *,
    asked: asking.Asked,
    observe_only: Annotated[
        bool, typer.Option("--observe-only", help="Say what would be done when it does not converge, and do none of it.")
    ] = False,
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

    migration = segue.migrate(**asked, observe_only=observe_only, accept=accept or (), fix=fix, probe=probe)
    if detach:
        raise typer.Exit(asyncio.run(_detach(migration, as_json=as_json)))
    with unheard.whoever_listens():
        status = asyncio.run(_follow(migration, title=f"{asked['guest']} → {asked['destination']}", as_json=as_json))
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
