"""launch/status.py as a command: which folder it looks at, which pictures it names, and that it changes nothing."""

import os

from launch import status
from launch.outcomes import selection, write_selection
from launch.submissions import intend
from launch.survey import Surveyor
from launch.sweepdir import SweepDir


def test_pictures_are_those_of_the_selected_points_first_seed_else_of_the_latest_done_run(
    make_planner, finish, tmp_path, monkeypatch, capsys
):
    def told() -> str:
        assert status.main(["runs", "--pictures"]) == 0
        out = capsys.readouterr().out
        return out[out.rindex("\n", 0, out.index("pictures ")) + 1 :].rstrip()

    monkeypatch.chdir(tmp_path)
    planner = make_planner("bayes.points=0")
    trials = planner.grid()
    for number, accuracy in ((0, 0.9), (1, 0.7)):
        for planned in trials[number].runs:
            finish(planned, accuracy=accuracy)
    assert told().startswith("no pictures yet")
    for number in (0, 1):
        for planned in trials[number].runs:
            planned.run.pictures.mkdir()
            for name in ("samples-0010.png", "samples-0020.png", "attribution-0020.png"):
                (planned.run.pictures / name).touch()
    os.utime(trials[1].runs[1].run.result_file, (2e9, 2e9))

    def line(run) -> str:
        folder = run.pictures.relative_to(tmp_path)
        return f"pictures of s:\n  {folder}/attribution-0020.png\n  {folder}/samples-0020.png"

    assert told() == line(trials[1].runs[1].run)
    survey = Surveyor(planner).look({t.number: t for t in trials}, {}, ())
    write_selection(planner.folder, selection(planner.sweep, list(survey.outcomes.values())))
    assert told() == line(trials[0].runs[0].run)


def test_status_of_nothing_and_of_no_folder(tmp_path, capsys):
    assert status.main([str(tmp_path)]) == 0 and "no runs yet" in capsys.readouterr().out
    assert status.main([str(tmp_path / "none")]) == 2 and "no such folder" in capsys.readouterr().err


def test_status_takes_its_folder_with_or_without_the_option(tmp_path, capsys):
    for words in ([str(tmp_path)], ["--runs", str(tmp_path)]):
        assert status.main(words) == 0 and str(tmp_path) in capsys.readouterr().out.replace("\n", "")
    assert status.main([str(tmp_path), "--runs", str(tmp_path)]) == 2


def test_status_changes_nothing(make_planner, finish, tmp_path):
    planner = make_planner()
    finish(planner.grid()[0].runs[0])
    intend(SweepDir(tmp_path / "runs" / "s"), "local", [("0" * 12, 0)])
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("*")}
    status.main([str(tmp_path / "runs"), "--json"])
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("*")} == before
