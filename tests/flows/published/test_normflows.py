"""Against the package itself: its models, randomly initialised and moved away from the start."""

import jax
import numpy as np
import pytest

from ecood import flows
from ecood.errors import InputError
from ecood.flows import published
from tests import small

torch = pytest.importorskip("torch", reason="the reference implementation is PyTorch's")
nf = pytest.importorskip("normflows", reason="the reference")

pytestmark = [
    pytest.mark.reference,
    pytest.mark.filterwarnings("ignore:torch.lu is deprecated:UserWarning"),
]
SHAPE, CLASSES = (8, 8, 3), 4
LOG_PROB = jax.jit(flows.Flow.log_prob)
KEY = jax.random.key(0)
X = np.random.default_rng(0).uniform(size=(6, *SHAPE)).astype(np.float32)


BASES = {
    "ClassCondDiagGaussian": lambda shape: nf.distributions.ClassCondDiagGaussian(shape, CLASSES),
    "GlowBaseClass": lambda shape: nf.distributions.GlowBase(shape, CLASSES),
    "GlowBase": lambda shape: nf.distributions.GlowBase(shape),
    "DiagGaussian": lambda shape: nf.distributions.DiagGaussian(shape),
}


def model(base="ClassCondDiagGaussian", levels=2, depth=2, transform=None, seed=0, **options):
    """Built as the package's Glow example builds it, with one of its bases."""
    torch.manual_seed(seed)
    height, width, channels = SHAPE
    q0, merges, steps = [], [], []
    for i in range(levels):
        last = channels * 2 ** (levels + 1 - i)
        level = [nf.flows.GlowBlock(last, 8, **options) for _ in range(depth)]
        steps.append([*level, nf.flows.Squeeze()])
        if i > 0:
            merges.append(nf.flows.Merge())
        shape = (last if i == 0 else last // 2, height >> levels - i, width >> levels - i)
        q0.append(BASES[base](shape))
    class_cond = base not in ("GlowBase", "DiagGaussian")
    built = nf.MultiscaleFlow(q0, steps, merges, transform, class_cond)
    with torch.no_grad():
        built.inverse_and_log_det(images())  # initialises the act-norms
        for name, parameter in built.named_parameters():
            if "loc" in name or "log_scale" in name or "net.4" in name or ".2." in name:
                parameter += 0.1 * torch.randn_like(parameter)
    return built


def images():
    return torch.tensor(X.transpose(0, 3, 1, 2))


def labels(k):
    return torch.full((len(X),), k)


def expected(built):
    """The log-density of an image whose class is not known."""
    with torch.no_grad():
        if not built.class_cond:
            z, log_det = built.inverse_and_log_det(images())
            return (log_det + sum(q.log_prob(z) for q, z in zip(built.q0, z, strict=True))).numpy()
        given = torch.stack([built.log_prob(images(), labels(k)) for k in range(CLASSES)])
        return (torch.logsumexp(given, 0) - np.log(CLASSES)).numpy()


CASES = {
    "classes": {},
    "one_level": {"levels": 1},
    "three_levels": {"levels": 3, "depth": 1},
    "glow_base": {"base": "GlowBase"},
    "glow_base_classes": {"base": "GlowBaseClass"},
    "diagonal": {"base": "DiagGaussian"},
    "plain_matrix": {"use_lu": False},
    "additive": {"scale": False},
}


@pytest.mark.parametrize("name", CASES)
def test_its_density_is_the_packages(name, tmp_path):
    built = model(**CASES[name])
    flow = published.normflows(built)
    np.testing.assert_allclose(LOG_PROB(flow, KEY, X), expected(built), rtol=1e-4, atol=1e-3)
    assert isinstance(flow.density, flows.Glow if name == "glow_base" else flows.ClassGlow)
    flows.save(tmp_path / "flow.safetensors", flow)
    again = flows.load(tmp_path / "flow.safetensors")
    np.testing.assert_array_equal(LOG_PROB(again, KEY, X), LOG_PROB(flow, KEY, X))


@pytest.mark.parametrize("base", ["ClassCondDiagGaussian", "GlowBase"])
def test_a_state_dict_and_its_file_are_the_same_flow(base, tmp_path):
    built = model(base)
    built.save(tmp_path / "model.pt")
    log_prob = LOG_PROB(published.normflows(built), KEY, X)
    shape = SHAPE if base == "GlowBase" else None
    for source in (built.state_dict(), tmp_path / "model.pt", str(tmp_path / "model.pt")):
        flow = published.normflows(source, shape)
        np.testing.assert_array_equal(LOG_PROB(flow, KEY, X), log_prob)


def test_its_samples_are_finite():
    flow = published.normflows(model())
    samples = flow.density.apply(flow.variables, KEY, 5, method="sample")
    assert samples.shape == (5, *SHAPE)
    small.assert_finite(samples)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"scale_map": "exp"}, "scale_map 'exp'; what can be converted is 'sigmoid'"),
        ({"split_mode": "checkerboard"}, "split_mode 'checkerboard'"),
        ({"leaky": 0.1}, "leaky 0.1"),
        ({"net_actnorm": True}, r"flows.1.1.flows.0.flows.1.param_map.net.0.bias is missing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_options_are_refused_by_name(options, problem):
    with pytest.raises(InputError, match=problem):
        published.normflows(model(**options))


def test_other_models_are_refused():
    with pytest.raises(InputError, match="the model has transform"):
        published.normflows(model(transform=nf.transforms.Logit(0.05)))
    with pytest.raises(InputError, match="the model is a Linear; what can be converted"):
        published.normflows(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="a int is no model of normflows"):
        published.normflows(3)
    with pytest.raises(InputError, match="q0.0.loc is missing"):
        published.normflows(torch.nn.Linear(2, 2).state_dict())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state.pop("flows.0.1.flows.1.log_S"), "flows.0.1.flows.1.log_S is missing"),
        (lambda state: state.update(extra=torch.zeros(2)), "extra is not part of it"),
        (lambda state: state.pop("q0.1.loc"), "flows.0.1.flows.2.s has shape|q0"),
        (
            lambda state: state.update({"flows.0.0.flows.2.data_dep_init_done": torch.tensor(0.0)}),
            "flows.0.0.flows.2.data_dep_init_done is 0: no batch has initialised",
        ),
    ],
    ids=["missing", "unknown", "level", "untrained"],
)
def test_another_state_dict_is_refused_by_the_first_difference(change, problem):
    state = dict(model().state_dict())
    change(state)
    with pytest.raises(InputError, match=problem):
        published.normflows(state)


def test_a_state_dict_without_the_images_size_asks_for_it():
    with pytest.raises(InputError, match="does not say the size of its images; give image_shape"):
        published.normflows(model("GlowBase").state_dict())
