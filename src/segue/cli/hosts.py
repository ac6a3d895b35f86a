"""``segue hosts``: which hosts there are, and what answers there; and ``segue hosts verify``, which is in `verify`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from typer.core import TyperGroup

from segue.cli import render, survey, verify


class _Group(TyperGroup):
    """Lists where no verb is named: ``segue hosts beta`` is ``segue hosts list beta``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # typer's own is click's
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_Group, help="Which hosts there are ('list', which need not be said), and what they reach of each other.")
app.command("verify")(verify.verify)


@app.command("list")
def hosts(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[HOSTS]...", help="Names or connection URIs; default: every host of segue.toml."),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object an address, a line each.")] = False,
) -> None:
    """List hosts: each address, whether it answers, its hypervisor, how many guests run there.

    \b
    Examples:
      segue hosts
      segue hosts beta --json
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    surveyed = survey.ask(names or [], facts=True)
    if as_json:
        for answer in surveyed:
            render.print_json(
                {
                    "host": answer.address.name,
                    "uri": answer.address.uri,
                    "answers": answer.error is None,
                    "facts": asdict(answer.facts) if answer.facts else None,
                    "guests": len(answer.guests),
                    "error": str(answer.error or ""),
                }
            )
    else:
        rows = [
            (
                answer.address.name,
                answer.address.uri,
                answer.facts.hypervisor if answer.facts else "does not answer",
                str(len(answer.guests)) if answer.error is None else "?",
            )
            for answer in surveyed
        ]
        render.table(("HOST", "ADDRESS", "HYPERVISOR", "GUESTS"), rows, none="no hosts are configured; see docs/guide/hosts.md")
    survey.leave(surveyed)
