"""``segue pki`` as a user sees it where no host is touched: from a process of its own, with a CA in a directory of the test's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from segue.core.pki import IDENTITIES

SEGUE = [sys.executable, "-c", "from segue.cli.main import main; main()", "pki"]
HOSTS = """
[hosts.beta]
uris = ["qemu+tls://beta.example.org/system"]
migration_address = "10.0.0.2"
"""


class Here:
    """A directory with a segue.toml and room for a CA."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "segue.toml"
        self.config.write_text(HOSTS, encoding="utf-8")
        self.pki = directory / "pki"

    def segue(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {"SEGUE_CONFIG": str(self.config), "SEGUE_PKI": str(self.pki), "PATH": "/usr/bin:/bin"}
        done = subprocess.run([*SEGUE, *words], capture_output=True, text=True, timeout=30, check=False, env=environment)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert "PRIVATE" not in done.stdout + done.stderr
        return done


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


@pytest.mark.parametrize("verb", ["init", "issue", "install", "verify", "status", "rotate", "revoke"])
def test_every_verb_has_help_with_an_example_and_json(here: Here, verb: str):
    shown = here.segue(verb, "--help").stdout
    assert f"segue pki {verb}" in shown
    assert "--json" in shown


def test_a_ca_is_made_once_and_issues_for_every_name_of_segue_toml(here: Here):
    made = json.loads(here.segue("init", "--name", "Our CA", "--json").stdout)
    assert (made["subject"], made["directory"]) == ("Our CA", str(here.pki))
    assert "There is a CA in" in here.segue("init", status=1).stderr
    issued = json.loads(here.segue("issue", "beta", "--san", "b7", "--json").stdout)
    assert issued["names"] == ["10.0.0.2", "b7", "beta", "beta.example.org"]
    assert len(list((here.pki / "hosts/beta/1").iterdir())) == 2 * len(IDENTITIES)
    assert here.segue("issue", "laptop").stdout.startswith("laptop: issued for laptop, until ")


def test_a_ca_of_certtool_is_taken(here: Here, tmp_path: Path):
    key, cert, info = (tmp_path / name for name in ("ca.key", "ca.pem", "ca.info"))
    info.write_text("cn = Their CA\nca\ncert_signing_key\n", encoding="utf-8")
    for words in (
        ["--generate-privkey", "--outfile", key],
        ["--generate-self-signed", "--load-privkey", key, "--template", info, "--outfile", cert],
    ):
        subprocess.run(["certtool", *map(str, words)], capture_output=True, timeout=20, check=True)
    assert "'Their CA' is in" in here.segue("init", "--ca-cert", str(cert), "--ca-key", str(key)).stdout
    here.segue("issue", "beta")
    verified = subprocess.run(
        ["certtool", "--verify", "--load-ca-certificate", cert, "--infile", here.pki / "hosts/beta/1/qemu-server-cert.pem"],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert b"Chain verification output: Verified." in verified.stdout


def test_status_shows_the_ca_also_where_no_host_is_known(here: Here):
    here.config.write_text("", encoding="utf-8")
    assert "there is no CA" in here.segue("status").stderr
    here.segue("init", "--days", "20")
    assert "CA 1" in here.segue("status", "--warn-days", "10").stdout
    row = json.loads(here.segue("status", "--json", status=1).stdout)
    assert (row["what"], row["days_left"], row["validity"]) == ("CA 1", 19, "expiring")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["issue", "beta"], 1, "There is no CA in"),
        (["install", "beta"], 1, "There is no CA in"),
        (["install", "omega"], 2, "There is no host 'omega'"),
        (["revoke", "beta"], 1, "There is no CA in"),
        (["rotate"], 1, "There is no CA in"),
        (["init", "--ca-cert", "/none"], 2, "belong together"),
        (["init", "--ca-cert", "/none", "--ca-key", "/none"], 2, "/none cannot be read"),
        (["init", "--ca-cert", "/etc/hostname", "--ca-key", "/etc/hostname"], 1, "That CA cannot be used"),
        (["init", "--name", "a,b"], 2, "no name for a CA"),
        (["init", "--days", "0"], 2, "days"),
        (["verify", "omega"], 2, "There is no host 'omega'"),
    ],
)
def test_bad_input_is_one_clear_sentence_and_leaves_nothing(here: Here, words: list[str], status: int, said: str):
    done = here.segue(*words, status=status)
    assert said in done.stderr
    assert done.stdout == ""
    assert not here.pki.exists()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["issue", "beta", "--san", "not a name"], 2, "neither a host name nor an IP address"),
        (["issue", "../beta"], 2, "no name of a host"),
        (["install", "beta"], 1, "Nothing was issued to beta yet"),
        (["revoke", "beta"], 1, "Nothing was issued to beta yet"),
    ],
)
def test_what_a_ca_cannot_do_is_said_and_changes_nothing(here: Here, words: list[str], status: int, said: str):
    here.segue("init")
    assert said in here.segue(*words, status=status).stderr
    assert {path.name for path in here.pki.iterdir()} == {"ca", "lock"}
