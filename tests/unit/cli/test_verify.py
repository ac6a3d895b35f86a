"""``segue hosts verify``: the table, and what it says about what is not well."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.cli import verify
from segue.core.connectivity import Reply, State, Way, judge
from segue.errors import HostUnreachable
from segue.provision.connectivity import Matrix
from tests.unit.core.test_connectivity import WELL

REFUSED = {**WELL.tried, Way.TLS: Reply(worked=False, said="unable to connect to server at 'beta:16514': Connection refused")}
BAD = judge(replace(WELL, tried=REFUSED))


def shown(capsys: pytest.CaptureFixture[str], *, verbose: bool = False) -> str:
    verify._show(Matrix(cells=BAD, silent={}), verbose=verbose)
    return capsys.readouterr().out


def test_the_table_has_a_row_a_pair_and_a_sign_a_way(capsys):
    head, row = shown(capsys).splitlines()[:2]
    assert head.split()[3:] == [way.value.upper() for way in Way]
    assert row.split()[3:] == ["ok", "-", "BAD", *["ok"] * 8]


def test_what_is_bad_is_told_with_its_fix_and_what_is_well_only_when_asked_for(capsys):
    said = shown(capsys)
    assert "BAD  alpha → beta, tls: Nobody listens at beta:16514: the connection was refused." in said
    assert "    to do: Start the daemon there" in said
    assert "was opened and answered" not in said
    assert "was opened and answered" in shown(capsys, verbose=True)


def test_every_state_has_its_sign():
    assert set(verify.SIGNS) == set(State)


def test_no_pair_at_all_is_said(capsys):
    verify._show(Matrix(cells=(), silent={"beta": HostUnreachable("beta is off.", host="beta")}), verbose=False)
    assert "no two hosts could be reached" in capsys.readouterr().err
