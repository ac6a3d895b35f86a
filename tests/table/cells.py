"""The cells: every way to move a libvirt guest, and as many ways that there are none of."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final

SCHEMES: Final = {
    "tcp": ("qemu+tcp://{here}/system", "qemu+tcp://{there}/system"),
    "tls": ("qemu+tls://{here}/system", "qemu+tls://{there}/system"),
    "ssh": ("qemu+ssh://root@{here}/system", "qemu+ssh://root@{there}/system"),
    "local": ("qemu:///system", "qemu+tcp://{there}/system"),
    "unix": ("qemu+unix:///system?socket=/run/libvirt/libvirt-sock", "qemu+tcp://{there}/system"),
}
"""Where the source is, and where the destination, for a Segue that runs on the source."""
KINDS: Final = {True: "kept", False: "brief"}
"""The names of the two guests: a persistent and a transient one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One way.

    Attributes:
        said: of one that is refused, a part of the sentence; empty of one that moves.
        more: what is asked for besides.
    """

    control: str
    transport: str
    scheme: str
    persistent: bool
    said: str = ""
    more: tuple[str, ...] = ()
    destination: str = ""

    def words(self, here: str, there: str) -> list[str]:
        """What is typed after ``segue migrate``."""
        source, destination = (uri.format(here=here, there=there) for uri in SCHEMES[self.scheme])
        how = ["--control", self.control, "--transport", self.transport, *self.more]
        return [KINDS[self.persistent], self.destination or destination, "--from", source, *how]

    def __str__(self) -> str:
        kind = "persistent" if self.persistent else "transient"
        extra = [*self.more, *([f"to {self.destination}"] if self.destination else [])]
        return " ".join((self.control, self.transport, self.scheme, kind, *extra))


def ways() -> list[Cell]:
    """Each that works: the tunnel is peer-to-peer's alone."""
    pairs = [("direct", "native"), ("direct", "tls"), ("p2p", "native"), ("p2p", "tls"), ("p2p", "tunnelled")]
    return [
        Cell(control=control, transport=transport, scheme=scheme, persistent=persistent)
        for (control, transport), scheme, persistent in product(pairs, SCHEMES, KINDS)
    ]


def refusals() -> list[Cell]:
    """As many that do not."""
    tunnel = ("p2p", "tunnelled")
    why: list[tuple[str, str, str, tuple[str, ...], str]] = [
        *(("direct", "tunnelled", scheme, (), "tunnels memory through its daemons only") for scheme in SCHEMES),
        *(
            (control, "tls-psk", scheme, (), "knows TLS with certificates only")
            for control in ("direct", "p2p")
            for scheme in SCHEMES
        ),
        *(("unmanaged", "native", scheme, (), "no unmanaged migration") for scheme in SCHEMES),
        *((*tunnel, "tcp", more, said) for more, said in _BESIDE_THE_TUNNEL),
        ("p2p", "native", "local", ("--migration-ports", "50000-50001"), "not a range"),
    ]
    cells = [
        Cell(control=control, transport=transport, scheme=scheme, persistent=persistent, said=said, more=more)
        for (control, transport, scheme, more, said), persistent in product(why, KINDS)
    ]
    return [
        Cell(control="p2p", transport="native", scheme="tcp", persistent=kind, said="needs an address that", destination=uri)
        for uri, kind in product(("qemu:///system",), KINDS)
    ] + cells


_BESIDE_THE_TUNNEL: Final = (
    (("--connections", "2"), "one connection"),
    (("--postcopy",), "post-copy through its tunnel"),
    (("--migration-ports", "50000"), "listens on no port"),
)
