"""segue.toml: names for hosts, and what only the operator knows about them.

    [hosts.alpha]
    uris = ["qemu+tcp://alpha/system", "qmp+ssh://root@alpha/"]   # one for each kind of guest that the host runs
    migration_address = "10.0.7.11"                               # optional: where migration data goes
    migration_ports = "49152-49215"                               # optional: and to which ports
    ssh_identity = "/etc/segue/id_ed25519"                        # optional
    ssh_known_hosts = "/etc/segue/known_hosts"                    # optional
    link_speed = "10gbit"                                         # optional: of the network that migrations take

    [policies.patient]                                            # a ladder of one's own: docs/guide/convergence.md
    rungs = [{ stalled = 3, do = "allow-downtime", downtime = "500ms" }]

Looked for in ``$SEGUE_CONFIG``, ``~/.config/segue/segue.toml``, ``/etc/segue/segue.toml``; the first that exists is used
alone. What may live here: reading that file into frozen settings, and turning a name or a URI into addresses. msgspec
judges what kinds of values it has.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from segue.core.model import DriverKind, HostAddress
from segue.core.policy import OWN, Decision, Policy, Rung
from segue.errors import ConfigError, UsageError
from segue.units import MAX_DOWNTIME_MS, parse_downtime_ms, parse_duration_ms, parse_percent, parse_ports, parse_rate

T = TypeVar("T")

_QMP_SCHEMES: Final = frozenset({"qmp", "qmp+ssh"})
_QEMU_TRANSPORTS: Final = frozenset({"ssh", "tcp", "tls", "unix", "libssh", "libssh2", "ext"})  # libvirt, docs/uri.rst


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of one segue.toml.

    Attributes:
        path: the file it came from, ``None`` when there is none.
        hosts: the addresses of each named host, in the order of the file.
        policies: ladders that are declared there, by name.
    """

    path: Path | None
    hosts: Mapping[str, tuple[HostAddress, ...]]
    policies: Mapping[str, Policy] = field(default_factory=dict)

    def policy(self, name: str) -> Policy | None:
        """The ladder of that name; ``None`` for Segue's own, which is made anew for each migration.

        Raises:
            UsageError: there is none of that name.
        """
        if name in ("", OWN):
            return None
        if name not in self.policies:
            known = ", ".join((OWN, *self.policies))
            raise UsageError(
                f"There is no policy {name!r} in {self.path or 'segue.toml (no such file was found)'}.",
                hint=f"Known policies: {known}. Declare it there, under [policies.{name}].",
            )
        return self.policies[name]

    def all_addresses(self) -> tuple[HostAddress, ...]:
        """Every address of every named host."""
        return tuple(address for addresses in self.hosts.values() for address in addresses)

    def addresses(self, host: str) -> tuple[HostAddress, ...]:
        """The addresses of a host given by its name in the file or by a connection URI.

        Raises:
            UsageError: neither a known name nor a URI that Segue can use.
        """
        if host in self.hosts:
            return self.hosts[host]
        if "://" not in host:
            known = ", ".join(self.hosts) or "none"
            raise UsageError(
                f"There is no host {host!r} in {self.path or 'segue.toml (no such file was found)'}.",
                hint=f"Known hosts: {known}. Add it to the file, or give a connection URI such as qemu+ssh://{host}/system.",
            )
        return (address_of(host),)


def driver_of(uri: str) -> DriverKind:
    """Which driver speaks that URI.

    Raises:
        UsageError: none does; the hint lists what can be used.
    """
    scheme = urlsplit(uri).scheme
    if scheme in _QMP_SCHEMES:
        return DriverKind.QEMU
    base, _, transport = scheme.partition("+")
    if base == "qemu" and (not transport or transport in _QEMU_TRANSPORTS):
        return DriverKind.LIBVIRT
    raise UsageError(
        f"{uri!r} is not a connection URI that Segue can use.",
        hint="libvirt: qemu:///system, qemu+ssh://HOST/system, qemu+tcp://…, qemu+tls://…; bare QEMU: qmp:///, qmp+ssh://HOST/.",
    )


def address_of(uri: str) -> HostAddress:
    """A host known by nothing but its URI; the URI is its name."""
    return HostAddress(name=uri, uri=uri, driver=driver_of(uri))


def find() -> Path | None:
    """The segue.toml to use, or ``None``. ``$SEGUE_CONFIG`` wins even when the file is missing: that is then an error."""
    if named := os.environ.get("SEGUE_CONFIG"):
        return Path(named)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return next((path for path in (home / "segue/segue.toml", Path("/etc/segue/segue.toml")) if path.is_file()), None)


def load(path: Path | None = None) -> Settings:
    """Read the settings from the file given, or from the first one found; no file at all is an empty fleet.

    Raises:
        ConfigError: the file is missing, unreadable, not TOML, or says something that Segue does not understand.
    """
    path = path or find()
    if path is None:
        return Settings(path=None, hosts={})
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.", hint="Name another file with SEGUE_CONFIG.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    return _settings(path, raw)


