"""The options of a migration that only libvirt knows: a table, and what makes parameters of the command line of it.

What may live here: the words. What they come to is `segue.core.wishes.LibvirtWishes`, one field an option.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from segue.core.wishes import LibvirtWishes
from segue.errors import UsageError
from segue.units import parse_bytes, parse_rate

TRANSPORT: Final = "Ways to go"
LIMITS: Final = "Limits and convergence"
CONFIGURATION: Final = "Configuration"
DISKS: Final = "Disks that are copied"
SAFETY: Final = "Safety (libvirt)"
COMPRESSION: Final = "Compression and throttling"
PANELS: Final = {
    **dict.fromkeys(("control", "transport", "connections", "migration_address", "migration_ports"), TRANSPORT),
    **dict.fromkeys(("max_downtime", "bandwidth", "within", "max_slowdown", "max_bytes", "on_miss"), LIMITS),
    **dict.fromkeys(("postcopy", "policy", "auto_converge"), LIMITS),
    **dict.fromkeys(("persist", "undefine_source", "overrides"), CONFIGURATION),
    **dict.fromkeys(("copy_storage", "disk_bandwidth", "synchronous_writes", "disks_port"), DISKS),
}
"""Headings for the options that every hypervisor knows. What has none comes first."""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{path!r} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}.") from None


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise UsageError(f"{text!r} is no list of names.", hint="Write them with commas between: vda,vdb.")
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """One of them.

    Attributes:
        field: of `LibvirtWishes`.
        name: the option.
        panel: below which heading the help shows it.
        help: what it does.
        metavar: what it takes; empty: nothing, it is a switch.
        parse: makes the field's value of what was typed.
        least, most: of a number.
    """

    field: str
    name: str
    panel: str
    help: str
    metavar: str = ""
    parse: Callable[[str], object] | None = None
    least: int | None = None
    most: int | None = None

    @property
    def parameter(self) -> inspect.Parameter:
        """The same as Typer takes it."""
        kind: type = bool if not self.metavar else int if self.least is not None else str
        default: bool | str | None = None if kind is int else kind()
        info = typer.Option(
            self.name, help=self.help, metavar=self.metavar or None, min=self.least, max=self.most, rich_help_panel=self.panel
        )
        annotation: Any = Annotated[kind | None if kind is int else kind, info]
        return inspect.Parameter(self.field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    def value(self, typed: object) -> object:
        """What was typed as the field has it."""
        return self.parse(typed) if self.parse and isinstance(typed, str) and typed else typed


OPTIONS: Final = (
    _Option(field="rename", name="--rename", metavar="NAME", panel=CONFIGURATION, help="Its name on the destination."),
    _Option(
        field="xml",
        name="--xml",
        metavar="FILE",
        parse=_text,
        panel=CONFIGURATION,
        help="The definition that it is to run with on the destination; what would change the machine it sees is refused.",
    ),
    _Option(
        field="persistent_xml",
        name="--persistent-xml",
        metavar="FILE",
        parse=_text,
        panel=CONFIGURATION,
        help="The definition that is kept there for its next start.",
    ),
    _Option(
        field="suspend", name="--suspend", panel=CONFIGURATION, help="It arrives standing still; 'virsh resume' lets it go on."
    ),
    _Option(
        field="offline",
        name="--offline",
        panel=CONFIGURATION,
        help="Move only the definition of a guest that does not run; its disks stay.",
    ),
    _Option(
        field="graphics_uri",
        name="--graphics-uri",
        metavar="URI",
        panel=CONFIGURATION,
        help="Where a SPICE client is sent on to: spice://HOST:PORT?tlsPort=…; default: the destination, as it listens there.",
    ),
    _Option(
        field="change_protection",
        name="--change-protection",
        panel=SAFETY,
        help="Nobody may change its definition while it moves.",
    ),
    _Option(
        field="abort_on_error", name="--abort-on-error", panel=SAFETY, help="An I/O error of its disks on the way turns it back."
    ),
    _Option(
        field="unsafe",
        name="--unsafe",
        panel=SAFETY,
        help="Let libvirt move a guest with a disk whose cache the destination may read too early. Last resort: cache='none'.",
    ),
    _Option(
        field="migration_uri",
        name="--migration-uri",
        metavar="URI",
        panel=TRANSPORT,
        help="Where memory is sent, in libvirt's words: tcp://HOST:PORT, rdma://HOST, unix:///PATH.",
    ),
    _Option(
        field="listen_address",
        name="--listen-address",
        metavar="ADDRESS",
        panel=TRANSPORT,
        help="The address on which the destination listens.",
    ),
    _Option(
        field="tls_destination",
        name="--tls-destination",
        metavar="NAME",
        panel=TRANSPORT,
        help="The name that the destination's certificate bears, where it is another than the one it is reached by.",
    ),
    _Option(
        field="zero_copy",
        name="--zero-copy",
        panel=TRANSPORT,
        help="Send memory without copying it into the kernel; with --connections, and locks all of it.",
    ),
    _Option(field="rdma_pin_all", name="--rdma-pin-all", panel=TRANSPORT, help="Lock all memory before it goes over RDMA."),
    _Option(field="compressed", name="--compressed", panel=COMPRESSION, help="Compress pages, as the hypervisor chooses."),
    _Option(
        field="compression",
        name="--compression",
        metavar="METHODS",
        parse=_names,
        panel=COMPRESSION,
        help="Compress by these: xbzrle, mt, or with --connections zlib or zstd.",
    ),
    _Option(
        field="xbzrle_cache_bytes",
        name="--xbzrle-cache",
        metavar="SIZE",
        parse=parse_bytes,
        panel=COMPRESSION,
        help="How much of what was sent xbzrle remembers (bare: MiB).",
    ),
    _Option(field="mt_level", name="--mt-level", metavar="0-9", least=0, most=9, panel=COMPRESSION, help="mt: how hard."),
    _Option(
        field="mt_threads",
        name="--mt-threads",
        metavar="N",
        least=1,
        most=255,
        panel=COMPRESSION,
        help="mt: threads on the source.",
    ),
    _Option(
        field="mt_dthreads",
        name="--mt-dthreads",
        metavar="N",
        least=1,
        most=255,
        panel=COMPRESSION,
        help="mt: threads on the destination.",
    ),
    _Option(field="zlib_level", name="--zlib-level", metavar="0-9", least=0, most=9, panel=COMPRESSION, help="zlib: how hard."),
    _Option(field="zstd_level", name="--zstd-level", metavar="0-20", least=0, most=20, panel=COMPRESSION, help="zstd: how hard."),
    _Option(
        field="throttle_initial_percent",
        name="--throttle-initial",
        metavar="PERCENT",
        least=1,
        most=99,
        panel=COMPRESSION,
        help="How much of its CPU time auto-converge takes at first; QEMU: 20.",
    ),
    _Option(
        field="throttle_increment_percent",
        name="--throttle-increment",
        metavar="PERCENT",
        least=1,
        most=99,
        panel=COMPRESSION,
        help="And how much more each time; QEMU: 10.",
    ),
    _Option(
        field="postcopy_bandwidth_bps",
        name="--postcopy-bandwidth",
        metavar="RATE",
        parse=parse_rate,
        panel=COMPRESSION,
        help="At most this much once post-copy runs (bare: MiB/s).",
    ),
    _Option(
        field="switchover_bandwidth_bps",
        name="--switchover-bandwidth",
        metavar="RATE",
        parse=parse_rate,
        panel=COMPRESSION,
        help="What the link is taken to carry when the switchover is weighed (bare: MiB/s).",
    ),
    _Option(
        field="copied_disks",
        name="--copy-disk",
        metavar="TARGETS",
        parse=_names,
        panel=DISKS,
        help="Copy these only: vda,vdb; default: those that are not shared.",
    ),
    _Option(field="disks_uri", name="--disks-uri", metavar="URI", panel=DISKS, help="Where they are sent, in libvirt's words."),
    _Option(
        field="detect_zeroes",
        name="--detect-zeroes",
        metavar="TARGETS",
        parse=_names,
        panel=DISKS,
        help="Do not write the zeroes of these on the destination.",
    ),
)


class GroupedHelp(TyperCommand):
    """A command with many options, whose help shows them below headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  # the types of Typer's own copy of click
        """Arguments first, then the options without a heading, then each heading with its own."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        sections |= {name: [] for name in (TRANSPORT, LIMITS, CONFIGURATION, DISKS, SAFETY, COMPRESSION)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            other = "Arguments" if parameter.param_type_name == "argument" else "Options"
            heading = getattr(parameter, "rich_help_panel", None) or PANELS.get(parameter.name or "", other)
            if record is not None:
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def read(typed: Mapping[str, object]) -> LibvirtWishes:
    """What was typed for each of these, by its field, as the library takes it.

    Raises:
        UsageError: a word makes no sense, or a file cannot be read.
    """
    fields = {option.field: option.value(typed[option.field]) for option in OPTIONS}
    asked: dict[str, Any] = {name: value for name, value in fields.items() if value not in ("", None)}
    return LibvirtWishes(**asked)
