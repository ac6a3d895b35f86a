"""``segue pki``: the certificates of libvirt and QEMU on the hosts: made, put there, tried, renewed and revoked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from segue.cli import render, written
from segue.cli.written import Json
from segue.errors import PkiError, SegueError, UsageError

if TYPE_CHECKING:
    from segue.core.model import HostAddress
    from segue.core.pki import Row
    from segue.provision.pki.x509 import Pair

VARIABLE: Final = "SEGUE_PKI"
DAYS_MAX: Final = 36_500
app = typer.Typer(help="Certificates for libvirt and QEMU: a CA of your own, and what it signs.", no_args_is_help=True)

Host = Annotated[str, typer.Argument(metavar="HOST", help="Its name in segue.toml, or a connection URI.")]
Hosts = Annotated[list[str] | None, typer.Argument(metavar="[HOSTS]...", help="Default: every host of segue.toml.")]
Days = Annotated[int, typer.Option(min=1, max=DAYS_MAX, help="How many days the certificates hold, at most as long as the CA.")]
CaDays = Annotated[int, typer.Option(min=1, max=DAYS_MAX, help="How many days the CA holds.")]


def directory() -> Path:
    """Where the CA is: ``$SEGUE_PKI``, else ``pki`` beside what is written of migrations: /var/lib/segue for root."""
    from segue.store import state_directory

    return Path(os.environ.get(VARIABLE) or state_directory() / "pki")


@app.command("init")
def init(
    *,
    name: Annotated[
        str, typer.Option(help="What the CA is called; hosts' certificates name it as their organization.")
    ] = "Segue CA",
    days: CaDays = 3650,
    ca_cert: Annotated[
        Path | None, typer.Option(help="Use this CA certificate instead of a new one; certtool's is fine.")
    ] = None,
    ca_key: Annotated[Path | None, typer.Option(help="The private key that belongs to it.")] = None,
    as_json: Json = False,
) -> None:
    """Make a CA, in a directory that only you can read.

    \b
    Examples:
      segue pki init
      segue pki init --name "Example Org CA" --days 1825
      segue pki init --ca-cert cacert.pem --ca-key cakey.pem
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    from datetime import UTC, datetime

    from segue.provision.pki import x509
    from segue.provision.pki.authority import Authority

    if (ca_cert is None) != (ca_key is None):
        raise UsageError("--ca-cert and --ca-key belong together.", hint="Give both, or none of them.")
    pair = _given(ca_cert, ca_key) if ca_cert and ca_key else x509.make_authority(name, now=datetime.now(UTC), days=days)
    with Authority.create(directory(), pair) as authority:
        made = x509.facts(x509.read(pair.certificate)[0])
        _tell(
            {"directory": str(authority.directory), "subject": made.subject, "not_after_ms": made.not_after_ms},
            f"{made.subject!r} is in {authority.directory}, until {_date(made.not_after_ms)}. Keep a backup, closed to others.",
            as_json=as_json,
        )


def _given(certificate: Path, key: Path) -> Pair:
    from segue.provision.pki.x509 import Pair

    try:
        return Pair(certificate=certificate.read_bytes(), key=key.read_bytes())
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}.") from error


@app.command("issue")
def issue(
    host: Host,
    *,
    san: Annotated[list[str] | None, typer.Option(help="One more name or IP address; may be repeated.")] = None,
    days: Days = 730,
    as_json: Json = False,
) -> None:
    """Make keys and certificates for a host: for libvirt and for QEMU, as server and as client. Nothing is put on it yet.

    They hold for every name by which segue.toml connects to it, and for those given here.

    \b
    Examples:
      segue pki issue beta
      segue pki issue beta --san beta.example.org --san 10.0.7.12
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    from segue.core.pki import names_used
    from segue.provision.pki import x509
    from segue.provision.pki.authority import Authority

    name, addresses = _host(host, may_be_new=True)
    with Authority.opened(directory()) as authority:
        issued = authority.issue(name, [*names_used(name, addresses), *(san or ())], days=days)
    until_ms = x509.facts(x509.read(next(iter(issued.pairs.values())).certificate)[0]).not_after_ms
    _tell(
        {"host": name, "names": issued.names, "not_after_ms": until_ms},
        f"{name}: issued for {', '.join(issued.names)}, until {_date(until_ms)}. 'segue pki install {name}' puts it there.",
        as_json=as_json,
    )


@app.command("install")
def install(host: Host, *, as_json: Json = False) -> None:
    """Put what was issued on its host, all at once or not at all, and let its libvirt read it.

    \b
    Examples:
      segue pki install beta
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import asyncio

    from segue.provision.pki.authority import Authority
    from segue.provision.pki.fleet import Fleet

    name, addresses = _host(host)

    async def work(authority: Authority) -> bool:
        async with Fleet({name: addresses}) as fleet:
            return await fleet.install(authority, name)

    with Authority.opened(directory()) as authority:
        read = asyncio.run(work(authority))
    told = "its libvirt has read them" if read else "no libvirt serves TLS there yet: it reads them when it starts to"
    _tell({"host": name, "reloaded": read}, f"{name}: certificates are in place; {told}.", as_json=as_json)


