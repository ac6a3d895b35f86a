"""The definitions that a migrate call takes along, and what about them stands in the way.

What may live here: functions of one domain, for the threads of `runtime`.
"""

from __future__ import annotations

import libvirt

from segue.core import domxml
from segue.core.model import MigrationSpec
from segue.core.preflight.facts import Objection
from segue.core.preflight.findings import Seen
from segue.errors import RefusedError


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


def objections(domain: libvirt.virDomain, spec: MigrationSpec) -> tuple[Objection, ...]:
    """What would change the machine that the guest sees, what is no definition of it, and what would stay behind."""
    live = own(domain)

    def against(sentence: str, seen: str, fix: str) -> Objection:
        return Objection(sentence=sentence, seen=Seen(host=spec.source, what=seen), fix=fix)

    found = []
    try:
        given, kept = wanted(domain, spec)
        changes = domxml.differences(live, given, arrives_as=spec.arrives_as) if given else ()
        other = domxml.identity(kept) if kept else domxml.identity(live)
    except RefusedError as error:
        return (against(error.message, f"what {spec.guest} is defined as", error.hint),)
    if changes and domain.isActive():
        found.append(
            against(
                f"What {spec.guest} is to have on {spec.destination} would change its machine while it runs: "
                f"{'; '.join(changes)}.",
                f"{spec.guest} runs",
                f"Begin with 'virsh dumpxml --migratable {spec.guest}' and change only what the host sees; "
                "the rest belongs into --persistent-xml, for its next start.",
            )
        )
    if other != domxml.identity(live):
        found.append(
            against(
                f"What was given with --persistent-xml is the definition of another guest: its UUID is {other}.",
                f"{spec.guest} has the UUID {domxml.identity(live)}",
                f"Give it the definition that 'virsh dumpxml --inactive {spec.guest}' begins with.",
            )
        )
    if spec.disks is not None and (count := domain.snapshotNum()):
        found.append(
            against(
                f"{spec.guest} has snapshots; what they hold does not come along when its disks are copied.",
                f"{count} snapshots",
                "Put its disks on storage that both hosts see, or delete the snapshots.",
            )
        )
    if spec.libvirt.offline and (file := domxml.nvram(live)):
        found.append(
            against(
                f"The UEFI variables of {spec.guest} are in {file}, which does not move with its definition.",
                f"nvram {file}",
                "Move it while it runs; then they are sent with its memory.",
            )
        )
    return tuple(found)
