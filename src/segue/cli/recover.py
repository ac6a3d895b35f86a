"""``segue recover``: settle what was left unfinished, and look for what nobody remembers."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from segue.cli import exit_codes, render, unheard, written
from segue.cli.written import Json
from segue.errors import SegueError, UsageError

if TYPE_CHECKING:
    from segue.core.model import Outcome
    from segue.core.ports import Store
    from segue.core.record import Record
    from segue.engine.runner import Event


def recover(
    migration: Annotated[
        str, typer.Argument(metavar="[ID]", help="One migration; default: all that nobody leads and that are not settled.")
    ] = "",
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look, and say what would be done.")] = False,
    discard: Annotated[
        bool,
        typer.Option("--discard", help="End what is left of a guest that is lost, or whose post-copy stays broken."),
    ] = False,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            help="Look over all hosts of segue.toml: guests that run twice, half-started destinations, ports left open.",
        ),
    ] = False,
    repair: Annotated[bool, typer.Option("--repair", help="With --sweep: mend what is safe to mend.")] = False,
    as_json: Json = False,
) -> None:
    """Look at both hosts of a migration that was left unfinished, and bring it to its end. Safe on a healthy guest, and twice.

    Exit status: how the migration ended; of several, the highest. With --dry-run or --sweep: 1 when something is left to do.

    \b
    Examples:
      segue recover
      segue recover 3f2a --dry-run
      segue recover --sweep --repair
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import asyncio

    if migration and sweep:
        raise UsageError("--sweep looks over all hosts, and takes no migration.", hint="Leave one of them out.")
    with written.opened() as store:
        if sweep:
            raise typer.Exit(asyncio.run(_sweep(store, repair=repair and not dry_run, as_json=as_json)))
        records = [store.load(migration)] if migration else _left(store)
        if not records:
            render.say("nothing is left unfinished")
        act = _look if dry_run else _recover
        with unheard.whoever_listens():
            statuses = [asyncio.run(_one(act, store, record, discard=discard, as_json=as_json)) for record in records]
    raise typer.Exit(max(statuses, default=0))


def _left(store: Store) -> list[Record]:
    from segue.engine.outside import is_led

    return [record for record in store.find(unsettled=True, limit=1000) if not is_led(record)]


async def _one(act: object, store: Store, record: Record, *, discard: bool, as_json: bool) -> int:
    """One of several: what stops it is told, and the others have their turn."""
    from segue.cli.main import explain

    try:
        return await act(store, record, discard=discard, as_json=as_json)  # type: ignore[operator,no-any-return]
    except SegueError as error:
        typer.echo(explain(error), err=True)
        if as_json:
            render.print_json({"id": record.id, "guest": record.spec.guest, "error": str(error), "code": error.code})
        return error.exit_code


async def _look(store: Store, record: Record, *, discard: bool, as_json: bool) -> int:  # noqa: ARG001  # as `_recover`
    from segue.core.ownership import Remedy
    from segue.drivers import driver
    from segue.engine import recovery

    looked = await recovery.look(record, driver)
    verdict = looked.verdict
    if as_json:
        render.print_json({"id": record.id, **asdict(looked)})
    else:
        typer.echo(f"{record.id}: {record.spec.guest} was left in {record.state}.")
        for evidence in (looked.source, looked.destination):
            typer.echo(f"  {evidence.host}: {evidence.sighting} ({evidence.raw})")
        typer.echo(f"  owner: {verdict.owner}; to do: {recovery.words(verdict.remedy)}.")
    return 0 if verdict.remedy is Remedy.NOTHING and record.settled else 1


async def _recover(store: Store, record: Record, *, discard: bool, as_json: bool) -> int:
    from segue.drivers import driver
    from segue.engine import recovery

    render.say(f"{record.id}: {record.spec.guest}, {record.spec.source} → {record.spec.destination}, left in {record.state}")
    outcome = await recovery.recover(store, record, driver, report=_say, discard=discard)
    _tell(store, record, outcome, as_json=as_json)
    return exit_codes.of_outcome(outcome)


def _say(event: Event) -> None:
    from segue.core.phases import State
    from segue.engine.runner import Told

    match event:
        case Told():
            render.say(f"  {event.text}")
        case State():
            render.say(f"  {event}")


def _tell(store: Store, record: Record, outcome: Outcome, *, as_json: bool) -> None:
    """What was done, and the end."""
    from segue.core.record import Step

    lease = store.load(record.id).lease
    done = [
        f"{entry.action} {entry.step}{f': {entry.detail}' if entry.detail else ''}"
        for entry in store.story(record.id).entries
        if lease is not None and entry.epoch == lease.epoch and entry.step is not Step.DONE
    ]
    for line in done:
        render.say(f"  did: {line}")
    if as_json:
        render.print_json({**asdict(outcome), "did": done})
    else:
        typer.echo(render.summary(outcome))


async def _sweep(store: Store, *, repair: bool, as_json: bool) -> int:
    from segue import config
    from segue.drivers import driver
    from segue.engine import recovery

    swept = await recovery.sweep(store, config.load().all_addresses(), driver)
    for answer in swept.silent:
        render.say(f"{answer.address.name}: not looked at: {answer.error}")
    for host, error in swept.unseen:
        render.say(f"{host}: not looked at for ports that were left open: {error}")
    left = 0
    for finding in swept.findings:
        ended = ""
        if repair and finding.repair is not None:
            outcome = await recovery.repair(store, finding, driver, report=_say)
            ended = render.summary(outcome)
        left += not ended
        if as_json:
            render.print_json({"text": finding.text, "hint": finding.hint, "repaired": ended})
        else:
            typer.echo(f"{finding.text}.\n  {ended or finding.hint}")
    if not swept.findings:
        render.say("every guest runs once, and nothing half-done is left on the hosts that answered")
    return 1 if left or swept.silent else 0
