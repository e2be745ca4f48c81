import pytest

from ecood import encoders
from ecood.errors import InputError
from ecood.evaluation.roster import SPEM_FORMS, Guests, roster
from tests import small


def test_an_encoder_of_a_name_that_is_taken_is_refused():
    given = small.flow(), small.encoder(), dict.fromkeys(SPEM_FORMS, 0.0), 1
    with pytest.raises(InputError, match="two detectors are named spem_pixels; give one of them"):
        roster(*given, Guests(encoders=[encoders.pixels()]))


def test_what_makes_no_detector_is_named():
    guests = Guests(yours={"mine": (lambda flow, encoder: None, b"")})
    with pytest.raises(InputError, match=r"mine\(flow, encoder\) gives a NoneType; expected a Det"):
        roster(small.flow(), small.encoder(), dict.fromkeys(SPEM_FORMS, 0.0), 1, guests)
