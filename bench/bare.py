"""What Segue costs on top of the shortest QMP script that moves a bare QEMU.

    ./run bench bare [--pairs 10] [--memory 512] [--link 300mbit]

The script is what one would write by hand, with both monitors within reach: it starts the destination with the guest's own
words plus ``-incoming tcp:…``, which lets it run by itself as soon as it can, sends ``migrate``, asks until that is
completed, and quits the source. It checks nothing, proves nothing and recovers from nothing. `segue migrate` goes by ssh, as
an admin does, to hosts that have no libvirt in segue.toml. Whole processes by the wall clock, alternating, the guest going
back and forth; standstill as a client on the network saw it. Prints medians, the spread, and the median of the ratios pair by
pair.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tomlkit

from segue import units
from segue.lab import Lab, down, guests, up
from segue.lab.layout import GUEST_RUN, address
from segue.lab.observe import observe

GUEST = "bare"
SEGUE = str(Path(sys.executable).with_name("segue"))
# argv: both monitors, the address to send to, then the destination's command.
SCRIPT = r"""
import json, os, socket, subprocess, sys, time

class Monitor:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        while self.sock.connect_ex(path):
            time.sleep(0.005)
        self.lines = self.sock.makefile()
        self.lines.readline()
        self.do("qmp_capabilities")

    def do(self, command, **arguments):
        self.sock.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                sys.exit(str(answer))
            if "return" in answer:
                return answer["return"]

source, destination, address, *command = sys.argv[1:]
if os.path.exists(destination):
    os.unlink(destination)
subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
Monitor(destination)
here = Monitor(source)
here.do("migrate", uri=address)
while here.do("query-migrate")["status"] != "completed":
    time.sleep(0.005)
here.do("quit")
"""
PORT = 4444


def words_of(lab: Lab) -> tuple[str, list[str]]:
    """Where the guest runs, and what it was started with, without what only a destination needs."""
    until = time.monotonic() + 10
    while (
        len(found := guests.where(lab, GUEST)) > 1 and time.monotonic() < until
    ):  # the script does not wait for the source's end
        time.sleep(0.01)
    [(host, pid)] = found
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    if "-incoming" in words:
        del words[(at := words.index("-incoming")) : at + 2]
    return host, [word for word in words if word != "-S"]


def by_script(lab: Lab, source: str, destination: str, words: list[str]) -> list[str]:
    """The shortest script, ready to run on this machine."""
    monitors = [str(lab.host_path(host, f"{GUEST_RUN}/{GUEST}.qmp")) for host in (source, destination)]
    there = lab.enter_argv(destination, [*words, "-incoming", f"tcp:0:{PORT}"])
    return [sys.executable, "-S", "-c", SCRIPT, *monitors, f"tcp:{address(destination)}:{PORT}", *there]


def by_segue(lab: Lab, source: str, destination: str, words: list[str]) -> list[str]:  # noqa: ARG001  # it finds them itself
    """Segue, with both hosts named."""
    return lab.enter_argv("admin", ["env", f"SEGUE_CONFIG={bare(lab)}", SEGUE, "migrate", GUEST, destination, "--from", source])


def bare(lab: Lab) -> Path:
    """The lab's segue.toml as it is where no libvirt manages guests: each host by its monitors alone. Made once."""
    path = lab.layout.root / "bare.toml"
    if not path.exists():
        fleet = tomlkit.parse(lab.layout.config.read_text(encoding="utf-8"))
        for host in fleet["hosts"].values():
            host["uris"] = [uri for uri in host["uris"] if uri.startswith("qmp")]
        path.write_text(tomlkit.dumps(fleet), encoding="utf-8")
    return path


CONTENDERS = {"shortest script": by_script, "segue migrate": by_segue}


async def timed(argv: Sequence[str]) -> float:
    """Seconds of one whole process; a failure ends the bench."""
    began = time.perf_counter()
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=pipe, stdin=asyncio.subprocess.DEVNULL)
    _, stderr = await asyncio.wait_for(process.communicate(), timeout=300)
    took = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{argv[0]} failed: {stderr.decode()}")
    return took


async def rounds(lab: Lab, count: int) -> dict[str, list[tuple[float, int]]]:
    """Seconds and milliseconds of standstill of each contender, one a round; who goes first alternates."""
    took: dict[str, list[tuple[float, int]]] = {name: [] for name in CONTENDERS}
    for number in range(count + 1):
        for name in sorted(CONTENDERS, reverse=bool(number % 2)):
            source, words = words_of(lab)
            destination = "beta" if source == "alpha" else "alpha"
            argv = CONTENDERS[name](lab, source, destination, words)
            async with observe(lab, GUEST) as watch:
                seconds = await timed(argv)
                report = await watch.report()
            if not report.clean:
                raise SystemExit(f"{name} harmed the guest: {report}")
            if number:  # the first round warms caches up and is not counted
                took[name].append((seconds, report.client_gap_ms))
        print(f"round {number} of {count}", file=sys.stderr)
    return took


async def measure(count: int, memory_bytes: int, link: str) -> dict[str, list[tuple[float, int]]]:
    """Everything, in a lab of its own."""
    lab = await up(name="bench", hosts=2, rate_bps=units.parse_rate(link))
    try:
        spec = guests.GuestSpec(
            name=GUEST,
            host="alpha",
            kind="qemu",
            memory_bytes=guests.memory_for(memory_bytes) + 32 * units.MIB,
            touch_bytes=memory_bytes,
        )
        await guests.start(lab, spec)
        return await rounds(lab, count)
    finally:
        await down("bench")


def show(took: dict[str, list[tuple[float, int]]], what: str) -> None:
    """The table, with the machine named."""
    print(f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}; {what}")
    print(f"{'':18}{'median s':>10}{'min':>8}{'max':>8}{'ratio':>8}{'standstill ms':>15}{'min':>6}{'max':>6}{'n':>4}")
    base = took["shortest script"]
    for name, values in took.items():
        seconds, gaps = [one for one, _ in values], [gap for _, gap in values]
        ratio = statistics.median(one / other for (one, _), (other, _) in zip(values, base, strict=True))
        print(
            f"{name:18}{statistics.median(seconds):10.3f}{min(seconds):8.3f}{max(seconds):8.3f}{ratio:8.3f}"
            f"{statistics.median(gaps):15.0f}{min(gaps):6}{max(gaps):6}{len(values):4}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10, help="rounds that count (default 10)")
    parser.add_argument("--memory", type=int, default=512, help="MiB that the guest has touched (default 512)")
    parser.add_argument("--link", default="300mbit", help="between the hosts (default 300mbit)")
    parser.add_argument("--json", action="store_true", help="the raw figures as one JSON object")
    words = parser.parse_args()
    took = asyncio.run(measure(words.pairs, words.memory * units.MIB, words.link))
    print(json.dumps(took)) if words.json else show(took, f"{words.memory} MiB touched, {words.link}")


if __name__ == "__main__":
    main()
