"""The reconciler SIGKILLed between any two of its system calls that write, and in the middle of a write."""

import random
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from light_sweeps import LightSweep
from writes import Fault

#: cases at a time: they mostly wait
AT_ONCE = 4


def check(folder, fault, findings) -> bool:
    """Have the fault happen, start again, compare; whether it did happen."""
    sweep = LightSweep(folder)
    code = sweep.run(fault)
    assert code in (0, -signal.SIGKILL), sweep.said()
    assert sweep.run() == 0, sweep.said()
    assert sweep.jobs_begun() == 3, "a run was started twice, or not at all"
    assert sweep.findings() == findings
    assert "Traceback" not in sweep.said(), sweep.said()
    return code != 0


def check_all(folder, faults, findings) -> int:
    """How many of the faults happened: the last calls are sometimes not made, since passes are counted by the clock."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        cases = [pool.submit(check, folder / f"{fault.kind}{fault.at}", fault, findings) for fault in faults]
        return sum(case.result() for case in cases)


def test_killed_between_any_two_writes_nothing_is_lost_repeated_or_changed(tmp_path, undisturbed):
    findings, calls = undisturbed
    assert findings["finished"] == sorted(set(findings["finished"])) and len(findings["points"]) == 3
    chooser = random.Random(20261123)
    # one of each kind of call, and a few of the rest; the next test takes many more
    kinds = {call.split(".")[0].split()[0] for call in calls}
    assert kinds >= {"open", "write", "os", "start"}
    starts = [number for number, call in enumerate(calls, 1) if call.startswith("start")]
    around = [number + offset for number in starts[:1] for offset in range(-1, 4)]
    chosen = sorted({*around, *chooser.sample(range(1, len(calls) + 1), 9)})
    faults = [Fault(number) for number in chosen] + [Fault(chosen[3], "torn"), Fault(chosen[-4], "torn")]
    assert check_all(tmp_path, faults, findings) >= len(faults) - 3


@pytest.mark.slow
def test_killed_before_every_write_of_the_first_pass_and_every_other_one_after_it(tmp_path, undisturbed):
    """And in the middle of writes: all those of the pass, half of the others."""
    findings, calls = undisturbed
    starts = [number for number, call in enumerate(calls, 1) if call.startswith("start")]
    # from the first record of the sweep until its second job is started
    of_the_pass = range(1, starts[1])
    chooser = random.Random(20261128)
    later = range(of_the_pass.stop, len(calls) + 1)
    numbers = [*of_the_pass, *sorted(chooser.sample(later, len(later) // 2))]
    faults = [Fault(number) for number in numbers]
    faults += [Fault(number, "torn") for number in numbers if calls[number - 1].startswith("write")]
    assert check_all(tmp_path, faults, findings) >= 0.9 * len(faults)
