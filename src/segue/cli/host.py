"""``segue host``: a host made ready to give and take guests, looked at, and put back as it was."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from segue.cli import pki, render
from segue.errors import HostSetupError, RefusedError, UsageError

if TYPE_CHECKING:
    from segue.core.hostchecks import Finding
    from segue.core.hostfacts import Wanted
    from segue.provision.host.prepare import Preparation, Proposal

T = TypeVar("T")

app = typer.Typer(help="Make a host ready to give and take guests: prepare, verify, undo.", no_args_is_help=True)

Host = Annotated[str, typer.Argument(metavar="HOST", help="Its name in segue.toml.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Tcp = Annotated[bool, typer.Option("--tcp", help="libvirt also listens without TLS, and asks by SASL who connects.")]
Insecure = Annotated[bool, typer.Option("--insecure-lab", help="With --tcp: ask nobody. Whoever reaches the port is root there.")]
Storage = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SERVER:/PATH|/PATH|nfs://SERVER/PATH",
        help="Disks of guests: an export to mount at the same path, a path that is there already, or one that QEMU itself "
        "reaches. It is proven that all hosts see one file there. May be repeated.",
    ),
]
Export = Annotated[
    list[str] | None,
    typer.Option(metavar="/PATH", help="Make it a server of disks alone, which exports this to the other hosts by NFS."),
]
Firewall = Annotated[bool, typer.Option("--firewall", help="Open the ports that are needed; without it they are only told.")]


@app.command("prepare")
def prepare(
    host: Host,
    *,
    tcp: Tcp = False,
    insecure_lab: Insecure = False,
    storage: Storage = None,
    export: Export = None,
    firewall: Firewall = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Show all that would be changed on a host, ask, back up, change it, and verify. All of it or nothing; may be repeated.

    Packages, certificates of your CA, a libvirt that listens on TLS, QEMU's TLS, its migration address and ports (segue.toml),
    names of the other hosts, shared storage. 'segue host undo' takes it all back.

    \b
    Exit status: 0 it is ready, 1 it failed and was taken back, or a proof failed; 3 refused, or not agreed to; 6 no answer.

    \b
    Examples:
      segue host prepare alpha
      segue host prepare alpha --storage nas:/srv/guests --firewall
      segue host prepare alpha --tcp --insecure-lab --yes
      segue host prepare nas --export /srv/guests
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    wanted, places = _wanted(tcp=tcp, insecure=insecure_lab, storage=storage, export=export, firewall=firewall)

    async def work(preparation: Preparation) -> list[Finding]:
        proposal = await preparation.propose()
        _show(host, proposal, as_json=as_json)
        if proposal.steps:
            await _agreed(host, yes=yes)
            await preparation.carry_out(proposal)
            render.say(f"{host}: done; 'segue host undo {host}' takes it back")
        return await preparation.verify()

    _leave(host, _with(host, wanted, places, work), as_json=as_json)


@app.command("verify")
def verify(
    host: Host,
    *,
    tcp: Tcp = False,
    insecure_lab: Insecure = False,
    storage: Storage = None,
    export: Export = None,
    firewall: Firewall = False,
    as_json: Json = False,
) -> None:
    """Look whether a host is as 'segue host prepare' with the same words would leave it, and try what only trying shows.

    That the clocks agree, that names are the same from all hosts, and, with --storage, that a file which QEMU's user writes on
    this host is read by QEMU's user on each other. 'segue pki verify' tries certificates. Nothing is changed.

    \b
    Exit status: 0 all is well, 1 something is not, 6 no answer.

    \b
    Examples:
      segue host verify alpha
      segue host verify alpha --storage /srv/guests --json
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    wanted, places = _wanted(tcp=tcp, insecure=insecure_lab, storage=storage, export=export, firewall=firewall)

    async def work(preparation: Preparation) -> list[Finding]:
        return await preparation.verify()

    _leave(host, _with(host, wanted, places, work), as_json=as_json)


