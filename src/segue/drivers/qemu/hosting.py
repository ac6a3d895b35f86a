"""What a bare QEMU is made of, and what another host's QEMU could give to it. What may live here: questions, no action.

The destination is asked by a QEMU without a machine, which lives for a moment and answers what any QEMU of that host could.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Final

from segue import units
from segue.core.preflight import bare
from segue.core.preflight.facts import HostMemory, Offer, Parts, Unseen
from segue.drivers.qemu.processes import Process
from segue.drivers.qemu.session import Session
from segue.errors import AnswerNotSeen, HypervisorError
from segue.hosts import HostShell
from segue.hosts.questions import Answer, Question, ask_all

OFFER_DEADLINE_S: Final = 8.0

_MAX: Final = {"type": "full", "model": {"name": "max"}}
_NOW: Final[Mapping[str, tuple[str, Mapping[str, object] | None]]] = {
    "query-version": ("query-version", None),
    "query-kvm": ("query-kvm", None),
    "query-migrate": ("query-migrate", None),
    "capabilities": ("query-migrate-capabilities", None),
    "query-block": ("query-block", None),
    "query-cpus-fast": ("query-cpus-fast", None),
    "query-hotpluggable-cpus": ("query-hotpluggable-cpus", None),
    "query-memory-size-summary": ("query-memory-size-summary", None),
    "peripheral": ("qom-list", {"path": "/machine/peripheral"}),
    "peripheral-anon": ("qom-list", {"path": "/machine/peripheral-anon"}),
    "machine-type": ("qom-get", {"path": "/machine", "property": "type"}),
    "supported": ("query-cpu-model-expansion", _MAX),
}
# $1 QEMU, $2 accelerator, then QMP commands: one line of answer each. It ends by itself after the last, which is "quit".
_QEMU: Final = r"""
qemu=$1 accelerator=$2; shift 2
printf '%s\n' "$@" | "$qemu" -S -nodefaults -no-user-config -display none -machine "none,accel=$accelerator" -qmp stdio
"""
_ASKED: Final = (
    {"execute": "qmp_capabilities", "id": "ready"},
    {"execute": "query-version", "id": "version"},
    {"execute": "query-machines", "id": "machines"},
    {"execute": "query-cpu-model-expansion", "arguments": _MAX, "id": "cpu"},
    {"execute": "qom-list-types", "arguments": {"implements": "device", "abstract": False}, "id": "types"},
    {"execute": "query-migrate-capabilities", "id": "capabilities"},
    {"execute": "quit", "id": "quit"},
)
_HUGE: Final = r"""
for size in /sys/kernel/mm/hugepages/hugepages-*; do
    read -r free <"$size/free_hugepages" && echo "${size##*hugepages-} $free"
done
exit 0
"""
_NODES: Final = r"""
for node in /sys/devices/system/node/node[0-9]*; do
    while read -r _ _ key free _; do [ "$key" != MemFree: ] || echo "${node##*node} $free"; done <"$node/meminfo"
