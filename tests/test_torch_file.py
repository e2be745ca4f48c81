import collections
import fractions
import io
import pickle
import zipfile

import numpy as np
import pytest

from ecood import torch_file
from ecood.errors import InputError
from tests import torch_files


def torch():
    return pytest.importorskip("torch", reason="PyTorch writes the file")


@pytest.fixture(params=[False, True], ids=["legacy", "zip"])
def saved(request, tmp_path):
    """A state dict with views, strides and several types, as PyTorch writes it."""
    library = torch()
    library.manual_seed(0)
    base = library.randn(4, 6)
    state = collections.OrderedDict(
        base=base,
        transposed=base.T,
        part=base[1:3, ::2],
        scalar=library.tensor(3),
        half=library.randn(3).half(),
        brain=library.randn(3).bfloat16(),
        empty=library.zeros(0, 2),
        parameter=library.nn.Parameter(library.randn(2)),
        flags=library.tensor([True, False]),
    )
    path = tmp_path / "state.pth"
    library.save(state, path, _use_new_zipfile_serialization=request.param)
    return path, {name: value.detach() for name, value in state.items()}


@pytest.mark.reference
def test_reads_what_pytorch_wrote(saved):
    path, state = saved
    arrays = torch_file.read_tensors(path)
    assert list(arrays) == list(state)
    for name, tensor in state.items():
        array = arrays[name]
        assert str(array.dtype) == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(array.astype(np.float32), tensor.float().numpy())


@pytest.mark.reference
def test_a_truncated_file_is_refused(saved, tmp_path):
    path, _ = saved
    for share in (0.1, 0.5, 0.9, 0.999):
        cut = tmp_path / "cut.pth"
        cut.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(InputError, match="cut.pth"):
            torch_file.read_tensors(cut)


class Attack:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def legacy(tree, keys=()):
    """The older format: magic number, protocol, system, the object, the storages' keys."""
    parts = [torch_file.LEGACY_MAGIC, 1001, {"little_endian": True}, tree, list(keys)]
    return b"".join(pickle.dumps(part, protocol=2) for part in parts)


def archive(tree):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("archive/data.pkl", pickle.dumps(tree, protocol=2))
    return file.getvalue()


@pytest.mark.parametrize("wrap", [legacy, archive])
@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ({"weight": Attack()}, "names __builtin__.exec, which is neither"),
        (collections.OrderedDict(weight=Attack()), "names __builtin__.exec"),
        ({"weight": 1}, "holds a int among its tensors"),
        ([1, 2], "holds no dict of tensors"),
        ({3: 1}, "has a key that is no string but int"),
    ],
)
def test_anything_but_tensors_is_refused_and_nothing_is_executed(wrap, tree, problem, tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(wrap(tree))
    with pytest.raises(InputError, match=problem):
        torch_file.read_tensors(path)


STORAGE = object()


class Forged:
    """A tensor of a four-element storage, with whatever bounds the test wants."""

    def __init__(self, *bounds):
        self.bounds = bounds

    def __reduce__(self):
        return torch()._utils._rebuild_tensor_v2, (STORAGE, *self.bounds, False, {})


class ForgingPickler(pickle.Pickler):
    def persistent_id(self, value):
        return ("storage", torch().FloatStorage, "0", "cpu", 4) if value is STORAGE else None


@pytest.mark.reference
@pytest.mark.parametrize(
    ("bounds", "inside"),
    [
        ((0, (2, 2), (2, 1)), True),
        ((1, (2, 2), (2, 1)), False),
        ((0, (5,), (1,)), False),
        ((0, (2,), (4,)), False),
        ((3, (2,), (-1,)), False),
        ((-1, (1,), (1,)), False),
    ],
)
def test_a_tensor_cannot_reach_outside_its_storage(bounds, inside, tmp_path):
    pickled = io.BytesIO()
    ForgingPickler(pickled, protocol=2).dump({"weight": Forged(*bounds)})
    path = tmp_path / "file.pth"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("archive/data.pkl", pickled.getvalue())
        zipped.writestr("archive/data/0", np.arange(4, dtype=np.float32).tobytes())
    if inside:
        np.testing.assert_array_equal(torch_file.read_tensors(path)["weight"], [[0, 1], [2, 3]])
    else:
        with pytest.raises(InputError, match="reaches outside its storage"):
            torch_file.read_tensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.pth cannot be read"):
        torch_file.read_tensors(tmp_path / "nowhere.pth")


class Parameters:
    """What a training script might keep beside its tensors."""

    def __init__(self):
        self.rate, self.names, self.own = 0.5, {"a", "b"}, {"deep": [1, 2]}


@pytest.mark.parametrize("wrap", [legacy, archive])
def test_an_unknown_class_is_read_as_its_attributes_and_not_looked_up(wrap, tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(wrap({"args": Parameters()}))
    (found,) = torch_file.read(path, lambda tree: tree.values())
    assert not isinstance(found, Parameters) and isinstance(found, torch_file.StandIn)
    assert vars(found) == vars(Parameters())


class Slotted:
    def __getstate__(self):
        return (None, {"weight": 1})


@pytest.mark.parametrize("wrap", [legacy, archive])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (Attack(), "calls __builtin__.exec, and nothing in a file is executed"),
        (fractions.Fraction(1, 2), "calls fractions.Fraction"),
        (Slotted(), "has a tests.test_torch_file.Slotted whose state is no dict"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_calls_is_refused_among_stand_ins_too(wrap, value, problem, tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(wrap({"args": [value]}))
    with pytest.raises(InputError, match=problem):
        torch_file.read(path, dict)


def test_tensors_are_read_from_where_they_lie_in_the_tree(tmp_path):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = torch_files.write(tmp_path / "file.pth", {"model": {"weight": weight}, "step": 3})
    found = torch_file.read(path, lambda tree: tree["model"]["weight"].array())
    np.testing.assert_array_equal(found, weight)


def test_what_modules_of_old_pytorch_call_is_harmless(tmp_path):
    backend = b"ctorch.nn.backends.thnn\n_get_thnn_function_backend\n)R"
    size = b"ctorch\nSize\n((K\x02K\x03ttR"
    pickled = (
        b"\x80\x02}(X\x07\x00\x00\x00backend" + backend + b"X\x04\x00\x00\x00size" + size + b"u."
    )
    path = tmp_path / "file.pth"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("archive/data.pkl", pickled)
    assert torch_file.read(path, dict) == {"backend": None, "size": (2, 3)}
    with pytest.raises(InputError, match="names torch.nn.backends.thnn._get_thnn_function_backend"):
        torch_file.read_tensors(path)
