"""Images are told apart by their content, from the draw of the parts to a scorer's calibration."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ecood.score
from ecood import encoders, flows, memory, splits
from ecood.errors import InputError
from ecood.splits import Split
from tests import small
from tests.drawn import distinct_images, quickly


def contents(images) -> list[bytes]:
    return [image.tobytes() for image in np.asarray(images)]


@quickly(max_examples=40)
@given(distinct_images(40, 300), st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.25]))
def test_the_parts_are_disjoint_hold_every_image_and_have_their_shares(images, seed, calibration):
    split = splits.draw(images, seed=seed, held_out=0.1, calibration=calibration)
    assert sorted(sum(map(contents, split), [])) == sorted(contents(images))
    assert len(split.held_out) == int(0.1 * len(images))
    assert len(split.calibration) == int(calibration * len(images))
    for part in split:
        assert part.dtype == np.uint8 and part.shape[1:] == images.shape[1:]
    assert splits.check_split(split).train is split.train


@quickly(max_examples=20)
@given(distinct_images(40, 100), st.integers(1, 3), st.randoms(use_true_random=False))
def test_copies_of_an_image_count_as_one_wherever_they_are(images, times, random):
    copies = [*images, *(random.choice(images) for _ in range(times * len(images)))]
    random.shuffle(copies)
    split = splits.draw(np.stack(copies))
    assert sorted(sum(map(contents, split), [])) == sorted(contents(images))


def test_a_draw_is_random_and_its_seed_decides_it():
    images = small.images(200)
    one, again, other = (splits.draw(images, seed=seed) for seed in (3, 3, 4))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert contents(one.held_out) != contents(other.held_out)
    place = {content: i for i, content in enumerate(contents(images))}
    places = [place[content] for content in contents(one.held_out)]
    assert places == sorted(places)  # in the order given
    assert max(places) - min(places) > 50  # and not a block of it


def test_the_shares_when_none_are_given():
    drawn = splits.draw(small.images(400))
    assert [len(part) for part in drawn] == [340, 20, 40]
    assert [len(part) for part in splits.as_split(small.images(400))] == [380, 20, 0]
    many = np.arange(25_000, dtype="<u4").view(np.uint8).reshape(-1, 2, 2, 1)
    assert len(splits.draw(many).calibration) == 2000


@pytest.mark.parametrize(
    ("held_out", "calibration", "sizes"),
    [(0.29, 0.57, (14, 29, 57)), (0.28, 0.07, (65, 28, 7)), (0.1, 0.3, (60, 10, 30))],
)
def test_parts_are_as_large_as_decimal_shares_say(held_out, calibration, sizes):
    drawn = splits.draw(small.images(100), held_out=held_out, calibration=calibration)
    assert tuple(map(len, drawn)) == sizes


@pytest.mark.parametrize(
    ("count", "options", "words"),
    [
        (19, {}, "19 distinct images were given and one in 20 is set apart; give at least 20"),
        (30, {"held_out": 0.2, "calibration": 0.01}, "30 distinct images .* at least 100"),
        (80, {"held_out": 0.0}, "held_out is 0.0; expected a share of the images"),
        (80, {"held_out": 0.6, "calibration": 0.4}, "that leave some to train on"),
        (80, {"held_out": float("nan")}, "held_out is nan"),
        (80, {"held_out": "0.1"}, "held_out is '0.1'"),
        (80, {"calibration": -0.1}, "calibration is -0.1; expected a share of the images, 0 or"),
        (80, {"calibration": None}, "calibration is None"),
    ],
)
def test_shares_that_make_no_parts_are_refused(count, options, words):
    with pytest.raises(InputError, match=words):
        splits.draw(small.images(count), **options)


def test_copies_are_not_enough_images():
    with pytest.raises(InputError, match="1 distinct image was given"):
        splits.draw(np.repeat(small.images(1), 100, axis=0))


SPLIT = small.split(100, calibration=0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"held_out": np.concatenate([SPLIT.held_out, SPLIT.train[7:8]])},
            "the held_out part shares 1 image of 6 with the train part",
        ),
        (
            {"calibration": SPLIT.train[:3]},
            "the calibration part shares 3 images of 3 with the train part",
        ),
        (
            {"calibration": np.concatenate([SPLIT.calibration, SPLIT.held_out])},
            "the calibration part shares 5 images of 15 with the held_out part",
        ),
        ({"train": SPLIT.train[:0]}, "images is empty"),
        ({"held_out": SPLIT.held_out[:0]}, "images is empty"),
        ({"held_out": SPLIT.held_out[..., :1]}, r"this model expects uint8 \[N, 8, 8, 3\]"),
        ({"calibration": SPLIT.calibration / 255}, "images is float64"),
    ],
)
def test_parts_that_share_images_or_are_none_are_refused(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        splits.check_split(SPLIT._replace(**changes))
    assert "\n" not in str(caught.value)


def test_an_array_is_no_split_and_an_empty_calibration_part_is_fine():
    with pytest.raises(InputError, match=r"a ndarray was given where a Split is expected; make"):
        splits.check_split(small.images(80))
    assert splits.as_split(SPLIT) == splits.check_split(SPLIT)
    for empty in (SPLIT.calibration[:0], [], None):
        assert len(splits.check_split(SPLIT._replace(calibration=empty)).calibration) == 0


@quickly(max_examples=30)
@given(distinct_images(20, 60), st.randoms(use_true_random=False))
def test_what_a_model_was_trained_on_is_told_from_a_twentieth_that_is_new(images, random):
    known = np.ones(len(images), bool)
    known[random.sample(range(len(images)), len(images) // 20)] = False
    split = splits.draw(images, calibration=0.0, used=splits.remember(images[known]))
    for part, expected in zip(split, (images[known], images[~known], images[:0]), strict=True):
        np.testing.assert_array_equal(part, expected)
    with pytest.raises(InputError, match=f"{len(images)} of them used in training"):
        splits.draw(images, calibration=0.0, used=splits.remember(images))


@quickly(max_examples=30)
@given(distinct_images(40, 200), st.floats(0.0, 1.0), st.integers(0, 3))
def test_nothing_that_was_used_is_set_apart(images, share, seed):
    """And where little is new, held-out and calibration images have their shares of that."""
    known = np.random.default_rng(seed).uniform(size=len(images)) < share
    used, new = splits.remember(images[known]), int((~known).sum())
    if new < 3:
        with pytest.raises(InputError, match=f"{len(images) - new} of them used in training, and"):
            splits.draw(images, seed=seed, used=used)
        return
    split = splits.draw(images, seed=seed, used=used)
    assert sorted(sum(map(contents, split), [])) == sorted(contents(images))
    for part in (split.held_out, split.calibration):
        assert splits.count_known(part, used) == 0
    counts = len(split.calibration), len(split.held_out)
    wanted = int(0.1 * len(images)), int(0.05 * len(images))
    assert counts == (wanted if sum(wanted) <= new else (new * 2 // 3, new - new * 2 // 3))


def test_of_an_array_nothing_that_a_model_remembers_is_held_out():
    images = small.images(100)
    flow = small.gaussian().replace(trained_on=splits.remember(images[:60]))
    encoder = encoders.pixels().replace(trained_on=splits.remember(images[50:90]))
    used = splits.used_by(flow, encoder, small.encoder())
    assert splits.count_known(images, used) == 90
    assert splits.used_by(small.gaussian(), small.encoder()) is None
    split = splits.as_split(images, flow, encoder, small.encoder())
    assert len(split.held_out) == 5 and splits.count_known(split.held_out, used) == 0
    new = splits.new_images(images, flow.trained_on, None, encoder.trained_on)
    np.testing.assert_array_equal(new, images[90:])
    assert splits.as_split(split, flow, encoder) == split
    for model, words in ((flow, "train the flow"), (encoder, "train the encoder")):
        known = split._replace(held_out=images[55:56], train=images[:50])
        with pytest.raises(InputError, match=f"1 of 1 image was used to {words}"):
            splits.as_split(known, model)


def test_fingerprints_are_of_the_pixels_alone_and_differ_with_any_of_them():
    images = small.images(50)
    prints = splits.fingerprints(images)
    assert prints.dtype == np.uint64 and prints.shape == (50,) and len(set(prints)) == 50
    np.testing.assert_array_equal(splits.fingerprints(images[::-1]), prints[::-1])
    np.testing.assert_array_equal(splits.fingerprints(np.asfortranarray(images)), prints)
    image = images[:1]
    variants = [image]
    for place in range(image.size):
        changed = image.copy()
        changed.flat[place] ^= 1
        variants.append(changed)
    variants += [image.transpose(0, 2, 1, 3), image[:, ::-1], image[..., ::-1]]
    assert len(set(splits.fingerprints(np.concatenate(variants)))) == len(variants)
    assert splits.fingerprints(images[:0]).shape == (0,)


def test_fingerprints_never_change_as_files_hold_them():
    images = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1)
    assert [f"{x:016x}" for x in splits.fingerprints(images)] == [
        "86cc02f5118805c6",
        "fc8df9f03e24eb74",
    ]


@quickly(max_examples=30)
@given(distinct_images(1, 80), st.integers(0, 80))
def test_remembered_images_are_counted_whatever_their_order_and_number(images, count):
    count = min(count, len(images))
    remembered = splits.remember(np.concatenate([images[:count][::-1], images[:count]]))
    assert remembered.dtype == np.uint32 and remembered.shape == (count, 2)
    np.testing.assert_array_equal(remembered, splits.remember(images[:count]))
    assert splits.count_known(images, remembered) == count
    assert splits.count_known(images, jax.numpy.asarray(remembered)) == count
    assert splits.count_known(images, None) == 0
    if count:
        with pytest.raises(InputError, match=f"^{count} of {len(images)} .* used to dream"):
            splits.check_new(images, remembered, "to dream")
    else:
        splits.check_new(images, remembered, "to dream")


def test_a_single_known_image_is_refused_and_the_unknown_is_not():
    images, other = small.images(100), small.images(400, seed=1)
    other[77] = images[3]
    with pytest.raises(InputError, match="1 of 400 images was used to train the flow, so these"):
        splits.check_new(other, splits.remember(images), "to train the flow")
    splits.check_new(np.delete(other, 77, axis=0), splits.remember(images), "to train the flow")
    splits.check_new(other, None, "to train the flow")


# What models and scorers make of it ---------------------------------------------------------------


@pytest.fixture(scope="module")
def split():
    return small.split(100, calibration=0.2)


@pytest.fixture(scope="module")
def parts(split):
    """A flow and an encoder that remember images of their own."""
    flow = small.blank_flow().replace(trained_on=splits.remember(small.images(9, seed=5)))
    encoder = encoders.pixels().replace(trained_on=splits.remember(small.images(9, seed=6)))
    return flow, encoder


@pytest.fixture(scope="module")
def scorer(parts, split):
    return ecood.score.fit(*parts, split._replace(calibration=[]), noise_strength=0.1)


def test_a_models_file_remembers_its_images_and_old_ones_do_not_know(parts, tmp_path):
    flow, encoder = parts
    for room, model in ((flows, flow), (encoders, encoder)):
        path = tmp_path / "model.safetensors"
        room.save(path, model)
        np.testing.assert_array_equal(room.load(path).trained_on, model.trained_on)
        room.save(path, model.replace(trained_on=None))
        assert room.load(path).trained_on is None


def test_a_split_with_a_calibration_part_gives_a_calibrated_scorer(parts, scorer, split):
    calibrated = ecood.score.fit(*parts, split, noise_strength=0.1)
    assert scorer.calibration is None
    np.testing.assert_array_equal(calibrated.calibration, np.sort(scorer(split.calibration)))
    np.testing.assert_array_equal(calibrated.state.bank, scorer.state.bank)
    assert len(calibrated.state.bank) == len(split.train)


def test_of_an_array_a_twentieth_is_held_out(parts):
    images = small.images(80)
    of_array = ecood.score.fit(*parts, images, noise_strength=0.1)
    of_split = ecood.score.fit(*parts, splits.as_split(images), noise_strength=0.1)
    assert of_array.calibration is None and len(of_array.state.bank) == 76
    assert splits.count_known(images, of_array.fitted_on) == 80
    np.testing.assert_array_equal(of_array(images), of_split(images))


FRESH = small.images(60, seed=9)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (small.images(9, seed=5)[:1], "1 of 61 images was used to train the flow"),
        (small.images(9, seed=6)[2:4], "2 of 62 images were used to train the encoder"),
        (small.split(100, calibration=0.2).train[:1], "1 of 61 images was used for the memory b"),
        (small.split(100, calibration=0.2).held_out, "5 of 65 images were used for the memory"),
    ],
)
def test_images_that_anything_was_made_from_calibrate_nothing(scorer, known, words):
    with pytest.raises(InputError, match=words):
        scorer.calibrate(np.concatenate([FRESH, known]))


@pytest.mark.parametrize("dtype", memory.STORAGE)
def test_however_the_bank_is_stored_its_images_are_known_and_fresh_ones_are_not(
    scorer, split, dtype
):
    bank = memory.compress(scorer.state.bank, 30, dtype)
    stored = dataclasses.replace(scorer, state=scorer.state.replace(bank=bank))
    calibrated = stored.calibrate(FRESH)
    assert calibrated.calibration.shape == (60,) and calibrated.calibration.dtype == np.float32
    assert np.all(np.diff(calibrated.calibration) >= 0)
    with pytest.raises(InputError, match="75 of 75 images were used for the memory bank"):
        stored.calibrate(split.train)


@pytest.mark.parametrize("which", ["flow", "encoder"])
@pytest.mark.parametrize("part", ["held_out", "calibration"])
def test_a_model_that_was_trained_on_other_parts_cannot_be_fitted_around(parts, split, which, part):
    model = dict(zip(("flow", "encoder"), parts, strict=True))
    trained_on = splits.remember(np.concatenate([split.train, getattr(split, part)[:1]]))
    model[which] = model[which].replace(trained_on=trained_on)
    count = len(getattr(split, part))
    with pytest.raises(InputError, match=f"1 of {count} images was used to train the {which}"):
        ecood.score.fit(*model.values(), split, noise_strength=0.1)
    model[which] = model[which].replace(trained_on=splits.remember(split.train))
    assert ecood.score.fit(*model.values(), split, noise_strength=0.1).unknown == []


def test_a_scorer_says_of_which_parts_nothing_is_known(parts, split, scorer):
    flow, encoder = parts
    assert scorer.unknown == []
    unknown = ecood.score.fit(flow.replace(trained_on=None), encoder, split, noise_strength=0.1)
    assert unknown.unknown == ["flow"]
    assert dataclasses.replace(scorer, fitted_on=None).unknown == ["bank"]


def test_split_is_a_tuple_of_three_parts():
    assert Split._fields == ("train", "held_out", "calibration")
