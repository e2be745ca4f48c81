from ecood import encoders
from tests import small


def test_every_encoder_has_one_name_and_none_comes_twice(tmp_path):
    given = small.encoder()  # random features of another key than the control's
    encoders.save(tmp_path / "same.safetensors", given)
    found = encoders.offline(3, [given, encoders.load(tmp_path / "same.safetensors")])
    names = list(found)
    assert names[0] == "random_features" and found[names[0]] is given
    assert names[-2] == "pixels" and names[-1].startswith("random_features ")
    identities = [encoders.identity(encoder) for encoder in found.values()]
    assert len(set(identities)) == len(identities)