@app.command("verify")
def verify(hosts: Hosts = None, *, as_json: Json = False) -> None:
    """Look for all that can be wrong: chains, dates, keys, modes, names; then TLS from each host to each other, for real.

    Exit status: 0 all is well, 1 something is wrong, 6 a host did not answer.

    \b
    Examples:
      segue pki verify
      segue pki verify alpha beta --json
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import asyncio

    from segue.provision.pki.fleet import Fleet, Verified

    wanted = _hosts(hosts)

    async def work() -> Verified:
        async with Fleet(wanted) as fleet:
            return await fleet.verify()

    verified = asyncio.run(work())
    for finding in verified.findings:
        if as_json:
            render.print_json(asdict(finding))
        else:
            typer.echo(f"{finding.host}: {finding.flaw}: {finding.text}.\n  to do: {finding.fix}.")
    _tell_silent(verified.silent)
    if not verified.findings and not verified.silent:
        render.say(f"all is well on {', '.join(wanted)}; {verified.handshakes} handshakes between them succeeded")
    raise typer.Exit(_worst(verified.silent, wrong=bool(verified.findings)))


@app.command("status")
def status(
    hosts: Hosts = None,
    *,
    warn_days: Annotated[int, typer.Option(min=0, help="What holds for fewer days is a reason for exit status 1.")] = 30,
    as_json: Json = False,
) -> None:
    """Show how long everything holds: the CA, and what lies on the hosts.

    Exit status: 0 all holds for longer, 1 something does not, 6 a host did not answer.

    \b
    Examples:
      segue pki status
      segue pki status --warn-days 60 --json
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import asyncio

    from segue.provision.pki.authority import Authority
    from segue.provision.pki.fleet import Fleet

    wanted = _hosts(hosts, may_be_none=True)
    where = directory()

    async def work(authority: Authority | None) -> tuple[list[Row], Mapping[str, SegueError]]:
        async with Fleet(wanted) as fleet:
            return await fleet.status(authority, warn_days=warn_days), fleet.silent

    if (where / "ca").is_dir():
        with Authority.opened(where) as authority:
            rows, silent = asyncio.run(work(authority))
    else:
        rows, silent = asyncio.run(work(None))
    if as_json:
        for row in rows:
            render.print_json(asdict(row))
    else:
        cells = [
            (
                row.host,
                row.what,
                row.subject or "?",
                _date(row.not_after_ms),
                "?" if row.days_left is None else str(row.days_left),
                row.validity,
            )
            for row in rows
        ]
        render.table(
            ("HOST", "WHAT", "SUBJECT", "UNTIL", "DAYS LEFT", "STATE"), cells, none="there is no CA, and no host in segue.toml"
        )
    _tell_silent(silent)
    raise typer.Exit(_worst(silent, wrong=any(not row.is_well for row in rows if row.host not in silent)))


