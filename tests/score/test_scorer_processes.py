"""Several processes and one scorer: written while it is read, pickled, spawned, forked."""

import concurrent.futures
import multiprocessing
import pickle
import threading

import numpy as np
import pytest

import ecood.score
from ecood import encoders
from ecood.errors import InputError
from tests import small


def test_a_reader_finds_a_scorer_while_another_process_writes_it(scorer, saved):
    stop = threading.Event()

    def write():
        while not stop.is_set():
            scorer.save(saved)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        try:
            for _ in range(20):
                assert len(ecood.score.load(saved).calibration) == 30
        finally:
            stop.set()
        writing.result()


def test_a_scorer_is_one_line_and_pickles(scorer):
    assert repr(scorer) == (
        "Scorer(images [8, 8, 3], Flow(Glow of images (8, 8, 3), 1,044 parameters), "
        "Encoder(random_features, 9,600 parameters), bank float32 [57, 512], lambda 0.1, "
        "calibrated on 30 images)"
    )
    images = small.images(9, seed=1)
    for gain in (True, False):
        fitted = (
            scorer
            if gain
            else ecood.score.fit(
                small.blank_flow(),
                encoders.pixels(),
                small.images(40),
                noise_strength=0.1,
                gain=False,
            )
        )
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted))(images), fitted(images))


def score_in_child(scorer, images, queue):
    try:
        queue.put(scorer(images))
    except InputError as error:
        queue.put(str(error))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
def test_a_process_of_its_own_scores_and_a_fork_says_why_it_does_not(scorer, method):
    images = small.images(9, seed=1)
    expected, context = scorer(images), multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=score_in_child, args=(scorer, images, queue))
    child.start()
    found = queue.get(timeout=120)
    child.join()
    if method == "spawn":
        np.testing.assert_array_equal(found, expected)
    else:
        assert "was forked from one that had used JAX" in found and "get_context('spawn')" in found
