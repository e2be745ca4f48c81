import jax
import jax.numpy as jnp
import numpy as np

from ecood.perturb import noise_of, noise_scale, perturb


def test_noise_scale_is_the_papers_form_and_never_negative():
    similarity = jnp.array([1.0 + 1e-7, 1.0, 0.5, 0.0, -1.0])
    np.testing.assert_allclose(noise_scale(similarity, 0.2), [0, 0, 0.1, 0.2, 0.4], atol=1e-7)


def test_perturbation_has_the_given_scale():
    x = jnp.full((64, 64, 3), 0.5)
    noise = np.asarray(perturb(jax.random.key(0), x, 0.1) - x)
    tolerance = 4 / np.sqrt(noise.size)
    assert abs(noise.mean()) < 0.1 * tolerance
    assert abs(noise.std() / 0.1 - 1) < tolerance
    assert np.array_equal(perturb(jax.random.key(0), x, 0.0), x)


def test_it_is_not_clipped():
    assert float(perturb(jax.random.key(0), jnp.zeros((8, 8, 1)), 1.0).min()) < 0


def test_noise_is_what_the_key_draws_for_the_images_shape():
    """So calibrations hold, however it is drawn."""
    key, x = jax.random.key(2), jnp.zeros((4, 5, 3))
    np.testing.assert_array_equal(perturb(key, x, 1.0), jax.random.normal(key, x.shape))


def test_vmapped_equals_one_by_one():
    keys = jax.random.split(jax.random.key(0), 5)
    x = jax.random.uniform(jax.random.key(1), (5, 8, 8, 3))
    scales = jnp.linspace(0, 1, 5)
    together = jax.jit(jax.vmap(perturb))(keys, x, scales)
    alone = jnp.stack([perturb(k, one, s) for k, one, s in zip(keys, x, scales, strict=True)])
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-7)


def test_antithetic_perturbations_come_in_pairs_and_others_are_independent():
    assert [noise_of(i, antithetic=True) for i in range(4)] == [(0, 1), (0, -1), (1, 1), (1, -1)]
    assert [noise_of(i) for i in range(3)] == [(0, 1), (1, 1), (2, 1)]
