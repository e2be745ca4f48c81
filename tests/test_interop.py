"""pytorch-ood's and OpenOOD's conventions, and the real pytorch-ood where it can be imported."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import encoders, flows, interop, metrics, splits
from ecood.errors import InputError
from tests import small


def nchw(images):
    return images.transpose(0, 3, 1, 2)


def detector():
    flow = flows.Flow(lambda variables, key, x: -jnp.sum(x**2, axis=(1, 2, 3)), {})
    return ecood.score.spem(flow, encoders.pixels(), noise_strength=0.1)


@pytest.fixture(scope="module")
def scorer():
    flow = flows.Flow(lambda variables, key, x: -jnp.sum(x**2, axis=(1, 2, 3)), {})
    return ecood.score.fit(flow, encoders.pixels(), small.images(80), noise_strength=0.1)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed", exc_type=ImportError)


@pytest.fixture(scope="module")
def pytorch_ood(torch):
    try:
        import pytorch_ood.api
        import pytorch_ood.metrics
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit this torch
        pytest.skip(f"pytorch-ood cannot be imported: {error}")
    return pytorch_ood


def test_a_scorer_predicts_larger_numbers_for_ood(scorer):
    images = np.concatenate([small.images(9, seed=1), 255 - small.images(9, seed=2)])
    found = interop.PyTorchOOD(scorer).predict(nchw(images))
    np.testing.assert_array_equal(found, scorer(images))
    np.testing.assert_array_equal(interop.PyTorchOOD(scorer)(nchw(images) / 255.0), found)
    np.testing.assert_array_equal(interop.openood_confidence(found), -found)


def test_fit_leaves_ood_images_out():
    id_images, ood = small.images(60), 255 - small.images(20, seed=3)
    batches = [
        (nchw(np.concatenate([id_images[i : i + 20], ood[:5]])), np.array([7] * 20 + [-1] * 5))
        for i in range(0, 60, 20)
    ]
    batches.append((nchw(ood), np.full(20, -1)))
    adapter = interop.PyTorchOOD(detector())
    with pytest.raises(InputError, match=r"predict was called before fit"):
        adapter.predict(nchw(ood))
    assert adapter.fit(batches) is adapter
    state_of = splits.draw(id_images, calibration=0.0)
    state = detector().fit(jax.random.key(0), state_of)
    np.testing.assert_array_equal(adapter.state.bank, state.bank)
    assert adapter.to("cuda:0") is adapter
    knows = splits.remember(state_of.held_out)
    adapter = interop.PyTorchOOD(detector(), used=knows).fit(batches)
    assert not np.array_equal(adapter.state.bank, state.bank)


def test_their_false_positive_rate_is_ours_by_another_name():
    """Labels < 0 are OOD; FPR95 counts the ID images flagged when 95% of OOD are caught."""
    rng = np.random.default_rng(0)
    labels = np.array([3] * 300 + [-1] * 200)
    found = np.concatenate([rng.normal(0, 1, 300), rng.normal(1, 1, 200)]).round(1)
    id_scores, ood_scores = interop.split_by_label(found, labels)
    caught = np.sort(ood_scores)[::-1][int(np.ceil(0.95 * 200)) - 1]
    assert metrics.fpr_at_ood_tpr(id_scores, ood_scores) == np.mean(id_scores >= caught)


@pytest.mark.reference
def test_the_real_metrics_agree(torch, pytorch_ood):
    rng = np.random.default_rng(0)
    labels = torch.tensor([3] * 300 + [-1] * 200)
    found = np.concatenate([rng.normal(0, 1, 300), rng.normal(1, 1, 200)]).round(1)
    theirs = pytorch_ood.metrics.OODMetrics().update(torch.from_numpy(found), labels).compute()
    sets = interop.split_by_label(found, labels)
    assert abs(theirs["AUROC"] - metrics.auroc(*sets)) < 1e-6
    assert abs(theirs["FPR95TPR"] - metrics.fpr_at_ood_tpr(*sets)) < 1e-6


@pytest.mark.reference
def test_the_real_detector_interface_is_kept(torch, pytorch_ood, scorer):
    adapter = interop.PyTorchOOD(scorer)
    assert isinstance(adapter, pytorch_ood.api.Detector)
    images = small.images(40, seed=4)
    labels = torch.arange(40) % 10
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(nchw(images)) / 255, labels)
    loader = torch.utils.data.DataLoader(dataset, batch_size=16)
    for name in ("requires_fit", "hyperparameter_space", "info", "device", "to", "fit", "predict"):
        assert hasattr(pytorch_ood.api.Detector, name) and hasattr(adapter, name)
    found = torch.cat([adapter(x) for x, _ in loader])
    assert isinstance(found, torch.Tensor) and found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), scorer(images))
    adapter.fit(loader)
    assert len(adapter.state.bank) == 38
    both = torch.cat([adapter(torch.from_numpy(nchw(x))) for x in (images, 255 - images)])
    both_labels = torch.tensor([0] * 40 + [-1] * 40)
    auroc = pytorch_ood.metrics.AUROC().update(both, both_labels).compute()["AUROC"]
    assert abs(auroc - metrics.auroc(*interop.split_by_label(both, both_labels))) < 1e-6


def test_an_exported_scorer_predicts_and_needs_no_fit(scorer, tmp_path):
    scorer.export(tmp_path / "s.npz")
    exported = interop.PyTorchOOD(ecood.score.load_export(tmp_path / "s.npz"))
    images = small.images(5, seed=4)
    np.testing.assert_allclose(exported.predict(nchw(images)), scorer(images), rtol=1e-5)
    with pytest.raises(InputError, match=r"this model expects uint8 \[N, 8, 8, 3\]"):
        exported.predict(nchw(small.images(2, shape=(16, 16, 3))))
    with pytest.raises(InputError, match="an exported scorer is fitted already; leave fit out"):
        exported.fit([])


@pytest.mark.reference
def test_tensors_come_back_as_tensors(torch, scorer):
    images = torch.from_numpy(nchw(small.images(5, seed=4)))
    found = interop.PyTorchOOD(scorer).predict(images.float().div(255).requires_grad_())
    assert isinstance(found, torch.Tensor) and found.shape == (5,)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), r"shape \[2, 8, 8, 3\]; expected PyTorch's \[N, C, H"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \[3, 8, 8\]"),
        (np.full((2, 3, 8, 8), -1.8), "values from -1.8 to -1.8; .* leave out Normalize"),
        (np.full((2, 3, 8, 8), np.nan), "values from nan to nan"),
        (np.zeros((2, 3, 8, 8), np.int64), "images is int64"),
        (np.zeros((0, 3, 8, 8), np.uint8), "images is empty"),
        (np.zeros((2, 1, 8, 8), np.uint8), r"this model expects uint8 \[N, 8, 8, 3\]"),
        (np.zeros((2, 3, 16, 16), np.uint8), r"this model expects uint8 \[N, 8, 8, 3\]"),
    ],
)
def test_wrong_tensors_are_refused(scorer, x, words):
    with pytest.raises(InputError, match=words):
        interop.PyTorchOOD(scorer).predict(x)


def test_loaders_and_labels_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="no in-distribution images"):
        interop.PyTorchOOD(detector()).fit([(nchw(small.images(9)), np.full(9, -1))])
    with pytest.raises(InputError, match=r"scores \[3\] and labels \[2\]"):
        interop.split_by_label(np.zeros(3), np.zeros(2))


def test_importing_it_needs_no_torch():
    program = (
        "import sys; there = 'torch' in sys.modules; import ecood.interop;"
        "sys.exit(not there and 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


class Tensor:
    """What a PyTorch tensor does to those who take it for an array."""

    def __init__(self, array, dtype="float32", attached=True):
        self.array, self.dtype, self.attached = array, f"torch.{dtype}", attached

    def detach(self):
        return Tensor(self.array, self.dtype.removeprefix("torch."), False)

    def cpu(self):
        return self

    def float(self):
        return Tensor(np.float32(self.array), attached=False)

    def numpy(self):
        if self.attached:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_as_people_have_them(dtype):
    images = small.images(3)
    x = nchw(images) / np.float32(255)
    x[0, 0, 0, :2] = -1e-7, 1.0000001
    tensor = Tensor(x, dtype)
    expected = nchw(images)
    expected[0, 0, 0, :2] = 0, 255
    for given in (tensor, [Tensor(each, dtype) for each in x], x):
        np.testing.assert_array_equal(nchw(interop.from_tensor(given)), expected)


def test_tensors_that_are_no_arrays_are_one_sentence():
    with pytest.raises(InputError, match="a list was given of which no array can be made"):
        interop.from_tensor([Tensor(np.zeros((3, 8, 8))), Tensor(np.zeros((3, 4, 8)))])
    with pytest.raises(InputError, match="values from 0 to 1.003; expected"):
        interop.from_tensor(np.array([0, 1.003] * 96).reshape(1, 3, 8, 8))
