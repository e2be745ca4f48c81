import dataclasses
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood.perturb import noise_scale
from ecood.theory import bounds, quadrature
from experiments import crossing, gap_gaussian, gap_images, gap_plane, likelihood_gap, report
from tests import small


def measured_pair(copies=1):
    """Real arithmetic on a density whose expansion is exact: N(0.5, 0.1^2) for every pixel."""
    deviation = 0.1

    def log_prob(variables, key, x):
        each = -0.5 * ((x - 0.5) / deviation) ** 2 - jnp.log(deviation * jnp.sqrt(2 * jnp.pi))
        return jnp.sum(each, axis=(1, 2, 3))

    flow = small.flow()._replace(log_prob=log_prob, variables={})
    train, test = (small.images(n, seed=n) // 4 + 96 for n in (100, 60))
    scorer = ecood.score.fit(flow, small.encoder(), train, noise_strength=0.1, gain=False)
    bank = jnp.tile(scorer.state.bank, (copies, 1))
    scorer = dataclasses.replace(scorer, state=scorer.state._replace(bank=bank))
    flat = np.full((60, *small.SHAPE), 128, np.uint8)  # likelier than any ID image: the paradox
    flat[:, ::2] += np.random.default_rng(0).integers(0, 9, flat[:, ::2].shape, np.uint8)
    return gap_images.measure(jax.random.key(0), "id", "ood", scorer, test, flat)


@pytest.fixture(scope="module")
def gaussian_pair():
    return measured_pair()


def test_on_a_gaussian_the_expansion_is_the_measured_gap(gaussian_pair):
    curve = gaussian_pair.curve
    assert curve.measured[0] < 0
    moderate = gap_images.STRENGTHS < 0.2  # where no image costs more than 8 bits/dim
    assert curve.measured[moderate].max() > curve.measured[0] + 0.05
    np.testing.assert_allclose(curve.measured[moderate], curve.expansion[moderate], atol=0.03)
    assert (curve.known <= curve.estimated + 1e-9).all()
    assert (curve.known[moderate] <= curve.measured[moderate]).all()


def test_the_certificates_do_not_depend_on_the_size_of_the_bank(gaussian_pair):
    """The noise scale is no function of the nearest bank item."""
    curve = measured_pair(copies=20).curve
    np.testing.assert_allclose(curve.known, gaussian_pair.curve.known, rtol=1e-5)
    np.testing.assert_allclose(curve.estimated, gaussian_pair.curve.estimated, rtol=1e-5)


def test_the_entropy_bounds_hold_for_images_of_one_pixel():
    """A valley between two modes, noise largest there: the entropy falls, as in 4.5."""
    levels = np.arange(256)
    shares = sum(np.exp(-0.5 * ((levels - mode) / 16) ** 2) for mode in (98, 158))
    shares /= shares.sum()
    similarity = 1 - np.exp(-0.5 * ((levels - 128) / 12) ** 2).astype(np.float32)
    scales = np.maximum(0.06 * (1 - similarity), 1e-3).astype(np.float32)
    step = 1 / 4096  # sixteen points a level
    with jax.enable_x64(True):
        grid = quadrature.grid(-0.5 + step / 2, 1.5 - step / 2, 8192, 1)
        cells = 256.0 * (np.floor(256 * grid.axis)[None, :] == levels[:, None])
        pieces = jax.vmap(quadrature.smooth, (None, 0, 0))(grid, cells, scales.astype(float))
        noisy = float(quadrature.entropy(grid, quadrature.log(shares @ pieces)))
    entropy = float(bounds.dequantised_entropy(-shares @ np.log(shares), 1))
    # So the nearest item of a bank of one, whose entropy is 0, is no index in the sense of 4.2.
    assert noisy < bounds.indexed_noise_mean(entropy, 0.0, shares @ np.log(scales), 1)
    drawn = np.repeat(scales, np.round(100_000 * shares).astype(int))
    known, given = gap_images.perturbed_entropy(drawn, entropy, 1)
    assert known <= given < noisy
    assert known > -np.log(256)


def test_the_noise_scale_has_fewer_float32_values_than_it_is_charged_for():
    rng = np.random.default_rng(0)
    either = np.exp2(rng.uniform(-40, 0, 100_000)) * rng.choice([-1, 1], 100_000)
    similarity = np.concatenate([either, 1 - np.abs(either), [-1, 0, 1]]).astype(np.float32)
    dissimilarity = np.asarray(noise_scale(similarity, 1.0))
    assert dissimilarity.dtype == np.float32
    steps = dissimilarity.astype(float) * 2**24
    assert (steps == np.round(steps)).all() and steps.min() == 0 and steps.max() == 2**25
    assert (steps[steps > 2**24] % 2 == 0).all()
    # One for 0 and each step up to 1, and one for each second step from there to 2.
    assert np.log(1 + 2**24 + 2**23) <= gap_images.SCALE_ENTROPY


def test_the_figure_is_drawn_and_the_row_agrees_with_the_curve(gaussian_pair, tmp_path):
    row = gap_images.row(gaussian_pair)
    assert row["gap before"][0] == gaussian_pair.curve.measured[0]
    terms = gaussian_pair.terms
    assert float(terms.gap) == pytest.approx(row["gap before"][0], abs=1e-4)
    gap_images.figure(tmp_path / "images.png", [gaussian_pair] * 4)
    assert (tmp_path / "images.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-1, 1, 2], 0.5),
        ([1, 2, 3], 0.0),
        ([-1, -1, -1], None),
        ([1, -1, 3], 1.25),
        ([-np.inf, 1, 1], 1.0),
        ([1, np.nan, 1], 2.0),
        ([-1, 1, np.nan], 0.5),
        ([np.nan, np.nan, np.nan], None),
    ],
)
def test_where_a_curve_turns_positive_for_good(values, expected):
    got = crossing.turns_positive(np.array([0.0, 1.0, 2.0]), np.array(values, float))
    assert got == (expected if expected is None else pytest.approx(expected))


