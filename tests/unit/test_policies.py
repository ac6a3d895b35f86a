"""Ladders that are declared in segue.toml: what they come to, and what is said of those that make no sense."""

from pathlib import Path

import pytest

from segue import config
from segue.core.policy import Decision, Policy, Rung
from segue.errors import ConfigError, UsageError

GUIDE = Path(__file__).parents[2] / "docs/guide/convergence.md"


def load(tmp_path: Path, text: str) -> config.Settings:
    path = tmp_path / "segue.toml"
    path.write_text(text, encoding="utf-8")
    return config.load(path)


def test_the_ladder_of_the_guide_is_read_as_it_says(tmp_path: Path):
    example = GUIDE.read_text(encoding="utf-8").partition("```toml")[2].partition("```")[0]
    assert load(tmp_path, example).policy("patient") == Policy(
        name="patient",
        why="the old tool's steps",
        start_downtime_ms=100,
        auto_converge=True,
        throttle_initial=20,
        throttle_increment=10,
        bandwidth_bps=500 * 1024**2,
        least_gib=2,
        rungs=(
            Rung(do=Decision.ALLOW_DOWNTIME, stalled=2, downtime_ms=200),
            Rung(do=Decision.ALLOW_DOWNTIME, stalled=2, times=2, at_most_ms=10_000, again=True),
            Rung(do=Decision.GIVE_UP, after_ms_per_gib=150_000),
        ),
    )


def test_no_policy_is_segues_own(tmp_path: Path):
    settings = load(tmp_path, "")
    assert (settings.policy(""), settings.policy("segue")) == (None, None)
    with pytest.raises(UsageError, match="There is no policy 'fast'"):
        settings.policy("fast")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[policies.segue]", "policies.segue: that is the name of Segue's own"),
        ("[policies.p]\nrungs = [{ do = 'give-up' }]", "policies.p.rungs, the 1.: a rung says what it waits for"),
        ("[policies.p]\nrungs = [{ do = 'continue', stalled = 1 }]", "a rung does something"),
        ("[policies.p]\nrungs = [{ do = 'allow-downtime', stalled = 1, downtime = '1 day' }]", "'1 day' is not a duration"),
        ("[policies.p]\nrungs = [{ do = 'jump', stalled = 1 }]", "policies.p.rungs[0].do: Invalid enum value 'jump'"),
        ("[policies.p]\nladder = 1", "policies.p: Object contains unknown field `ladder`"),
        ("[policies.p]\nthrottle_initial = '120%'", "'120%' is no share"),
    ],
)
def test_what_makes_no_sense_is_said_with_its_place(tmp_path: Path, text: str, said: str):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert said in caught.value.message


def test_the_speed_of_a_link_is_read(tmp_path: Path):
    settings = load(tmp_path, "[hosts.beta]\nuris = ['qmp+ssh://beta/']\nlink_speed = '1gbit'")
    assert settings.addresses("beta")[0].link_bps == 125_000_000
