"""Contract 2: the run directory is the truth, and survives a kill at any instant."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from genxai.configfile import load_config
from genxai.errors import GenxaiError
from genxai.files import append_jsonl, finite, read_jsonl, write_atomic, write_json
from genxai.runs import Run, State, run_signature


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "sweep" / "0123456789ab")
    run.plan(load_config("tiny"))
    return run


def test_the_signature_is_twelve_hex_digits_and_stable():
    assert run_signature(load_config("tiny"), "data") == run_signature(load_config("tiny"), "data")
    assert len(run_signature(load_config("tiny"), "data")) == 12
    int(run_signature(load_config("tiny"), "data"), 16)


@pytest.mark.parametrize("override", ["seed=1", "objective.lambda_gp=3", "train.threads=3", "train.precision=bf16"])
def test_what_can_change_the_result_changes_the_signature(override):
    assert run_signature(load_config("tiny", [override]), "d") != run_signature(load_config("tiny"), "d")


def test_other_data_is_another_run():
    assert run_signature(load_config("tiny"), "a") != run_signature(load_config("tiny"), "b")


@pytest.mark.parametrize("override", ["name=other", "run.device=cpu", "run.log_every=1", "run.trackers=[]"])
def test_what_cannot_change_the_result_leaves_the_signature(override):
    assert run_signature(load_config("tiny", [override]), "d") == run_signature(load_config("tiny"), "d")


def test_equal_numbers_give_equal_signatures_however_they_are_written():
    spelled = [run_signature(load_config("tiny", [f"objective.lambda_gp={v}"]), "d") for v in ("10", "10.0", "1e1")]
    assert len(set(spelled)) == 1


def test_a_file_that_spells_out_the_defaults_is_the_same_run(tmp_path):
    run = Run(tmp_path / "x" / "y")
    run.plan(load_config("tiny"))
    assert run_signature(load_config(run.path), "d") == run_signature(load_config("tiny"), "d")


def test_the_state_follows_from_the_files_alone(run, tmp_path):
    assert Run(tmp_path / "none").state is State.PENDING
    assert run.state is State.PENDING
    append_jsonl(run.provenance_file, {"restart": 0})
    assert run.state is State.STARTED
    write_json(run.failed_file, {"exception": "ValueError"})
    assert run.state is State.FAILED
    write_json(run.result_file, {"metrics": {}})
    assert run.state is State.DONE


def test_planning_again_renews_how_a_run_is_executed_and_nothing_else(run):
    run.plan(load_config("tiny", ["run.device=cpu", "name=other"]))
    assert run.config().run.device == "cpu" and run.config().name == "tiny"
    before = run.config_file.stat().st_mtime_ns
    run.plan(load_config("tiny", ["run.device=cpu"]))
    assert run.config_file.stat().st_mtime_ns == before


def test_a_configuration_changed_by_hand_is_refused(run):
    run.config_file.write_text(run.config_file.read_text().replace("epochs: ", "epochs: 1"))
    with pytest.raises(GenxaiError, match="changed by hand"):
        run.plan(load_config("tiny"))


@pytest.mark.parametrize("content", [b"[" * 50_000, b"\xff\xfe\x00", b"a: [1", b"seed: 2026-99-99"])
def test_a_configuration_that_cannot_be_read_is_one_message(run, content):
    run.config_file.write_bytes(content)
    with pytest.raises(GenxaiError, match=r"config\.yaml: cannot be read"):
        run.config()


def test_a_damaged_progress_file_is_nothing(run):
    for content in (b"", b"{", b"[]", b"\xff"):
        run.progress_file.write_bytes(content)
        assert run.progress() == {}


def test_local_weights_count_by_content_and_not_by_place(tmp_path):
    def signature(name: str, content: bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content)
        overrides = ["model.image.name=resnet18", "model.image.input_size=64", f"model.image.weights={path}"]
        return run_signature(load_config("tiny", overrides), "d")

    assert signature("a.pth", b"one") == signature("b.pth", b"one") != signature("b.pth", b"two!")


def test_numbers_that_are_not_finite_become_null_with_the_reason(tmp_path):
    write_json(tmp_path / "a.json", {"loss": float("nan"), "top": [float("inf")], "deep": {"x": float("-inf")}})
    text = (tmp_path / "a.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    value = json.loads(text)
    assert value["loss"] is None and value["loss_reason"] == "not a number"
    assert value["deep"] == {"x": None, "x_reason": "infinite"} and value["top"] == [None]
    assert finite({"a": 1.5}) == {"a": 1.5}


def test_a_torn_last_line_is_ignored_on_read_and_mended_on_append(tmp_path):
    path = tmp_path / "m.jsonl"
    append_jsonl(path, {"step": 1}, {"step": 2})
    with path.open("ab") as file:
        file.write(b'{"step": 3, "val')
    assert [line["step"] for line in read_jsonl(path)] == [1, 2]
    append_jsonl(path, {"step": 3})
    assert [line["step"] for line in read_jsonl(path)] == [1, 2, 3]


def test_a_line_damaged_in_the_middle_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"a": 1}\nnonsense\n{"a": 2}\n')
    with pytest.raises(GenxaiError, match="line 2"):
        read_jsonl(path)


def test_a_failed_write_leaves_the_published_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_atomic(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["result.json"]


def test_a_process_killed_while_publishing_never_shows_half_a_file(tmp_path):
    path = tmp_path / "big.json"
    code = (
        "import sys, pathlib; from genxai.runs import write_atomic\n"
        "n = 0\nwhile True:\n    n += 1\n    write_atomic(pathlib.Path(sys.argv[1]), str(n % 10) * 300_000)\n"
    )
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)])
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = path.read_text()
        assert len(content) == 300_000 and len(set(content)) == 1


def test_one_process_at_a_time_holds_a_run_and_a_kill_releases_it(run):
    code = (
        "import sys, pathlib, time; from genxai.runs import Run\n"
        "with Run(pathlib.Path(sys.argv[1])).lock() as free:\n    print(free, flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().strip() == "True"
    assert run.is_running()
    with run.lock() as free:
        assert not free
    process.kill()
    process.wait()
    assert not run.is_running()


def test_a_folder_that_cannot_be_made_is_a_plain_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GenxaiError, match="--runs"):
        Run(tmp_path / "file" / "run").plan(load_config("tiny"))


def test_a_folder_that_is_called_as_a_built_in_encoder_changes_no_signature(tmp_path, monkeypatch):
    config = load_config("tiny")
    before = run_signature(config, "data")
    for name in ("small", "none", "imagenet"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_signature(config, "data") == before