done
exit 0
"""
# $1 the user that QEMU would run as, where that is another than whoever asks: how much memory it may lock, in KiB. Who has
# CAP_IPC_LOCK, the 14th of capabilities(7), may lock any amount; who becomes another user has it no more, and keeps the limit.
_LOCKABLE: Final = r"""
capable=0
while read -r key value; do [ "$key" != CapEff: ] || capable=$(((0x$value >> 14) & 1)); done </proc/self/status
if [ -z "$1" ] && [ "$capable" = 1 ]; then echo unlimited; else ulimit -l; fi
"""
# $1 a QEMU's pid: the bytes that it may use more than it does, by its host's memory and by each cgroup that it is in, be they of
# version 2 or 1 (cgroups(7)). A cgroup that cannot be seen from there sets no limit.
_SPARE: Final = r"""
while read -r key kib _; do [ "$key" != MemAvailable: ] || spare=$((kib * 1024)); done </proc/meminfo
while IFS=: read -r _ kinds path; do
    case ",$kinds," in
        ,,) root=/sys/fs/cgroup limit=memory.max usage=memory.current ;;
        *,memory,*) root=/sys/fs/cgroup/memory limit=memory.limit_in_bytes usage=memory.usage_in_bytes ;;
        *) continue ;;
    esac
    while [ -n "${path%/}" ]; do
        group=$root$path path=${path%/*}
        [ -r "$group/$limit" ] || continue
        read -r most <"$group/$limit"
        read -r used <"$group/$usage"
        [ "$most" = max ] || [ $((most - used)) -ge "$spare" ] || spare=$((most - used))
    done
done <"/proc/$1/cgroup"
echo "$spare"
"""
_ACCELERATORS: Final = "[ -w /dev/kvm ] && echo kvm; echo tcg"


async def parts(session: Session, process: Process) -> Parts:
    """What a running QEMU is made of.

    Raises:
        HypervisorError: it does not answer, or makes no sense.
    """
    answers = await _ask(session, _NOW)
    slots = answers.get("query-hotpluggable-cpus")
    kinds = [str(slot.get("type", "")) for slot in slots if isinstance(slot, dict)] if isinstance(slots, list) else []
    if kinds:
        model = bare.cpu_query(process.line, kinds[0])
        answers |= await _ask(session, {"expanded": ("query-cpu-model-expansion", {"type": "full", "model": model})})
    try:
        return bare.read(process.line, answers, user=process.user, directory=process.cwd)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise HypervisorError(
            f"QEMU on {session.host} describes its guest in words that make no sense.",
            host=session.host,
            raw=type(error).__name__,
        ) from error


async def spare_bytes(shell: HostShell, process: Process) -> int:
    """What a QEMU may use of its host's memory more than it does; 0 where that cannot be seen.

    Raises:
        HostUnreachable, AnswerNotSeen: the host does not answer.
    """
    done = await shell.run(["sh", "-c", _SPARE, "sh", str(process.pid)], deadline_s=OFFER_DEADLINE_S)
    said = done.stdout.decode(errors="replace").strip()
    return int(said) if said.isdigit() else 0


async def _ask(session: Session, questions: Mapping[str, tuple[str, Mapping[str, object] | None]]) -> dict[str, object]:
    """Ask all at once; what this QEMU cannot answer is not among the answers."""

    async def one(command: str, arguments: Mapping[str, object] | None) -> object:
        try:
            return await session.execute(command, arguments)
        except AnswerNotSeen:
            raise
        except HypervisorError:
            return None

    answers = await asyncio.gather(*(one(*question) for question in questions.values()))
    return {name: answer for name, answer in zip(questions, answers, strict=True) if answer is not None}


async def offer(shell: HostShell, wanted: Parts) -> Offer:
    """What a QEMU of this host could give to that guest.

    Raises:
        HypervisorError: what came is no answer.
        HostUnreachable, AnswerNotSeen: the host does not answer.
    """
    words = (wanted.emulator, wanted.accelerator, *(json.dumps(one) for one in _ASKED))
    of_qemu = [Question(name="qemu", script=_QEMU, words=words)]
    others = [
        Question(name="accelerators", script=_ACCELERATORS),
        Question(name="memory", script="cat /proc/meminfo"),
        Question(name="huge", script=_HUGE),
        Question(name="nodes", script=_NODES),
        Question(name="cpus", script="nproc"),
        Question(name="lockable", script=_LOCKABLE, words=(wanted.user,)),
    ]
    both = await asyncio.gather(*(ask_all(shell, some, deadline_s=OFFER_DEADLINE_S) for some in (of_qemu, others)))
    answers = {**both[0], **both[1]}
    said = _said(answers["qemu"])
    if "version" not in said:
        last = answers["qemu"].text.splitlines()[-1:] or ["it said nothing"]
        trouble = f"{wanted.emulator}: {last[0]}"
        return Offer(
            qemu=(), machines=frozenset(), accelerators=frozenset(), memory=_memory(shell.name, answers), trouble=trouble
        )
    missing = bare.lacking(wanted.cpu.features, said.get("cpu"))
    machines = said.get("machines")
    return Offer(
        qemu=bare.version(said["version"]),
        machines=frozenset(_names(machines)),
        accelerators=frozenset(answers["accelerators"].text.split()),
        lacking=missing if "cpu" in said and wanted.cpu.features else None,
        baseline=f"-cpu {','.join([wanted.cpu.model, *(f'-{name}' for name in missing)])}" if missing else "",
        types=bare.types_of(said.get("types")),
        capabilities=bare.capabilities_of(said.get("capabilities")),
        memory=_memory(shell.name, answers),
        cpus=int(answers["cpus"].text) if answers["cpus"].text.isdigit() else 0,
    )


def _said(answer: Answer) -> dict[str, object]:
    """QMP's answers by the id of what was asked."""
    found: dict[str, object] = {}
    for line in answer.text.splitlines():
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if isinstance(one, dict) and "return" in one and isinstance(one.get("id"), str):
            found[one["id"]] = one["return"]
    return found


def _names(machines: object) -> list[str]:
    known = [one for one in machines if isinstance(one, dict)] if isinstance(machines, list) else []
    return [str(one[key]) for one in known for key in ("name", "alias") if key in one]


def _memory(host: str, answers: Mapping[str, Answer]) -> HostMemory | Unseen:
    kib = {
        key: int(rest.split()[0])
        for key, _, rest in (line.partition(":") for line in answers["memory"].text.splitlines())
        if rest.split()
    }
    if "MemAvailable" not in kib:
        return Unseen(host=host, why="/proc/meminfo cannot be read")
    rows = [line.split() for line in answers["huge"].text.splitlines()]
    nodes = [line.split() for line in answers["nodes"].text.splitlines()]
    return HostMemory(
        available_bytes=kib["MemAvailable"] * units.KIB,
        swap_bytes=kib.get("SwapFree", 0) * units.KIB,
        pages={int(row[0].removesuffix("kB")) * units.KIB: int(row[1]) for row in rows if len(row) == 2},
        nodes={int(row[0]): int(row[1]) * units.KIB for row in nodes if len(row) == 2},
        lock_bytes=int(lockable) * units.KIB if (lockable := answers["lockable"].text.strip()).isdigit() else None,
    )
