import jax.numpy as jnp
import pytest

from ecood import encoders, flows
from ecood.digests import digest
from ecood.errors import InputError
from ecood.evaluation.roster import SPEM_FORMS, Guests, roster, without_flow
from tests import small
from tests.baselines import tiny

PIXELCNN = flows.PixelCNN((8, 8, 1), depth=1, levels=1, width=4, mixtures=2)


@pytest.mark.parametrize("make", [small.gaussian, lambda: flows.Flow(PIXELCNN, {})])
def test_around_a_density_without_a_latent_all_take_part_but_those_that_look_at_it(make):
    def names(flow):
        return set(roster(flow, small.encoder(), dict.fromkeys(SPEM_FORMS, 0.0), 1, Guests()))

    of_latent = {"dose_kde", "dose_svm", "intrinsic_dimension", "complexity_latent"}
    assert names(tiny.glow()) - names(make()) - {"last_level"} == of_latent


def test_what_is_the_same_around_every_flow_is_named_one_by_one():
    others = [small.encoder().replace(name="other")]
    same = without_flow(Guests(encoders=others, yours={"similarity_of_mine": (None, b"")}))
    given = tiny.glow(), encoders.pixels(), dict.fromkeys(SPEM_FORMS, 0.0), 1
    known = roster(*given, Guests(encoders=others))
    assert {name for name in known if name.startswith(("similarity", "embedding"))} == same
    assert "similarity_other" in same and "similarity_of_mine" not in same


def test_guests_are_known_by_all_that_they_are():
    def known(**guests):
        return digest(Guests(**guests).made())

    flow = tiny.glow()
    other = flow.replace(density=flow.density.clone(dtype=jnp.bfloat16))
    made = [known(), known(members=[flow]), known(members=[other]), known(backgrounds=[flow])]
    assert len({*made}) == 4
    assert known(members=[flow]) == known(members=[flow.replace()])


def test_an_encoder_of_a_name_that_is_taken_is_refused():
    given = small.flow(), small.encoder(), dict.fromkeys(SPEM_FORMS, 0.0), 1
    with pytest.raises(InputError, match="two detectors are named spem_pixels; give one of them"):
        roster(*given, Guests(encoders=[encoders.pixels()]))


def test_what_makes_no_detector_is_named():
    guests = Guests(yours={"mine": (lambda flow, encoder: None, b"")})
    with pytest.raises(InputError, match=r"mine\(flow, encoder\) gives a NoneType; expected a Det"):
        roster(small.flow(), small.encoder(), dict.fromkeys(SPEM_FORMS, 0.0), 1, guests)