@app.command("undo")
def undo(host: Host, *, yes: Yes = False) -> None:
    """Take back all that 'segue host prepare' did to a host: files to the byte, units, packages that came, certificates.

    A file that somebody changed since is left, and named: exit status 1.

    \b
    Examples:
      segue host undo alpha
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    wanted, places = _wanted(tcp=False, insecure=False, storage=None, export=None, firewall=False)

    async def work(preparation: Preparation) -> list[str]:
        await preparation.check_undo()
        await _agreed(host, yes=yes)
        return await preparation.undo()

    left = _with(host, wanted, places, work)
    if left:
        raise HostSetupError(f"Not all could be taken back on {host}: {'; '.join(left)}.", hint="Mend that, then call it again.")
    typer.echo(f"{host} is as it was before Segue prepared it.")


# --- what they share


def _wanted(
    *, tcp: bool, insecure: bool, storage: list[str] | None, export: list[str] | None, firewall: bool
) -> tuple[Wanted, list[str]]:
    """What is asked for, and the places where storage is to be proven."""
    from segue.core.hostfacts import Share, Wanted

    shares, places = [], []
    for word in storage or []:
        server, colon, path = word.partition(":")
        if word.startswith(("/", "nfs://")):
            places.append(word)
        elif colon and server and path.startswith("/"):
            shares.append(Share(server=server, path=path.rstrip("/")))
            places.append(path)
        else:
            raise UsageError(f"{word!r} is no storage.", hint="Write SERVER:/PATH, /PATH or nfs://SERVER/PATH.")
    for path in export or []:
        if not path.startswith("/"):
            raise UsageError(f"{path!r} is no path of a directory.", hint="It begins with a slash.")
    return Wanted(tcp=tcp, insecure=insecure, shares=tuple(shares), exports=tuple(export or ()), firewall=firewall), places


def _with(host: str, wanted: Wanted, places: list[str], work: Callable[[Preparation], Awaitable[T]]) -> T:
    from segue import config
    from segue.provision.host.prepare import Preparation
    from segue.provision.pki.authority import Authority
    from segue.provision.pki.fleet import Fleet

    hosts = dict(config.load().hosts)
    if host not in hosts:
        raise UsageError(
            f"There is no host {host!r} in segue.toml.", hint=f"It has {', '.join(hosts) or 'none'}; see docs/guide/hosts.md."
        )

    async def main() -> T:
        async with Fleet(hosts) as fleet:
            preparation = Preparation(
                fleet,
                hosts,
                host,
                wanted=wanted,
                places=places,
                open_authority=lambda: Authority.opened(pki.directory()),
                say=lambda words: render.say(f"{host}: {words}"),
            )
            return await work(preparation)

    return asyncio.run(main())


def _show(host: str, proposal: Proposal, *, as_json: bool) -> None:
    from segue.core.steps import File, shown

    for other, error in proposal.silent.items():
        render.say(f"{other} does not answer, so nothing was compared with it: {error}")
    for step in proposal.steps:
        words = shown(step)
        if as_json:
            render.print_json({"host": host, "step": type(step).__name__.lower(), "words": words})
        elif words:
            typer.echo(words if isinstance(step, File) else f"* {words}")
    for warning in proposal.warnings:
        render.say(f"{host}: mind: {warning}")
    if not proposal.steps:
        render.say(f"{host}: nothing is to be changed")


async def _agreed(host: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise RefusedError(
            f"Nobody can be asked whether {host} is to be changed; nothing was.", hint="--yes agrees to all of it."
        )
    if not await asyncio.to_thread(typer.confirm, f"Change {host}?", err=True):
        raise RefusedError("Nothing was changed.")


def _leave(host: str, found: list[Finding], *, as_json: bool) -> None:
    for finding in found:
        if as_json:
            render.print_json(asdict(finding))
        else:
            typer.echo(f"{finding.host}: {finding.about}: {finding.text}.\n  to do: {finding.fix}.")
    if not found:
        render.say(f"{host}: all is well")
    raise typer.Exit(HostSetupError.exit_code if found else 0)
