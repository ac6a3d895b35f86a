"""The definitions that a migrate call takes along, and what about them stands in the way.

What may live here: functions of one domain, for the threads of `runtime`.
"""

from __future__ import annotations

import libvirt

from segue.core import domxml
from segue.core.model import MigrationSpec
from segue.errors import Unsupported


def own(domain: libvirt.virDomain, *, kept: bool = False) -> str:
    """The domain's definition: that with which it runs, or that with which it starts next."""
    flags = libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_MIGRATABLE
    return domain.XMLDesc(flags | libvirt.VIR_DOMAIN_XML_INACTIVE if kept else flags)  # type: ignore[no-any-return]  # no types


def wanted(domain: libvirt.virDomain, spec: MigrationSpec) -> tuple[str, str]:
    """The definition for the destination, and the one that is kept there; empty where it is the guest's own."""
    defined, asked = bool(domain.isPersistent()), spec.libvirt
    live, kept = own(domain), own(domain, kept=True) if defined else ""
    if spec.overrides:
        return domxml.changed(live, spec.overrides), domxml.changed(kept, spec.overrides) if defined else ""
    return (
        domxml.carrying(asked.xml, live) if asked.xml else "",
        domxml.carrying(asked.persistent_xml, kept or live) if asked.persistent_xml else "",
    )


def refuse(domain: libvirt.virDomain, spec: MigrationSpec) -> None:
    """Refuse what would change the machine that the guest sees, and what would stay behind.

    Raises:
        Unsupported: every such thing, in words.
    """
    where = f"it is on {spec.source}; nothing was touched"
    live = own(domain)
    given, kept = wanted(domain, spec)
    against = domxml.differences(live, given, arrives_as=spec.arrives_as) if given else ()
    if against and domain.isActive():
        raise Unsupported(
            f"What {spec.guest} is to have on {spec.destination} would change its machine while it runs: {'; '.join(against)}.",
            guest_at=where,
            hint=f"Begin with 'virsh dumpxml --migratable {spec.guest}' and change only what the host sees; "
            "the rest belongs into --persistent-xml, for its next start.",
        )
    if kept and domxml.identity(kept) != domxml.identity(live):
        raise Unsupported(
            f"What was given with --persistent-xml is the definition of another guest: its UUID is {domxml.identity(kept)}.",
            guest_at=where,
            hint=f"{spec.guest} has {domxml.identity(live)}.",
        )
    if spec.disks is not None and domain.snapshotNum():
        raise Unsupported(
            f"{spec.guest} has snapshots; what they hold does not come along when its disks are copied.",
            guest_at=where,
            hint="Put its disks on storage that both hosts see, or delete the snapshots.",
        )
    if spec.libvirt.offline and (file := domxml.nvram(live)):
        raise Unsupported(
            f"The UEFI variables of {spec.guest} are in {file}, which does not move with its definition.",
            guest_at=where,
            hint="Move it while it runs; then they are sent with its memory.",
        )
