"""Few-seed statistics against values worked out by hand (t quantiles from a printed table)."""

# ruff: noqa: RUF001 - the typographic minus is what a table shows

from __future__ import annotations

import math

import pytest

from analysis.verdicts import Rule, Sample, Verdict, compare, fixed, interval, mean_sd, plain

RULE = Rule(confidence=0.95, margin=2.0, rounding=0.05)
T_2 = 4.302653  # t_{0.975} with 2 degrees of freedom
T_1 = 12.706205  # ... with 1


def sample(*values: float, asked: int = 3) -> Sample:
    return Sample(values, asked)


def test_mean_and_sample_standard_deviation_divide_by_n_and_n_minus_one() -> None:
    three = sample(92.0, 93.0, 97.0)
    assert three.mean == pytest.approx(94.0)
    assert three.sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))


def test_the_interval_is_t_times_the_standard_error() -> None:
    assert sample(92.0, 93.0, 94.0).half_width(0.95) == pytest.approx(T_2 * 1.0 / math.sqrt(3), rel=1e-6)
    assert sample(1.0, 3.0).half_width(0.95) == pytest.approx(T_1 * math.sqrt(2) / math.sqrt(2), rel=1e-6)


def test_one_value_has_no_spread_and_none_has_no_mean() -> None:
    assert (sample(90.0).sd, sample(90.0).half_width(0.95)) == (None, None)
    assert sample().mean is None


def test_a_paper_value_inside_a_narrow_interval_is_consistent() -> None:
    result = compare(sample(92.9, 93.0, 93.1), 93.2, RULE)
    assert result is not None and result.low is not None and result.high is not None
    half = T_2 * 0.1 / math.sqrt(3)
    assert result.difference == pytest.approx(-0.2)
    assert (result.low, result.high) == (pytest.approx(-0.2 - half, rel=1e-5), pytest.approx(-0.2 + half, rel=1e-5))
    assert result.verdict is Verdict.CONSISTENT


def test_a_paper_value_outside_the_interval_differs_on_either_side() -> None:
    for paper in (93.4, 92.6):
        result = compare(sample(92.9, 93.0, 93.1), paper, RULE)
        assert result is not None and result.verdict is Verdict.DIFFERS


def test_a_wide_interval_around_the_paper_value_is_inconclusive() -> None:
    result = compare(sample(92.0, 93.0, 94.0), 93.2, RULE)  # half-width 2.48 > 2
    assert result is not None and result.verdict is Verdict.INCONCLUSIVE


def test_a_wide_interval_that_excludes_the_paper_value_still_differs() -> None:
    result = compare(sample(52.0, 53.0, 54.0), 93.2, RULE)
    assert result is not None and result.verdict is Verdict.DIFFERS


def test_the_half_width_may_equal_the_margin() -> None:
    half = sample(92.0, 93.0, 94.0).half_width(0.95)
    assert half is not None
    for margin, verdict in ((half, Verdict.CONSISTENT), (half * (1 - 1e-9), Verdict.INCONCLUSIVE)):
        result = compare(sample(92.0, 93.0, 94.0), 93.2, Rule(margin=margin))
        assert result is not None and result.verdict is verdict


def test_one_seed_is_inconclusive_however_far_it_is() -> None:
    result = compare(sample(10.0), 93.2, RULE)
    assert result is not None
    assert (result.verdict, result.low, result.high) == (Verdict.INCONCLUSIVE, None, None)
    assert result.difference == pytest.approx(-83.2)


def test_nothing_measured_is_no_comparison() -> None:
    assert compare(sample(), 93.2, RULE) is None


def test_equal_seeds_are_compared_to_the_printed_digit() -> None:
    verdicts = {value: compare(sample(value, value, value), 93.2, RULE) for value in (93.2, 93.25, 93.15, 93.26, 93.3)}
    assert {value: result and result.verdict for value, result in verdicts.items()} == {
        93.2: Verdict.CONSISTENT,
        93.25: Verdict.CONSISTENT,
        93.15: Verdict.CONSISTENT,
        93.26: Verdict.DIFFERS,
        93.3: Verdict.DIFFERS,
    }


def test_the_rule_is_stated_with_its_numbers() -> None:
    words = Rule(confidence=0.9, margin=1.5, rounding=0.005).in_words()
    assert "90 %" in words and "at most 1.5" in words and "0.005" in words


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (sample(92.9, 93.0, 93.1), "93.0 ± 0.1 (n=3)"),
        (sample(92.0, 94.0), "93.0 ± 1.4 (2/3)"),
        (sample(93.25, asked=1), "93.2 (n=1)"),
        (sample(93.0), "93.0 (1/3)"),
        (sample(), "—"),
        (sample(50.0, 50.0, 50.0), "50.0 ± 0.0 (n=3)"),
        (sample(50.0, 50.01, 50.0), "50.0 ± <0.1 (n=3)"),
        (sample(*[1.0, 2.0] * 3), "1.5 ± 0.5 (n=6)"),
    ],
)
def test_a_cell_says_mean_spread_and_count(given: Sample, text: str) -> None:
    assert mean_sd(given, 1) == text


def test_signs_are_typographic_and_zero_has_none() -> None:
    assert [fixed(value, 1, signed=True) for value in (-1.25, 1.26, -0.04, 0.0)] == ["−1.2", "+1.3", "0.0", "0.0"]
    assert fixed(-0.04, 1) == "0.0"


def test_an_interval_is_written_with_its_ends() -> None:
    result = compare(sample(92.0, 93.0, 94.0), 93.2, RULE)
    assert result is not None and interval(result, 1) == "−0.2 [−2.7, +2.3]"
    single = compare(sample(93.0), 93.2, RULE)
    assert single is not None and interval(single, 1) == "−0.2"


def test_options_are_written_as_a_person_writes_them() -> None:
    values = [10.0, 0.1, 1e-05, True, False, None, "cross", 60000, [0.0, 0.9], 3.14159265]
    assert [plain(value) for value in values] == [
        "10", "0.1", "1e-05", "on", "off", "none", "cross", "60000", "(0, 0.9)", "3.142",
    ]  # fmt: skip
