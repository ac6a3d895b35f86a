"""The script and the pins that first contact stands on."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = (ROOT / "run").read_text(encoding="utf-8")
VERBS = re.findall(r'^  "(\w+)[^|"]*\|', RUN.split("readonly VERBS=(")[1].split(")\n")[0], re.MULTILINE)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "run", *words], capture_output=True, text=True, timeout=20, env={"PATH": "/usr/bin:/bin"}, check=False
    )


def test_alone_it_prints_every_verb():
    shown = run()
    assert shown.returncode == 0
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_does_something(verb):
    assert f"\nverb_{verb}() {{" in RUN


def test_an_unknown_verb_is_a_usage_error_that_names_it():
    refused = run("dance")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "'dance'" in refused.stderr


def test_everything_that_is_installed_is_pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonical(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    installed = {canonical(found.name): found.version for found in distributions()}
    for ours in ("segue", "pip"):
        installed.pop(ours, None)
    assert installed.items() <= pinned.items()
