"""Which images each fold of a cross-validation holds out."""

from __future__ import annotations

import numpy as np


def deal_into_folds(labels: np.ndarray, groups: np.ndarray, num_folds: int) -> np.ndarray:
    """Return the fold that holds each image out, (N,): every class is spread over the folds, no group is separated.

    Images whose class would have none left outside their fold are never held out (-1): it could not be learned.
    """
    _, first, members = np.unique(groups, return_index=True, return_inverse=True)
    order = np.lexsort((np.random.default_rng(0).permutation(len(first)), labels[first]))
    fold_of_group = np.empty(len(first), np.int64)
    fold_of_group[order] = np.arange(len(first)) % num_folds
    folds = fold_of_group[members]
    for fold in range(num_folds):
        left = np.bincount(labels[folds != fold], minlength=int(labels.max()) + 1)
        folds[(folds == fold) & (left[labels] == 0)] = -1
    return folds
