"""NCE: how little is left to know of the label once the source network has named one of its own classes."""

from __future__ import annotations

import numpy as np

from selection.transferability.registry import Outputs, register_score


@register_score("nce")
def nce(outputs: Outputs) -> float:
    """-H(Y | Z) with Z the source's most probable class (Tran et al. 2019, "Transferability and Hardness of ...",
    equation 6, with the source's predictions for its labels).
    """
    named = np.eye(outputs.probabilities.shape[1])[outputs.probabilities.argmax(axis=1)]
    joint = named.T @ outputs.one_hot / len(outputs.labels)  # (K, C)
    marginal = joint.sum(axis=1, keepdims=True)
    present = joint > 0
    return float((joint * np.log(joint / marginal, where=present, out=np.zeros_like(joint))).sum())
