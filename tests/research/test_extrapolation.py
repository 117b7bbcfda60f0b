"""Scaling laws: known parameters come back, and published points give the published optimum."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from llmstage.research.broken_law import fit_broken_law
from llmstage.research.curves import Curve
from llmstage.research.extrapolation import extrapolate, forecast
from llmstage.research.scaling_law import fit_scaling_law, objective_and_gradient

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "emergence-curves"


def published(name: str) -> np.ndarray:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    with path.open(encoding="utf-8") as file:
        return np.array([[float(cell) for cell in row.values()] for row in csv.DictReader(file)])


def test_a_law_without_noise_comes_back_with_its_exponents() -> None:
    rng = np.random.default_rng(0)
    sizes, tokens = 10 ** rng.uniform(7, 10, 60), 10 ** rng.uniform(9, 12, 60)
    losses = 1.7 + 400 / sizes**0.34 + 410 / tokens**0.28
    law = fit_scaling_law(sizes, tokens, losses, resamples=20)
    assert (law.alpha, law.beta, law.E) == pytest.approx((0.34, 0.28, 1.7), rel=2e-3)
    low, high = law.intervals["size_exponent"]
    assert low <= law.size_exponent <= high and law.size_exponent == pytest.approx(0.28 / 0.62, rel=2e-3)


def test_the_gradient_is_that_of_the_objective() -> None:
    from scipy.optimize import check_grad

    rng = np.random.default_rng(1)
    logs = (rng.normal(size=9), rng.normal(size=9), 1 + 0.002 * rng.normal(size=9))
    point = np.array([-1.0, -1.2, 0.3, 0.2, 0.4])
    assert (
        check_grad(lambda p: objective_and_gradient(p, *logs)[0], lambda p: objective_and_gradient(p, *logs)[1], point)
        < 1e-5
    )


def test_the_published_points_reach_the_published_optimum() -> None:
    points = published("chinchilla_points.csv")
    rows = points[np.argsort(points[:, 3])][:-5]
    law = fit_scaling_law(rows[:, 0], rows[:, 1], rows[:, 3], resamples=100)
    reference = json.loads((DATA / "reference_chinchilla.json").read_text())
    assert law.num == reference["n_points"] and law.objective <= 0.00101828
    assert abs(law.alpha - 0.3473) < 5e-4 and abs(law.beta - 0.3672) < 5e-4
    assert pytest.approx([reference[name] for name in "ABE"], rel=1e-4) == (law.A, law.B, law.E)
    low, high = law.intervals["size_exponent"]
    assert abs(low - 0.483) < 0.02 and abs(high - 0.561) < 0.02


def test_the_broken_law_finds_the_published_break_and_beats_a_power_law() -> None:
    points = published("bnsl_4digit_addition.csv")
    law = fit_broken_law(points[:, 0], points[:, 1], held_out=3)
    reference = json.loads((DATA / "reference_bnsl.json").read_text())["params"]
    assert law.rmsle <= 0.0007 and law.rmsle_held_out is not None and law.rmsle_held_out <= 0.012
    assert (law.d1, law.f1, law.c1) == pytest.approx([reference[name] for name in ("d1", "f1", "c1")], rel=1e-3)
    assert law.power_rmsle > 50 * law.rmsle and (law.power_rmsle_held_out or 0) > 50 * law.rmsle_held_out


def test_a_broken_law_without_noise_comes_back() -> None:
    x = np.geomspace(1, 1000, 16)
    y = 0.2 + 2 * x**-0.1 * (1 + (x / 40) ** (1 / 0.2)) ** (-1.5 * 0.2)
    law = fit_broken_law(x, y)
    assert law.d1 == pytest.approx(40, rel=0.02) and law.rmsle < 1e-4 and law.rmsle_held_out is None


def test_a_forecast_is_checked_on_the_point_it_did_not_see_and_goes_four_times_the_compute_far() -> None:
    x = np.array([1.0, 2, 4, 8, 16, 32]) * 1e7
    y = 1.5 + 3 * (x / 1e7) ** -0.4
    forecasted = forecast(Curve("loss", x, y, np.full(6, np.nan), "params"))
    assert forecasted is not None and forecasted.error < 0.03 and forecasted.next_x == pytest.approx(2 * x[-1])
    on_compute = forecast(Curve("loss", x, y, np.full(6, np.nan), "FLOPs"))
    assert on_compute is not None and on_compute.next_x == pytest.approx(4 * x[-1])
    assert extrapolate(x, y, 64e7) == pytest.approx(1.5 + 3 * 64**-0.4, abs=0.03)
    lost = Curve("loss", x, np.array([3.0, 1, 2, 3, 1, 2]), np.full(6, np.nan), "params")
    assert forecast(lost) is None
