"""Words of a verb that leads a migration, when there is nobody any more to read them."""

import os
import sys

import pytest
import typer

from segue.cli.unheard import whoever_listens


def test_what_nobody_reads_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(BrokenPipeError):
            typer.echo("one")
        with whoever_listens():
            assert sys.stdout.encoding == "utf-8"
            for word in ("two", "three"):
                typer.echo(word)
        assert sys.stdout is stream
        typer.echo("four")  # it goes nowhere for good: the interpreter writes what is left at its end


def test_what_somebody_reads_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    with whoever_listens():
        typer.echo("here")
        typer.echo("there", err=True)
    assert tuple(capsys.readouterr()) == ("here\n", "there\n")
