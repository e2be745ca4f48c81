"""The other likelihood-based detectors, one file each, in the protocol that SPEM keeps.

`docs/detectors.md` has their formulae, sources and costs, and shows how to add one.
"""

from ecood.baselines.complexity_latent import complexity_latent
from ecood.baselines.dose import dose_kde, dose_svm
from ecood.baselines.embedding_flow import embedding_flow
from ecood.baselines.embedding_gaussian import embedding_gaussian
from ecood.baselines.fisher import fisher
from ecood.baselines.fisher_combined import fisher_combined
from ecood.baselines.general_ratio import general_ratio
from ecood.baselines.gradient_norm import gradient_norm
from ecood.baselines.input_complexity import input_complexity
from ecood.baselines.intrinsic_dimension import intrinsic_dimension
from ecood.baselines.last_level import last_level
from ecood.baselines.likelihood import likelihood
from ecood.baselines.likelihood_ratio import likelihood_ratio
from ecood.baselines.similarity import similarity
from ecood.baselines.two_sided import two_sided
from ecood.baselines.typicality import group_typicality, typicality
from ecood.baselines.universal_complexity import universal_complexity
from ecood.baselines.waic import waic
from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.flows import Flow

__all__ = [
    "complexity_latent",
    "dose_kde",
    "dose_svm",
    "embedding_flow",
    "embedding_gaussian",
    "fisher",
    "fisher_combined",
    "general_ratio",
    "gradient_norm",
    "group_typicality",
    "input_complexity",
    "intrinsic_dimension",
    "last_level",
    "likelihood",
    "likelihood_ratio",
    "similarity",
    "standard",
    "two_sided",
    "typicality",
    "universal_complexity",
    "waic",
]


def standard(flow: Flow, encoder: Encoder) -> dict[str, Detector]:
    """Baselines that need a flow and an encoder only, by their names in reports.

    Without a latent (`Flow.has_latent`) there are none of those that look at it.
    `likelihood_ratio`, `general_ratio` and `waic` need further flows, `last_level` a Glow,
    `embedding_flow` a minute of training: they are made by hand.
    """
    found = {
        "similarity_10": similarity(encoder, neighbours=10),
        "embedding_gaussian": embedding_gaussian(encoder),
        "typicality": typicality(flow),
        "input_complexity": input_complexity(flow),
        "universal_complexity": universal_complexity(flow),
        "gradient_norm": gradient_norm(flow),
        "fisher": fisher(flow),
        "fisher_combined": fisher_combined(flow),
        "two_sided": two_sided(flow, encoder),
    }
    if flow.has_latent:
        found |= {
            "dose_kde": dose_kde(flow),
            "dose_svm": dose_svm(flow),
            "intrinsic_dimension": intrinsic_dimension(flow),
            "complexity_latent": complexity_latent(flow),
        }
    return found
