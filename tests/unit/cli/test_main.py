"""What ``segue`` says before it touches anything: as a user sees it, from a process of its own."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segue.cli import render
from segue.cli.main import VERBS

SEGUE = [sys.executable, "-c", "from segue.cli.main import main; main()"]


def segue(*words: str, config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SEGUE, *words],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={"SEGUE_CONFIG": str(config), "SEGUE_STATE": str(config.parent / "state"), "PATH": "/usr/bin"},
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "segue.toml"
    path.write_text('[hosts.alpha]\nuris = ["qemu+unix:///system?socket=/nonexistent"]\n', encoding="utf-8")
    return path


def test_help_names_every_verb_and_loads_nothing_heavy(config: Path) -> None:
    shown = segue("--help", config=config)
    assert shown.returncode == 0
    assert set(VERBS) <= set(shown.stdout.split())
    assert not {"libvirt", "asyncssh", "qemu", "lxml", "msgspec", "rich.live"} & _loaded_for("--help")


def test_a_verb_loads_no_other_verb() -> None:
    assert {one for one in _loaded_for("migrate", "--help") if one.startswith("segue.cli.")} == {
        f"segue.cli.{file}" for file in ("main", "migrate", "render", "exit_codes", "asking", "unheard", "wishes")
    }


def _loaded_for(*words: str) -> set[str]:
    """The modules that are loaded when ``segue`` has said this."""
    told = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    script = f"{told}; from segue.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=20, check=True)
    return set(done.stderr.split())


def test_a_defect_says_what_to_do_and_claims_no_end() -> None:
    script = "import segue.cli.main as cli; cli.assembled = lambda _: 1 / 0; cli.main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 5
    assert "ZeroDivisionError" in done.stderr
    assert "'segue recover' looks at both hosts" in done.stderr


@pytest.mark.parametrize(
    ("loading", "status", "said"), [("segue.cli.main", -signal.SIGINT, ""), ("segue.cli.migrate", 130, "Aborted.\n")]
)
def test_ctrl_c_before_anything_has_begun_shows_no_traceback(loading: str, status: int, said: str) -> None:
    script = f"""import os, signal, sys
class Pressed:
    def find_spec(name, path, target=None):
        if name == {loading!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Pressed)
from segue.cli.start import main
main()"""
    words = [sys.executable, "-c", script, "migrate", "web1", "beta"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", said)


def test_the_version_is_told(config: Path) -> None:
    shown = segue("--version", config=config)
    assert (shown.returncode, shown.stdout.split()[0]) == (0, "segue")


@pytest.mark.parametrize("verb", ["migrate", "check", "forecast"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--xml", "/nonexistent.xml"], "'/nonexistent.xml' cannot be read"),
        (["--set", "disk.vda"], "disk.vda"),
        (["--max-slowdown", "most"], "'most'"),
        (["--postcopy=maybe"], "maybe"),
        (["--rename", "web2", "--persist", "--on-miss", "suspend", "--copy-disk", "vda", "--postcopy"], "no host 'nowhere'"),
    ],
)
def test_verbs_of_a_migration_take_the_same_words(config: Path, verb: str, words: list[str], said: str) -> None:
    shown = segue(verb, "web", "nowhere", *words, config=config)
    assert shown.returncode == 2
    assert said in shown.stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["migrate", "web"], 2, "destination"),
        (["migrate", "web", "nowhere"], 2, "There is no host 'nowhere'"),
        (["migrate", "web", "vbox:///session"], 2, "is not a connection URI"),
        (["migrate", "web", "alpha", "--max-downtime", "soon"], 2, "'soon' is not a duration"),
        (["migrate", "web", "alpha", "--max-downtime", "0"], 2, "between 1 ms and 2000 s"),
        (["migrate", "web", "alpha", "--bandwidth", "0"], 2, "more than zero"),
        (["migrate", "web", "alpha", "--control", "magic"], 2, "magic"),
        (["guests", "nowhere"], 2, "There is no host 'nowhere'"),
        (["dance"], 2, "dance"),
    ],
)
def test_bad_words_are_one_clear_sentence(config: Path, words: list[str], status: int, said: str) -> None:
    shown = segue(*words, config=config)
    assert shown.returncode == status
    assert said in shown.stderr
    assert "Traceback" not in shown.stderr
    assert shown.stdout == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hosts = 3", "hosts"),
        ("[hosts.alpha]\nuris = []", "uris"),
        ("[hosts.alpha]\nuris = ['qemu:///system']\ncolour = 'red'", "colour"),
        ("[hosts.alpha]\nuris = ['qemu:///system', 'qemu:///session']", "two addresses"),
        ("[hosts.alpha", "is not TOML"),
    ],
)
def test_a_bad_segue_toml_is_named_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "segue.toml"
    path.write_text(text, encoding="utf-8")
    shown = segue("guests", config=path)
    assert shown.returncode == 2
    assert str(path) in shown.stderr
    assert said in shown.stderr


def test_a_missing_segue_toml_that_was_named_is_an_error(tmp_path: Path) -> None:
    shown = segue("guests", config=tmp_path / "none.toml")
    assert shown.returncode == 2
    assert "cannot be read" in shown.stderr


def test_json_of_a_refusal_ends_with_an_outcome(config: Path) -> None:
    shown = segue("migrate", "web", "nowhere", "--json", config=config)
    outcome = json.loads(shown.stdout.splitlines()[-1])
    assert shown.returncode == 2
    assert outcome["outcome"] == "refused"
    assert {"id", "guest", "source", "destination", "driver", "control", "transport", "owner", "phase"} <= set(outcome)
    assert {"total_ms", "downtime_ms", "bytes_sent", "iterations", "error"} <= set(outcome)


def test_a_name_of_any_bytes_breaks_no_table_and_no_json(capsys: pytest.CaptureFixture[str]):
    name = 'two\nlines\x1b[31m ünï "\udcff"'
    render.table(("GUEST", "HOST"), [(name, "alpha")], none="")
    render.print_json({"name": name})
    heading, row, as_json = capsys.readouterr().out.splitlines()
    assert heading.startswith("GUEST")
    assert row == 'two\\nlines\\x1b[31m ünï "\\udcff"  alpha'
    assert json.loads(as_json)["name"] == name
