"""What ``segue guests`` and ``segue hosts`` share: ask many addresses at once, show those that answer, say who did not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from segue.cli import render

if TYPE_CHECKING:
    from segue.engine.inventory import Surveyed


def ask(names: Sequence[str], *, facts: bool) -> Sequence[Surveyed]:
    """Ask the hosts of that name, or all hosts of segue.toml.

    Raises:
        UsageError: an unknown name.
    """
    import asyncio

    from segue import config
    from segue.drivers import driver
    from segue.engine.inventory import Inventory

    settings = config.load()
    addresses = [address for name in names for address in settings.addresses(name)] if names else settings.all_addresses()

    async def all_at_once() -> Sequence[Surveyed]:
        async with Inventory(driver) as inventory:
            return await inventory.survey(addresses, facts=facts)

    return asyncio.run(all_at_once())


def leave(surveyed: Sequence[Surveyed]) -> None:
    """Say on stderr who did not answer and why; the exit status is that of the first one."""
    errors = [(answer.address.name, answer.error) for answer in surveyed if answer.error is not None]
    for name, error in errors:
        render.say(f"{name}: {error}")
    if errors:
        raise typer.Exit(errors[0][1].exit_code)
