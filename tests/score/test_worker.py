"""Workers that score apart, in processes of multiprocessing and of Ray."""

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import ecood.score
from ecood.errors import InputError
from ecood.score import Worker
from tests import small

SCORER = str(pathlib.Path(__file__).parent / "scorer_0_1")
IMAGES = small.images(40, shape=(8, 8, 1))


@dataclasses.dataclass(frozen=True)
class Dying(Worker):
    """A worker whose process is killed, once, while it works on a batch."""

    marker: str = ""

    def __call__(self, batch):
        found = super().__call__(batch)
        with contextlib.suppress(FileExistsError):
            pathlib.Path(self.marker).touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
        return found


def in_processes(worker, shards):
    """The function of that name on the page."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    (block,) = re.findall(r"```python\n([^`]*def in_processes.*?)```", page, re.DOTALL)
    names: dict = {}
    exec(block, names)
    return names["in_processes"](worker, shards)


@pytest.fixture(scope="module")
def alone():
    return ecood.score.load(SCORER).detect(IMAGES)


ONE, HALF = IMAGES[0], IMAGES[0, :4]
RAGGED = np.array([ONE, HALF, None], dtype=object)[:2]


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"image": [ONE, HALF]}, "images is a ragged sequence; .* resize the images to one size"),
        ({"image": RAGGED}, "images is a ragged sequence; .* resize the images to one size"),
        ({"path": 1, "row": 2}, "the batch has the columns path, row; expected its images under"),
        ({}, r"the batch has the columns \(none\); expected its images under image"),
    ],
)
def test_batches_that_hold_no_array_of_images_are_refused(batch, words):
    with pytest.raises(InputError, match=words):
        Worker(SCORER)(batch)


def test_images_of_one_size_may_come_in_a_list(alone):
    for images in (list(IMAGES), list(IMAGES[..., 0])):
        np.testing.assert_array_equal(Worker(SCORER)({"image": images})["score"], alone.score)


@pytest.mark.slow
def test_spawned_processes_score_as_one_and_a_killed_ones_shards_are_done_again(tmp_path, alone):
    shards = [{"image": IMAGES[i : i + 9], "row": np.arange(40)[i : i + 9]} for i in (0, 9, 18, 27)]
    shards.append({"image": IMAGES[36:], "row": np.arange(36, 40)})
    found = in_processes(Dying(SCORER, marker=str(tmp_path / "died")), shards)
    assert (tmp_path / "died").exists()
    np.testing.assert_array_equal(np.concatenate([each["row"] for each in found]), np.arange(40))
    for name, values in alone._asdict().items():
        np.testing.assert_array_equal(np.concatenate([each[name] for each in found]), values)


def test_a_worker_takes_grey_images_without_channels_and_refuses_what_its_scorer_does(alone):
    worker = Worker(SCORER)
    found = worker({"image": IMAGES[..., 0], "path": ["a"] * 40})
    np.testing.assert_array_equal(found["score"], alone.score)
    assert found["path"] == ["a"] * 40 and "image" not in found
    with pytest.raises(InputError, match="9, 8"):
        worker({"image": np.zeros((2, 9, 8, 1), np.uint8)})


# In a process of its own: Ray's warnings are its own affair.
RAY = """
import sys
import numpy as np, ray, ray.data
from tests.score.test_worker import SCORER, Dying

folder, out = sys.argv[1:]
options = {"include_dashboard": False, "log_to_driver": False}
ray.init(num_cpus=4, object_store_memory=2**27, **options)  # two read while two score
images = ray.data.read_images(folder, mode="L", include_paths=True, override_num_blocks=4)
found = images.map_batches(
    Dying,
    fn_constructor_kwargs={"scorer": SCORER, "marker": out + ".died"},
    compute=ray.data.ActorPoolStrategy(size=2),
    batch_size=8,
).take_all()
np.savez(out, **{name: [row[name] for row in found] for name in found[0]})
"""


@pytest.mark.reference
def test_ray_scores_a_folder_as_one_process_and_does_a_killed_workers_shard_again(tmp_path, alone):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    folder, out = tmp_path / "images", tmp_path / "found.npz"
    folder.mkdir()
    for i, image in enumerate(IMAGES):
        Image.fromarray(image[..., 0]).save(folder / f"{i:02}.png")
    done = subprocess.run(
        [sys.executable, "-c", RAY, folder, out],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert out.with_name("found.npz.died").exists()
    with np.load(out) as found:
        order = np.argsort(found["path"])
        stems = [int(pathlib.Path(path).stem) for path in found["path"][order]]
        assert stems == list(range(40))
        for name, values in alone._asdict().items():
            np.testing.assert_array_equal(found[name][order], values)