@app.command("rotate")
def rotate(
    *,
    finish: Annotated[bool, typer.Option("--finish", help="End the overlap: hosts trust the new CA alone.")] = False,
    days: Days = 730,
    ca_days: CaDays = 3650,
    as_json: Json = False,
) -> None:
    """Go over to a new CA, host by host: all trust it beside the old, then show what it signed; later --finish drops the old.

    It needs every host of segue.toml. Interrupted, it goes on from what it finds when it is called again. No connection is
    closed. Hosts that have certificates of somebody else's CA go over to yours in the same way.

    \b
    Examples:
      segue pki rotate
      segue pki rotate --finish
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import asyncio

    from segue.provision.pki.authority import Authority
    from segue.provision.pki.fleet import Fleet

    wanted = _hosts(None)

    def say(host: str, turn: str, words: str) -> None:
        if as_json:
            render.print_json({"host": host, "turn": turn})
        else:
            typer.echo(f"{host}: {words}")

    async def pause(seconds: float) -> None:
        render.say(f"waiting for {seconds:g} s: migrations that are just being prepared go on with what they have read")
        await asyncio.sleep(seconds)

    async def work(authority: Authority) -> bool:
        async with Fleet(wanted) as fleet:
            fleet.require(wanted)
            under_way = finish or authority.is_rotating() or not authority.hosts()
            new = authority.newest() if under_way else authority.succeed(days=ca_days)
            return await fleet.rotate(authority, new, days=days, finish=finish, say=say, pause=pause)

    with Authority.opened(directory()) as authority:
        overlap = asyncio.run(work(authority))
        others = [host for host in authority.hosts() if host not in wanted]
    if others:
        render.say(f"not in segue.toml, and not gone over: {', '.join(others)}")
    render.say(
        "every host trusts the new CA beside what it trusted before; when all others trust it, too: segue pki rotate --finish"
        if overlap
        else "one CA is trusted on every host"
    )


@app.command("revoke")
def revoke(host: Annotated[str, typer.Argument(metavar="HOST")], *, as_json: Json = False) -> None:
    """Revoke everything that was issued to a host, and tell every host of segue.toml. May be repeated.

    Exit status: 6 where a host did not answer: it lets the revoked in until the same is said to it.

    \b
    Examples:
      segue pki revoke beta
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import asyncio

    from segue.provision.pki.authority import Authority
    from segue.provision.pki.fleet import Fleet

    name = _host(host, may_be_new=True)[0]
    wanted = _hosts(None, may_be_none=True)

    async def work(authority: Authority) -> tuple[Sequence[str], Mapping[str, SegueError]]:
        async with Fleet(wanted) as fleet:
            return await fleet.spread_revocations(authority), fleet.silent

    with Authority.opened(directory()) as authority:
        count = authority.revoke(name)
        told, silent = asyncio.run(work(authority))
    _tell(
        {"host": name, "certificates": count, "told": told, "silent": list(silent)},
        f"{name}: {count} certificates are revoked; that was told to: {', '.join(told) or 'no host'}. "
        f"'segue pki issue {name}', then 'install', gives it new ones.",
        as_json=as_json,
    )
    _tell_silent(silent)
    raise typer.Exit(_worst(silent, wrong=False))


# --- what they share


def _host(host: str, *, may_be_new: bool = False) -> tuple[str, tuple[HostAddress, ...]]:
    """A host's name and addresses; one that is not in segue.toml may have certificates, but cannot be reached."""
    from segue import config

    settings = config.load()
    if may_be_new and "://" not in host and host not in settings.hosts:
        return host, ()
    addresses = settings.addresses(host)
    if "://" not in host:
        return host, addresses
    name = urlsplit(host).hostname
    if not name:
        raise UsageError(f"{host!r} gives the host no name.", hint="Give it one in segue.toml.")
    return name, addresses


def _hosts(names: Iterable[str] | None, *, may_be_none: bool = False) -> dict[str, tuple[HostAddress, ...]]:
    from segue import config

    found = dict(map(_host, names)) if names else dict(config.load().hosts)
    if not found and not may_be_none:
        raise UsageError("No host is named, and there is none in segue.toml.", hint="See docs/guide/hosts.md.")
    return found


def _date(ms: int | None) -> str:
    return "?" if ms is None else written.clock(ms).split()[0]


def _tell(facts: Mapping[str, Any], words: str, *, as_json: bool) -> None:
    if as_json:
        render.print_json(facts)
    else:
        typer.echo(words)


def _tell_silent(silent: Mapping[str, SegueError]) -> None:
    for host, error in silent.items():
        render.say(f"{host}: {error}")


def _worst(silent: Mapping[str, SegueError], *, wrong: bool) -> int:
    return PkiError.exit_code if wrong else max((error.exit_code for error in silent.values()), default=0)
