import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genxai.errors import GenxaiError, UsageError
from launch import cli, sweep

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GenxaiError("the disk"), 1),
        (UsageError("the key"), 2),
        (KeyboardInterrupt(), 130),
        (cli.Interrupted("stopped", 143), 143),
        (OSError(errno.ENOSPC, "No space left on device", "/runs/x"), 1),
        (OSError(errno.EROFS, "Read-only file system", "/runs/x"), 1),
        (PermissionError(errno.EACCES, "Permission denied", "/runs/x"), 1),
    ],
)
def test_errors_meant_for_a_person_are_one_message_and_an_exit_code(error, code, capsys):
    def main():
        raise error

    assert cli.run_command(main) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    assert str(getattr(error, "filename", None) or "") in said


def test_other_errors_are_bugs_and_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run_command(lambda: 1 // 0)


@pytest.mark.parametrize(
    "number", ["ENOENT", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP", "ESTALE", "EFBIG", "EMFILE"]
)
def test_whatever_the_system_says_of_a_file_is_one_message(number, capsys):
    def main():
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)), "/runs/x")

    assert cli.run_command(main) == 1
    assert capsys.readouterr().err == f"error: /runs/x: {os.strerror(getattr(errno, number))}\n"


@pytest.mark.parametrize("command", ["launch/train.py tiny", "launch/status.py", "launch/sweep.py --dry-run"])
def test_a_removed_current_directory_is_one_message(command, tmp_path):
    script, *words = command.split()
    code = "import os, runpy, sys; os.rmdir(os.getcwd()); runpy.run_path(sys.argv[0], run_name='__main__')"
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; del sys.argv[0]; {code}", str(REPOSITORY / script), *words],
        cwd=tmp_path / "gone",
        env={name: value for name, value in os.environ.items() if name != "GENXAI_RUNS"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "current directory" in done.stderr


@pytest.mark.parametrize("closed", ["1", "2", "1 2", "0 1 2"])
def test_closed_streams_are_no_reason_to_fail_and_no_file_takes_their_number(closed, tmp_path):
    script = (
        "import os, sys; from launch.cli import run_command\n"
        "def main():\n    print('x'); print('y', file=sys.stderr)\n    file = open(sys.argv[1], 'w')\n"
        "    file.write(str(file.fileno()))\n    return 7\n"
        "sys.exit(run_command(main))"
    )
    shut = " ".join(f"{number}>&-" for number in closed.split())
    shell = ["sh", "-c", f'"$0" -c "$1" "$2" {shut}', sys.executable, script, str(tmp_path / "file")]
    assert subprocess.run(shell, cwd=REPOSITORY, check=False).returncode == 7
    assert int((tmp_path / "file").read_text()) > 2


def test_a_full_stdout_is_one_message():
    script = "import sys; from launch.cli import run_command; sys.exit(run_command(lambda: print('x' * 10**6) or 0))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"No space left" in done.stderr


def test_a_word_is_an_override_only_if_it_has_a_key_and_no_file_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=1e-3").mkdir()
    Path("my conf=1.yaml").touch()
    assert cli.split_overrides(["lr=1e-3", "a.b_c=1=2"], "file") == ("lr=1e-3", ["a.b_c=1=2"])
    assert cli.split_overrides(["my conf=1.yaml"], "file") == ("my conf=1.yaml", [])
    assert cli.split_overrides(["lr=1e-4", f"x={'y' * 5000}"], "file") == (None, ["lr=1e-4", f"x={'y' * 5000}"])
    with pytest.raises(UsageError, match="overrides are key=value"):
        cli.split_overrides(["tiny", "=3"], "file")


def test_a_closed_pipe_is_quiet():
    script = "import sys; from launch.cli import run_command; sys.exit(run_command(lambda: print('x' * 10**6) or 0))"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141
    process.stderr.close()


@pytest.mark.parametrize("command", ["sweep.py", "status.py"])
def test_help_is_quick_and_has_examples(command):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "launch" / command), "--help"], capture_output=True, text=True, check=True
    )
    assert time.monotonic() - began < 1.5
    assert "examples:" in done.stdout and f"python launch/{command}" in done.stdout


def test_the_sweep_command_imports_nothing_heavy():
    script = "import sys, launch.sweep, launch.reconciler, launch.display, launch.status; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "optuna", "submitit", "pandas"} & set(loaded)


def test_scripts_do_not_hide_packages_of_their_name(tmp_path):
    """launch/evaluate.py and Hugging Face's `evaluate`, for one."""
    script = (
        "import runpy, sys, importlib.util, launch.cli as cli; sys.path[0] = sys.argv.pop(1);"
        "from launch import status; status._main = lambda argv: bool(importlib.util.find_spec('evaluate').origin"
        ".startswith(sys.path[-1]));"
        "sys.path.append(sys.argv.pop(1)); sys.exit(status.main([]))"
    )
    (tmp_path / "evaluate.py").touch()
    for folder in ("launch", "analysis"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(REPOSITORY / folder), str(tmp_path)], capture_output=True, check=False
        )
        assert done.returncode == 1, done.stderr  # True: the other one was found


def test_a_file_system_without_locks_is_one_message_that_names_the_folder(monkeypatch, tmp_path, sweep_file, capsys):
    def flock(descriptor, operation):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    assert sweep.main([str(sweep_file), "--runs", str(tmp_path / "runs")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(tmp_path / "runs" / "s") in said and "--runs" in said


@pytest.fixture
def without_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def test_a_cluster_without_sbatch_is_a_usage_error_that_names_the_way_out(without_slurm, tmp_path, sweep_file, capsys):
    code = sweep.main([str(sweep_file), "--cluster", "slurm", "--runs", str(tmp_path / "runs")])
    said = capsys.readouterr().err
    assert code == 2 and "sbatch" in said and "--cluster local" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "words", [["nowhere.yaml"], ["a.yaml", "b.yaml"], ["--max-parallel", "0"], ["--profile", "gpu"], ["a=1=2", "x"]]
)
def test_wrong_usage_ends_with_2_and_one_message(words, tmp_path, capsys):
    assert sweep.main([*words, "--runs", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_an_unwritable_runs_folder_is_one_message(tmp_path, sweep_file, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert sweep.main([str(sweep_file), "--runs", str(blocked)]) == 1
    said = capsys.readouterr().err
    assert str(blocked) in said and "--runs" in said and blocked.read_text() == "not a folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_runs_folder_is_one_message(tmp_path, sweep_file, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert sweep.main([str(sweep_file), "--runs", str(tmp_path / "runs")]) == 1
    assert "Permission denied" in capsys.readouterr().err


def test_runs_come_from_the_option_the_environment_or_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENXAI_RUNS", raising=False)
    assert cli.runs_folder(None) == tmp_path / "runs"
    monkeypatch.setenv("GENXAI_RUNS", "/elsewhere")
    assert cli.runs_folder(None) == Path("/elsewhere")
    assert cli.runs_folder(Path("here")) == tmp_path / "here"
