"""NCE: how little is left to know of the label once the source network has named one of its own classes."""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

from selection.recommendation.transferability.registry import SCORES, Outputs


@SCORES.register("nce")
def nce(outputs: Outputs) -> float:
    """-H(Y | Z) with Z the source's most probable class (Tran et al. 2019, "Transferability and Hardness of ...",
    equation 6, with the source's predictions for its labels).
    """
    named = np.eye(outputs.probabilities.shape[1])[outputs.probabilities.argmax(axis=1)]
    joint = named.T @ outputs.one_hot / len(outputs.labels)  # (K, C)
    named_at_all = joint.sum(axis=1) > 0
    conditional = joint[named_at_all] / joint[named_at_all].sum(axis=1, keepdims=True)
    return float(xlogy(joint[named_at_all], conditional).sum())
