"""The disks of one migration that only the source can reach: copied while the guest runs, handed over while it stands.

The destination's QEMU opens an empty file for each and exports it (NBD); the source's mirrors its disk there. A mirror that has
caught up follows what the guest writes. At the switchover QEMU stops the guest and waits (pause-before-switchover): the mirrors
are drained and ended, the exports closed, and only then does the source hand the guest over. Until the destination is told to
run, its files are copies that nobody needs: the source's own disks were never let go of.

All that is made in a QEMU has a name that begins with ``segue-``, and a file that was made here has a second name that ends in
the migration's id. So what a process that died had begun is found by looking, and nothing else is ever touched.
What may live here: `DiskCopy`. Decisions are in `core.storage`, what is read and run in `disks`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from segue.core import storage
from segue.core.ports import ActionLog
from segue.core.record import Action
from segue.core.storage import Copied, CopyWish, Disk, Target
from segue.drivers.qemu import disks
from segue.drivers.qemu.session import Session
from segue.errors import AnswerNotSeen, HypervisorError, RefusedError
from segue.hosts import HostShell

PROBE_DEADLINE_S: Final = 5.0
DRAIN_DEADLINE_S: Final = 5.0
"""For mirrors that had caught up to write their last, while the guest stands: 5 to 12 ms were seen. After this long the link is
broken, and it is better to let the guest go on where it was."""
END_DEADLINE_S: Final = 20.0
STANDS: Final = "pre-switchover"
"""What a source shows that has stopped the guest and waits (qapi/migration.json, MigrationStatus)."""
_NEWS_S: Final = 0.02
"""While the guest stands, each ms is downtime; QEMU's events come in between."""
# Words of its own, so that no shell reads them; bash because a plain sh opens no connection.
_PROBE: Final = ["timeout", f"{PROBE_DEADLINE_S:g}", "bash", "-c", 'exec 3<>"/dev/tcp/$0/$1"']


