"""GaussianDensity: the negative log-likelihood with a Ledoit-Wolf covariance."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf

from stssad_fast.tuning.density import GaussianDensity


@pytest.mark.parametrize(("rows", "dimensions"), [(200, 3), (20, 40), (3, 16), (5, 1)])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_equals_scipy(rows, dimensions, scale):
    random = np.random.default_rng(0)
    mix = random.normal(size=(dimensions, dimensions))
    embedding, other = (scale * random.normal(size=(n, dimensions)) @ mix for n in (rows, 30))
    density = GaussianDensity.fit(embedding)
    covariance = LedoitWolf().fit(embedding).covariance_
    expected = -multivariate_normal(embedding.mean(0), covariance).logpdf(other)
    np.testing.assert_allclose(density.score(other), expected, rtol=1e-9)
    assert density.score(density.mean[None])[0] == pytest.approx(density.constant)


def test_float32_embeddings_are_computed_in_float64():
    embedding = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    score = GaussianDensity.fit(embedding).score(embedding)
    assert score.dtype == np.float64
    np.testing.assert_array_equal(
        score, GaussianDensity.fit(embedding.astype(float)).score(embedding.astype(float))
    )


@pytest.mark.parametrize("value", [0.0, 0.1])
@pytest.mark.parametrize("rows", [2, 7])
def test_constant_embeddings(value, rows):
    embedding = np.full((rows, 5), value, dtype=np.float32)
    density = GaussianDensity.fit(embedding)
    far = density.score(embedding + 1)
    assert np.isfinite(density.score(embedding)).all()
    assert np.isfinite(far).all()
    assert (far > density.score(embedding)).all()


@pytest.mark.parametrize("rows", [2, 6])
def test_singular_covariance(rows):
    embedding = np.random.default_rng(0).normal(size=(rows, 4))
    embedding[:, 1] = 0
    assert np.isfinite(GaussianDensity.fit(embedding).score(embedding)).all()


def test_state_gives_the_same_bits():
    random = np.random.default_rng(0)
    density = GaussianDensity.fit(random.normal(size=(6, 4)))
    other = random.normal(size=(8, 4))
    again = GaussianDensity.from_state(density.state())
    np.testing.assert_array_equal(again.score(other), density.score(other))