class _HostTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uris: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    migration_address: str = ""
    migration_ports: str = ""
    ssh_identity: str = ""
    ssh_known_hosts: str = ""
    link_speed: str = ""


class _RungTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    do: Decision
    after: str = ""
    after_per_gib: str = ""
    iteration: Annotated[int, msgspec.Meta(ge=1)] | None = None
    stalled: Annotated[int, msgspec.Meta(ge=1)] | None = None
    unchanged: str = ""
    downtime: str = ""
    times: Annotated[float, msgspec.Meta(gt=1)] | None = None
    at_most: str = ""
    throttle: str = ""
    again: bool = False


class _PolicyTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    why: str = ""
    start_downtime: str = ""
    auto_converge: bool | None = None
    throttle_initial: str = ""
    throttle_increment: str = ""
    bandwidth: str = ""
    least_gib: Annotated[int, msgspec.Meta(ge=0)] = 0
    rungs: tuple[_RungTable, ...] = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hosts: dict[str, object] = {}
    policies: dict[str, object] = {}


def _settings(path: Path, raw: object) -> Settings:
    file = _judged(path, "", raw, _File)
    hosts = {name: _judged(path, f"hosts.{name}", table, _HostTable) for name, table in file.hosts.items()}
    policies = {
        name: _judged(path, f"policies.{name}", table, _PolicyTable, guide="convergence") for name, table in file.policies.items()
    }
    return Settings(
        path=path,
        hosts={name: tuple(_one_of_each(path, name, table)) for name, table in hosts.items()},
        policies={name: _policy(path, name, table) for name, table in policies.items()},
    )


def _judged(path: Path, where: str, raw: object, kind: type[T], *, guide: str = "hosts") -> T:
    """A table as the kind that it must be; each is judged by itself, as msgspec does not say in which of several a mistake is."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        why, _, inner = str(error).partition(" - at `$")
        place = (where + inner.rstrip("`")).removeprefix(".")
        said = f"{path}: {place}: {why}." if place else f"{path}: {why}."
        raise ConfigError(said, hint=f"See docs/guide/{guide}.md for what may stand there.") from None


def _policy(path: Path, name: str, table: _PolicyTable) -> Policy:
    """A ladder as it is declared, judged."""
    where = f"{path}: policies.{name}"
    if name == OWN:
        raise ConfigError(f"{where}: that is the name of Segue's own.", hint="Choose another.")
    try:
        rungs = []
        for number, rung in enumerate(table.rungs, start=1):
            where = f"{path}: policies.{name}.rungs, the {number}."
            rungs.append(_rung(rung))
        where = f"{path}: policies.{name}"
        return Policy(
            name=name,
            rungs=tuple(rungs),
            why=table.why,
            start_downtime_ms=_read(parse_downtime_ms, table.start_downtime),
            auto_converge=table.auto_converge,
            throttle_initial=_read(parse_percent, table.throttle_initial),
            throttle_increment=_read(parse_percent, table.throttle_increment),
            bandwidth_bps=_read(parse_rate, table.bandwidth),
            least_gib=table.least_gib,
        )
    except UsageError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from None
    except ValueError as error:
        raise ConfigError(f"{where}: {error}.", hint="See docs/guide/convergence.md for what may stand there.") from None


def _rung(table: _RungTable) -> Rung:
    return Rung(
        do=table.do,
        after_ms=_read(_seconds, table.after),
        after_ms_per_gib=_read(_seconds, table.after_per_gib),
        iteration=table.iteration,
        stalled=table.stalled,
        unchanged_ms=_read(_seconds, table.unchanged),
        downtime_ms=_read(parse_downtime_ms, table.downtime),
        times=table.times,
        at_most_ms=_read(parse_downtime_ms, table.at_most) or MAX_DOWNTIME_MS,
        throttle_percent=_read(parse_percent, table.throttle),
        again=table.again,
    )


def _seconds(text: str) -> int:
    return parse_duration_ms(text, bare="s")


def _read(parse: Callable[[str], int], text: str) -> int | None:
    return parse(text) if text else None


def _one_of_each(path: Path, name: str, table: _HostTable) -> Iterable[HostAddress]:
    seen: set[DriverKind] = set()
    try:
        ports = parse_ports(table.migration_ports) if table.migration_ports else None
        link_bps = _read(parse_rate, table.link_speed)
    except UsageError as error:
        raise ConfigError(f"{path}: hosts.{name}: {error.message}", hint=error.hint) from None
    for uri in table.uris:
        try:
            driver = driver_of(uri)
        except UsageError as error:
            raise ConfigError(f"{path}: hosts.{name}: {error.message}", hint=error.hint) from None
        if driver in seen:
            raise ConfigError(f"{path}: hosts.{name} has two addresses for {driver} guests.", hint="Keep one of each kind.")
        seen.add(driver)
        yield HostAddress(
            name=name,
            uri=uri,
            driver=driver,
            migration_address=table.migration_address,
            migration_ports=ports,
            link_bps=link_bps,
            ssh_identity=table.ssh_identity,
            ssh_known_hosts=table.ssh_known_hosts,
        )