class DiskCopy:
    """The disks of one migration. Every method may be called again, and those of the way back also by who did not begin it.

    Args:
        wish: how.
        migration: its id.
        source, destination: the ways to both hosts.
        log: is told each action before it is done.
    """

    def __init__(self, wish: CopyWish, migration: str, source: HostShell, destination: HostShell, log: ActionLog) -> None:
        self._wish = wish
        self._migration = migration
        self._source = source
        self._destination = destination
        self._log = log
        self._targets: tuple[Target, ...] = ()
        self._paths: tuple[str, ...] = ()
        self._server: tuple[str, int] = ("", 0)
        self._speeds: dict[str, int] = {}
        self._handing_over = asyncio.Lock()

    # the way there

    async def create(self, here: Session, cwd: str) -> frozenset[str]:
        """See which disks have to be copied, and make an empty file for each, before the destination is started.

        Args:
            here: the source's monitor.
            cwd: its QEMU's directory.

        Returns:
            The files of the source that the destination need not have, as the source's QEMU names them.

        Raises:
            RefusedError: it cannot work; nothing was made.
            PrepareFailed: a file cannot be made; `remove` takes away the others.
        """
        found = await disks.of_guest(here, cwd)
        where = {disk.key: self._there(disk.path) for disk in found}
        places = await disks.shown(self._source, self._destination, found, where, self._migration)
        self._targets = storage.targets(self._wish.how, found, places, destination=self._destination.name)
        self._paths = tuple(target.place.path for target in self._targets)
        for target in self._targets:
            path = target.place.path
            async with self._log.acting(Action.CREATE_DISK, f"{self._destination.name}:{path}"):
                await disks.create(self._destination, target, disks.ours(path, self._migration))
            if target.keeps_backing:
                below = await disks.layers(self._destination, path)
                if why := storage.different_base(target.disk, below):
                    raise RefusedError(f"{why}.", hint="Copy all of it (--copy-storage all), or bring the same files there.")
        return frozenset[str]().union(*(target.files for target in self._targets))

    async def export(self, there: Session, cwd: str, address: str) -> None:
        """Let the destination's QEMU, which waits for the guest, take data for its disks.

        That makes them active while the guest is still elsewhere (QEMU, blk_exp_add): it is told to run only after `hand_over`.

        Args:
            there: the destination's monitor.
            cwd: its QEMU's directory.
            address: an IP address of it that the source reaches.

        Raises:
            HypervisorError: it has not the disks that it should have, or cannot export them.
        """
        if not self._targets:
            return
        nodes = self._nodes(await disks.of_guest(there, cwd))
        async with self._log.acting(Action.EXPORT_DISKS, f"{self._destination.name} at {address}"):
            self._server = (address, await self._serve(there, address))
            for target in self._targets:
                options = {"type": "nbd", "id": target.name, "name": target.name, "node-name": nodes[target.disk.key]}
                await there.execute("block-export-add", {**options, "writable": True})

    def _nodes(self, found: tuple[Disk, ...]) -> dict[str, str]:
        known = {disk.key: disk for disk in found}
        for target in self._targets:
            disk = known.get(target.disk.key)
            if disk is None or disk.path != target.place.path:
                raise HypervisorError(
                    f"QEMU on {self._destination.name} has not opened {target.place.path} as its disk {target.disk.key}"
                    f"{f', but {disk.path}' if disk else ''}.",
                    host=self._destination.name,
                )
        return {key: disk.node for key, disk in known.items()}

    async def _serve(self, there: Session, address: str) -> int:
        """Listen on the first port that is free, as QEMU does not say which it got when the choice is its own."""
        refused: HypervisorError | None = None
        for port in self._wish.ports:
            server = {"type": "inet", "data": {"host": address, "port": str(port)}}
            try:
                await there.execute("nbd-server-start", {"addr": server, "max-connections": len(self._targets) + 1})
            except AnswerNotSeen:
                raise
            except HypervisorError as error:
                refused = error
            else:
                return port
        raise HypervisorError(
            f"{self._destination.name} has no free port at {address} for its disks{f': {refused.raw}' if refused else ''}.",
            host=self._destination.name,
        )

    async def start(self, here: Session) -> None:
        """Begin to copy. `follow` then tells how far it is.

        Raises:
            HypervisorError: the destination's port cannot be reached, or QEMU refuses something.
        """
        if not self._targets:
            return
        host, port = self._server
        await self._probe(host, port)
        server = {"type": "inet", "host": host, "port": str(port)}
        mode = "write-blocking" if self._wish.synchronous else "background"
        self._speeds = storage.speeds(self._wish.limit_bps, Copied(running=tuple(target.name for target in self._targets)))
        async with self._log.acting(Action.MIRROR_DISKS, f"{self._source.name} to {host} port {port}"):
            for target in self._targets:
                name = target.name
                node = {"driver": "nbd", "node-name": name, "server": server, "export": name, "discard": "unmap"}
                await here.execute("blockdev-add", node)
                job = {"job-id": name, "device": target.disk.node, "target": name, "sync": target.sync, "copy-mode": mode}
                # It stays when it ends, so that its error is found by looking, and no error of a copy stops the guest.
                ends = {"auto-dismiss": False, "on-source-error": "report", "on-target-error": "report"}
                await here.execute("blockdev-mirror", {**job, **ends, "speed": self._speeds[name]})

    async def _probe(self, host: str, port: int) -> None:
        """See that the source reaches the port: its QEMU, and with it the guest, stands while it connects.

        3.05 s were seen where no host had the address; where a firewall swallows packets it is minutes (tcp(7), tcp_syn_retries).
        """
        done = await self._source.run([*_PROBE, host, str(port)], deadline_s=2 * PROBE_DEADLINE_S)
        if done.status:
            raise HypervisorError(
                f"{self._source.name} cannot reach {self._destination.name} at {host} port {port}, where its disks are to go.",
                host=self._source.name,
                raw=done.complaint,
                hint=f"Let TCP ports {self._wish.ports[0]} to {self._wish.ports[-1]} of {self._destination.name} through.",
            )

    async def follow(self, here: Session) -> Copied:
        """How far the copying is. The limit is shared anew when a disk is done.

        Raises:
            HypervisorError: a disk is not copied any more. The guest is not harmed.
        """
        copied = disks.copied(await here.execute("query-jobs"))
        if copied.broken:
            raise HypervisorError(
                f"A disk is no longer copied to {self._destination.name} ({copied.broken}).",
                host=self._source.name,
                raw=copied.broken,
            )
        await self._keep_limit(here, copied)
        return copied

    async def _keep_limit(self, here: Session, copied: Copied) -> None:
        wanted = storage.speeds(self._wish.limit_bps, copied)
        changed = {name: speed for name, speed in wanted.items() if self._speeds.get(name) != speed}
        if not changed:
            return
        async with self._log.acting(Action.TUNE, ", ".join(f"{name} {speed or 'any'} B/s" for name, speed in changed.items())):
            for name, speed in changed.items():
                await here.execute("block-job-set-speed", {"device": name, "speed": speed})
                self._speeds[name] = speed

    # the switchover

    async def hand_over(self, here: Session, there: Session) -> None:
        """Let the source, which has stopped the guest before the switchover, go on when the disks are whole on the destination.

        A mirror that had caught up ends with all written there when it is cancelled (qapi/block-core.json, block-job-cancel); one
        that had not ends with an error. Harmless when the source does not wait there.

        Raises:
            HypervisorError: a disk is not whole there, or its link is broken. The guest stands on the source, and goes on there
                when the migration is cancelled.
        """
        async with self._handing_over:
            if not await self._waits(here):  # somebody else has done it meanwhile
                return
            async with self._log.acting(Action.HAND_DISKS_OVER, f"{self._source.name} to {self._destination.name}"):
                for job in disks.read_jobs(await here.execute("query-jobs")):
                    if job.get("status") not in disks.ENDED:
                        await here.execute("block-job-cancel", {"device": job["id"]})
                await self._drained(here)
                await self._forget(here)
                if disks.own_exports(await there.execute("query-block-exports")):
                    await there.execute("nbd-server-stop")  # it answers when all exports are closed (blockdev-nbd.c)
                await here.execute("migrate-continue", {"state": STANDS})
                # It takes a moment to go on, in which another look would still see it wait.
                async with self._within(DRAIN_DEADLINE_S, "The source does not go on to hand the guest over to"):
                    while await self._waits(here):
                        await here.woken(timeout_s=_NEWS_S)

    async def _waits(self, here: Session) -> bool:
        return (await here.query("query-migrate")).get("status") == STANDS

    async def _drained(self, here: Session) -> None:
        async with self._within(DRAIN_DEADLINE_S, "The guest's last writes are not all on"):
            while jobs := disks.read_jobs(await here.execute("query-jobs")):
                if all(job.get("status") in disks.ENDED for job in jobs):
                    break
                await here.woken(timeout_s=_NEWS_S)
        # One that had not caught up ends as cancelled, which is an error to QEMU (job.c, job_update_rc).
        if why := "; ".join(f"{job['id']}: {job['error']}" for job in jobs if job.get("error")):
            raise HypervisorError(f"A disk is not whole on {self._destination.name} ({why}).", host=self._source.name, raw=why)

    # the way back, and the end

    async def find(self, session: Session, cwd: str, *, on_destination: bool) -> None:
        """Learn from a QEMU where this migration's files are, for who has not begun it."""
        found = await disks.of_guest(session, cwd)
        self._paths = tuple(disk.path if on_destination else self._there(disk.path) for disk in found)
        if not on_destination:
            await disks.unmark(self._source, [disk.path for disk in found], self._migration)

    async def abandon(self, here: Session) -> None:
        """End the mirrors and remove what they were made of; the guest's own disks are as they were before. Harmless twice.

        Raises:
            AnswerNotSeen: they do not end.
        """
        jobs = disks.read_jobs(await here.execute("query-jobs"))
        nodes = disks.own_nodes(await here.execute("query-named-block-nodes", {"flat": True}))
        if not jobs and not nodes:
            return
        async with self._log.acting(Action.END_MIRRORS, self._source.name):
            await self._hang_up(here, nodes)
            for job in jobs:
                with contextlib.suppress(HypervisorError):  # it has ended meanwhile; whether all have is seen below
                    await here.execute("block-job-cancel", {"device": job["id"], "force": True})
            async with self._within(END_DEADLINE_S, "The copying of disks does not end to"):
                while any(job.get("status") not in disks.ENDED for job in disks.read_jobs(await here.execute("query-jobs"))):
                    await here.woken(timeout_s=_NEWS_S)
            await self._forget(here)

    async def _forget(self, here: Session) -> None:
        for job in disks.read_jobs(await here.execute("query-jobs")):
            await here.execute("job-dismiss", {"id": job["id"]})
        nodes = disks.own_nodes(await here.execute("query-named-block-nodes", {"flat": True}))
        await self._hang_up(here, nodes)
        for node in nodes:
            await here.execute("blockdev-del", {"node-name": node})

    async def _hang_up(self, here: Session, nodes: list[str]) -> None:
        """Close connections to the destination at once; whatever the guest wrote is there already, or is not wanted any more.

        To remove a node first says good-bye to the other side. Over a link that was cut QEMU, and the guest with it, stood for
        minutes in that (QEMU 7.2.22).
        """
        if nodes:
            await here.execute("yank", {"instances": [{"type": "block-node", "node-name": node} for node in nodes]})

    async def remove(self) -> None:
        """Remove the files that this migration made, and no other; only after the destination was seen to be gone.

        Raises:
            CommandFailed: one stays.
        """
        if self._paths:
            async with self._log.acting(Action.REMOVE_DISKS, f"{self._destination.name}: {', '.join(self._paths)}"):
                await disks.remove(self._destination, self._paths, self._migration)

    async def keep(self) -> None:
        """The guest runs there: its files are its own from now on. The source's stay where they are, and grow old.

        Raises:
            CommandFailed: a second name stays.
        """
        if self._paths:
            async with self._log.acting(Action.KEEP_DISKS, f"{self._destination.name}: {', '.join(self._paths)}"):
                await disks.keep(self._destination, self._paths, self._migration)

    def _there(self, path: str) -> str:
        return self._wish.paths.get(path, path)

    @contextlib.asynccontextmanager
    async def _within(self, deadline_s: float, words: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(deadline_s):
                yield
        except TimeoutError:
            raise AnswerNotSeen(
                f"{words} {self._destination.name} after {deadline_s:g} s.", host=self._destination.name
            ) from None