def test_a_certificate_that_begins_at_minus_infinity_is_not_given_for_no_noise():
    """Of the noise alone nothing is known without noise: its entropy is -inf."""
    rising = jnp.arange(len(gap_plane.STRENGTHS)) + 1.0
    floor = rising.at[0].set(-jnp.inf)
    zero = jnp.zeros_like(rising)
    law = gap_plane.Terms(zero, zero, rising, rising, floor)
    scores = jnp.tile(jnp.arange(4.0), (len(rising), 1))
    drawn = gap_plane.Drawn(scores, scores, jnp.arange(4.0))
    row = gap_plane.repair_row({"P": law, "Q": law}, {"P": drawn, "Q": drawn}, "Q")
    assert row["certified, indexed"] == 0 and row["measured"] is None
    assert row["certified, floor"] == pytest.approx(gap_plane.STRENGTHS[1])


def test_the_ends_of_what_is_certified_for_gaussians():
    sigmas = np.arange(5.0)
    assert gap_gaussian.first_positive(sigmas, np.array([-1, 2, 3, 1, -1])) == 1
    assert gap_gaussian.last_positive(sigmas, np.array([-1, 2, 3, 1, -1])) == 3
    assert gap_gaussian.last_positive(sigmas, -sigmas) is None
    case, scales = gap_gaussian.cases()[0], np.geomspace(0.02, 20.0, 60)
    with jax.enable_x64(True):
        bound = np.asarray(gap_gaussian.certified(case, jnp.asarray(scales)))
        exact = np.asarray(gap_gaussian.exact(case, jnp.asarray(scales)))
    start = gap_gaussian.first_positive(scales, bound)
    end = gap_gaussian.last_positive(scales, bound)
    assert 0.02 < start < end < 20
    np.testing.assert_array_equal(bound > 0, (start <= scales) & (scales <= end))
    assert (exact[start <= scales] > 0).all()  # to the end, where the proof has ended


@pytest.mark.slow
def test_quick_run_writes_a_report_that_keeps_the_theorems(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["likelihood_gap", "--quick", "--out", str(tmp_path)])
    report.main(likelihood_gap.run, likelihood_gap.build_parser())

    def refuse(constant):
        raise AssertionError(f"{constant} in the report")

    result = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert result["settings"]["seed"] == 0 and result["versions"]["jax"]
    gaussian, plane = result["sections"]["gaussian"], result["sections"]["plane"]
    for row in gaussian["tables"][0]["rows"]:
        value, error = row["measured"]
        assert abs(value - row["gap after"]) < 4.5 * error, row["case"]
        start = row["certified from"]
        assert start is None or row["exact"] <= start < row["certified to"], row["case"]
    for row in plane["tables"][1]["rows"]:
        assert row["certificate"] <= row["gap"], row
        assert row["KL(P' to p)"] > 0 and row["KL(Q' to p)"] > 0
    by_name = {row["Q"]: row for row in plane["tables"][0]["rows"]}
    between = by_name["between the modes"]
    assert between["gap before"] < 0 < between["measured"] < between["certified, indexed"]
    assert between["certified, indexed"] <= between["certified, mean"]
    assert between["certified, mean"] <= between["certified, floor"]
    assert by_name["on a mode"]["measured"] is None
    images = result["sections"]["images"]["tables"][0]["rows"][0]
    assert (images["ID"], images["OOD"]) == ("fashion_mnist", "mnist")
    assert images["gap before"][0] < 0 < images["turns positive"] < 0.2
    assert 0.5 < images["second order"] / images["turns positive"] < 2
    for section in result["sections"].values():
        assert (tmp_path / section["figure"]).read_bytes().startswith(b"\x89PNG")
    page = pathlib.Path(tmp_path / "report.md").read_text()
    assert all(row["case"] in page for row in gaussian["tables"][0]["rows"])
