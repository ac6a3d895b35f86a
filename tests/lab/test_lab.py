"""The lab itself: up and down in every state, links that are slow or cut, and nothing left behind by any of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segue import units
from segue.errors import LabError
from segue.lab import Lab, down, hosts, up
from segue.lab.layout import Layout
from tests.lab.conftest import SEGUE

pytestmark = pytest.mark.lab

OTHER = "labtest"


def left_of(name: str) -> list[str]:
    """Everything of a lab that is still on this machine."""
    layout = Layout(name=name)
    namespaces = hosts.namespaces(layout)
    processes = [str(pid) for pid in hosts.members(namespaces)]
    mounts = [line for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines() if f"segue-lab/{name}" in line]
    files = [str(path) for path in (layout.root, layout.lock) if path.exists()]
    return [*map(str, namespaces), *processes, *mounts, *files]


def segue(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SEGUE_LAB": OTHER}
    return subprocess.run([SEGUE, *words], capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.fixture
def clean() -> None:
    asyncio.run(down(OTHER))
    assert left_of(OTHER) == []


@pytest.mark.usefixtures("clean")
def test_up_status_run_down_leave_nothing() -> None:
    made = segue("lab", "up", "--hosts", "3", "--link", "300mbit", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["hosts"] == ["alpha", "beta", "gamma"]
    try:
        status = json.loads(segue("lab", "status", "--json").stdout)
        assert status["hosts"]["gamma"]["rate_bps"] == units.parse_rate("300mbit")
        assert segue("lab", "run", "--", "hostname").stdout == "admin\n"
        assert segue("lab", "run", "--on", "gamma", "--", "hostname").stdout == "gamma\n"
        assert segue("lab", "run", "--", "sh", "-c", "exit 7").returncode == 7
        assert segue("lab", "run", "--", "ssh", "alpha", "hostname").stdout == "alpha\n"
        assert segue("lab", "run", "--on", "alpha", "--", "ssh", "beta", "hostname").stdout == "beta\n"
        for host in ("alpha", "beta"):
            for scheme in ("tcp", "ssh"):
                assert segue("lab", "run", "--", "virsh", "-c", f"qemu+{scheme}://{host}/system", "list").returncode == 0
        again = segue("lab", "up")
        assert again.returncode == 1
        assert "already up" in again.stderr
    finally:
        ended = segue("lab", "down")
    assert ended.returncode == 0, ended.stderr
    assert left_of(OTHER) == []
    assert segue("lab", "down").returncode == 0


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("lines", [1, 2, 3])
def test_up_that_is_killed_at_a_step_is_removed_by_down(lines: int) -> None:
    """Killed without a chance to clean up: when it begins, when it wires, when it starts the hosts."""
    process = subprocess.Popen([SEGUE, "lab", "up", "--name", OTHER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for _ in range(lines - 1):
        process.stderr.readline()
    process.kill()
    process.communicate(timeout=20)
    assert asyncio.run(down(OTHER)) in (True, False)
    assert left_of(OTHER) == []


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("delay_ms", [150, 300, 450])
def test_up_that_is_killed_at_any_moment_is_removed_by_down(delay_ms: int) -> None:
    process = subprocess.Popen([SEGUE, "lab", "up", "--name", OTHER], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay_ms / 1000)  # the moment itself is what is tried
    process.kill()
    process.wait(timeout=20)
    asyncio.run(down(OTHER))
    assert left_of(OTHER) == []


@pytest.mark.usefixtures("clean")
def test_up_that_is_interrupted_takes_down_what_it_made() -> None:
    process = subprocess.Popen([SEGUE, "lab", "up", "--name", OTHER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "Interrupted" in stderr
    assert left_of(OTHER) == []


def throughput_bps(lab: Lab, sink: str, source: str) -> float:
    """Bytes per second that a plain TCP stream gets from one host to another."""
    listen = "import socket,sys\ns=socket.create_server(('0.0.0.0',5001))\nc,_=s.accept()\nwhile c.recv(1<<20): pass\n"
    send = (
        "import socket,time\nfor _ in range(200):\n try: s=socket.create_connection(('%s',5001)); break\n"
        " except OSError: time.sleep(.02)\nt=time.time(); n=0\nwhile time.time()-t<1.5: n+=s.send(bytes(1<<16))\nprint(n/1.5)\n"
    )

    async def both() -> float:
        receiver = asyncio.create_task(lab.run(sink, [sys.executable, "-c", listen], deadline_s=20))
        done = await lab.run(source, [sys.executable, "-c", send % sink], deadline_s=20)
        await receiver
        return float(done.stdout)

    return asyncio.run(both())


def test_a_link_has_the_rate_that_was_set(lab: Lab) -> None:
    before = lab.rates["beta"]
    asyncio.run(lab.set_rate("beta", units.parse_rate("200mbit")))
    try:
        assert 15e6 <= throughput_bps(lab, "beta", "alpha") <= 30e6
    finally:
        asyncio.run(Lab.load(lab.name).set_rate("beta", before))


def test_a_cut_link_swallows_packets_and_a_healed_one_carries_again(lab: Lab) -> None:
    ping = ["ping", "-c", "1", "-W", "1", "beta"]
    assert asyncio.run(lab.run("admin", ping, check=False)).status == 0
    asyncio.run(lab.cut("beta"))
    try:
        assert asyncio.run(lab.run("admin", ping, check=False)).status != 0
    finally:
        asyncio.run(lab.heal("beta"))
    assert asyncio.run(lab.run("admin", ping, check=False)).status == 0


def test_nothing_of_the_lab_is_in_the_users_network(lab: Lab) -> None:
    addresses = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, timeout=10, check=True).stdout
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, timeout=10, check=True).stdout
    assert "10.77.0." not in addresses
    assert not [host for host in lab.pids if f" {host}@" in links]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("up", "--hosts", "0"), "1 to 8 hosts"),
        (("up", "--hosts", "99"), "1 to 8 hosts"),
        (("up", "--name", "no/name"), "is no name for a lab"),
        (("up", "--link", "fast"), "is not a rate"),
        (("status",), "is not up"),
        (("run", "--", "true"), "is not up"),
        (("link", "alpha", "cut"), "is not up"),
        (("guest", "stop", "web"), "is not up"),
    ],
)
@pytest.mark.usefixtures("clean")
def test_what_cannot_be_is_said_in_one_sentence(words: tuple[str, ...], said: str) -> None:
    done = segue("lab", *words)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert left_of(OTHER) == []


def test_an_unknown_host_is_said_with_those_that_are_there(lab: Lab) -> None:
    with pytest.raises(LabError, match="no host 'omega'"):
        lab.enter_argv("omega", ["true"])


@pytest.mark.usefixtures("clean")
def test_two_labs_live_side_by_side(lab: Lab) -> None:
    other = asyncio.run(up(name=OTHER, hosts=1))
    try:
        assert asyncio.run(other.run("admin", ["hostname"])).stdout == "admin\n"
        assert Lab.load(lab.name).hosts == lab.hosts
    finally:
        asyncio.run(down(OTHER))
    assert left_of(OTHER) == []
    assert asyncio.run(lab.run("admin", ["hostname"])).stdout == "admin\n"
