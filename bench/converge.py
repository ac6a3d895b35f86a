"""Who moves a busy guest, how fast, at what price: workloads and links, Segue beside virsh and the ladders of others.

    ./run bench converge --quick
    ./run bench converge --workloads steady-16,small-16 --links 300mbit,1gbit --rounds 5
    ./run bench converge --show --markdown docs/bench/converge.md --svg docs/bench/converge.svg

Two hosts, one libvirt guest a workload, moved back and forth by each contender in turn: `segue migrate` by its own choice,
`virsh migrate` plain, with --auto-converge, with --postcopy and with --comp-methods xbzrle, and the ladders of Nova, oVirt,
Proxmox, KubeVirt and Ganeti (bench/ladders.toml) on Segue's engine. A run that is not over after --cut seconds is interrupted
and counts as not converged. Results are kept as JSON lines: what is there already is not played again, so a long grid can be
played in parts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from convergence import picture, report
from convergence.grid import CONTENDERS, GUEST, LINKS, QUICK_CONTENDERS, QUICK_LINKS, QUICK_WORKLOADS, WORKLOADS, Cell, cells
from convergence.play import Run, round_of, write_configs, written
from segue.lab import down, guests, up
from told import until_told

LAB = "converge"
BELOW = "<!-- what follows is written by ./run bench converge --show --markdown -->"
RESULTS = Path(__file__).parent / "results" / "converge.jsonl"


def read(path: Path) -> list[Run]:
    """Every run that is written there."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Run(**{**said, "decisions": tuple(said["decisions"])}) for said in map(json.loads, lines)]


async def measure(chosen: Sequence[Cell], names: Sequence[str], rounds: int, cut_s: float, path: Path) -> None:
    """Play what is not in the results yet, in a lab of its own."""
    done = {(run.cell, run.contender, run.round) for run in read(path)}
    path.parent.mkdir(parents=True, exist_ok=True)

    def take(run: Run) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(written(run) + "\n")
        print(
            f"{run.cell} {run.round} {run.contender}: {run.end}, {run.seconds:.2f} s, client {run.client_ms} ms", file=sys.stderr
        )

    lab = await up(name=LAB, hosts=2)
    try:
        write_configs(lab)
        playing = ""
        for cell in chosen:
            for number in range(1, rounds + 1):
                left = [CONTENDERS[name] for name in names if (cell.name, name, number) not in done]
                if not left:
                    continue
                if playing != cell.workload.name and GUEST in guests.records(lab):
                    await guests.stop(lab, GUEST)
                playing = cell.workload.name
                await round_of(lab, cell, left, number, cut_s=cut_s, take=take)
    finally:
        await asyncio.shield(down(LAB))


def chosen_from(text: str, known: Iterable[str], default: Sequence[str]) -> tuple[str, ...]:
    """Names that were asked for, judged."""
    if not text:
        return tuple(default)
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"There is no {', '.join(unknown)}; there are {', '.join(known)}.")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="three workloads, one link, one round, without ladders: under 5 minutes"
    )
    parser.add_argument("--workloads", default="", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--links", default="", help=f"of {', '.join(LINKS)}")
    parser.add_argument("--contenders", default="", help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--rounds", type=int, help="of each contender in each cell (default 5; --quick: 1)")
    parser.add_argument("--cut", type=float, help="seconds after which a run is interrupted (default 60; --quick: 20)")
    parser.add_argument("--results", type=Path, help=f"JSON lines, kept and gone on with (default {RESULTS}; --quick: new ones)")
    parser.add_argument("--show", action="store_true", help="play nothing: show what is in the results")
    parser.add_argument("--json", action="store_true", help="the cells as one JSON object on stdout, in place of the table")
    parser.add_argument("--markdown", type=Path, help="write the tables there too; what stands above them stays")
    parser.add_argument("--svg", type=Path, help="write the picture there")
    words = parser.parse_args()
    quick = words.quick
    chosen = cells(
        chosen_from(words.workloads, WORKLOADS, QUICK_WORKLOADS if quick else tuple(WORKLOADS)),
        chosen_from(words.links, LINKS, QUICK_LINKS if quick else tuple(LINKS)),
    )
    names = chosen_from(words.contenders, CONTENDERS, QUICK_CONTENDERS if quick else tuple(CONTENDERS))
    path = words.results or (RESULTS.with_name("quick.jsonl") if quick else RESULTS)
    cut_s = words.cut or (20.0 if quick else 60.0)
    if quick and not words.results and not words.show:
        path.unlink(missing_ok=True)
    if not words.show:
        asyncio.run(until_told(measure(chosen, names, words.rounds or (1 if quick else 5), cut_s, path)))
    wanted = {cell.name: cell for cell in chosen}
    runs = [run for run in read(path) if run.cell in wanted and run.contender in names]
    judged = report.judge(runs, wanted, cut_s=cut_s)
    if words.json:
        print(json.dumps(report.as_object(judged)))
    else:
        print(report.text(judged))
    if words.markdown:
        head = words.markdown.read_text(encoding="utf-8").partition(BELOW)[0] if words.markdown.exists() else ""
        words.markdown.write_text(f"{head}{BELOW}\n\n{report.markdown(judged, picture=words.svg)}", encoding="utf-8")
    svg = words.svg or path.with_suffix(".svg")
    svg.write_text(picture.draw(judged), encoding="utf-8")
    print(f"picture: {svg}", file=sys.stderr)


if __name__ == "__main__":
    main()
