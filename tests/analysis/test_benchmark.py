"""The benchmark's command line; what it measures is a matter of the machine."""

from __future__ import annotations

import pytest

from analysis import benchmark


@pytest.mark.parametrize("repeats", ["0", "-1"])
def test_nothing_is_not_measured(repeats: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--repeats", repeats]) == 2
    assert capsys.readouterr().err == f"error: --repeats: expected at least 1, got {repeats}\n"
