"""What all estimators share: scores with scikit-learn's signs, a threshold, checked pictures."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from stssad_fast.datasets import Images, Pictures, as_pictures
from stssad_fast.detectors import MIN_IMAGE_SIZE
from stssad_fast.errors import InputError

Scores = NDArray[np.float64]

Estimator = TypeVar("Estimator", bound=BaseEstimator)
Arguments = ParamSpec("Arguments")
Fit = Callable[Concatenate[Estimator, Arguments], Estimator]


def all_or_nothing(fit: Fit[Estimator, Arguments]) -> Fit[Estimator, Arguments]:
    """A ``fit`` that fails, or is interrupted, leaves the estimator as it was."""

    @functools.wraps(fit)
    def whole(self: Estimator, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Estimator:
        before = dict(vars(self))
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return whole


class OutlierScores(OutlierMixin, BaseEstimator):
    """Predictions from anomaly scores.

    A subclass gives :meth:`anomaly_scores`, and sets the attributes and the one that
    ``_fitted_by`` names when it is fitted.

    Attributes:
        image_shape_: (C, H, W) of the training pictures.
        threshold_: anomaly score above which a picture is predicted anomalous; ``-offset_``.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {"device": [str, torch.device]}
    _fitted_by: ClassVar[str] = "threshold_"

    image_shape_: tuple[int, ...]
    threshold_: float
    offset_: float

    def anomaly_scores(self, images: Images) -> Scores:
        """Scores (N,); higher is more anomalous."""
        raise NotImplementedError

    def score_samples(self, images: Images) -> Scores:
        """Negative :meth:`anomaly_scores` (N,); higher is more normal."""
        return -self.anomaly_scores(images)

    def decision_function(self, images: Images) -> Scores:
        """:meth:`score_samples` minus ``offset_`` (N,): negative for predicted anomalies."""
        return self.score_samples(images) - self.offset_

    def predict(self, images: Images) -> NDArray[np.int64]:
        """1 for normal, -1 for anomalous (N,)."""
        return np.where(self.decision_function(images) < 0, -1, 1)

    def _set_threshold(self, value: float) -> None:
        self.threshold_ = value
        self.offset_ = -value

    def _checked(self, images: Images) -> Pictures:
        check_is_fitted(self, self._fitted_by)
        checked = as_pictures(images, min_side=MIN_IMAGE_SIZE)
        if tuple(checked.shape[1:]) != self.image_shape_:
            raise InputError(
                f"images are {tuple(checked.shape[1:])} (channels, height, width), the estimator "
                f"was fitted on {self.image_shape_}. Convert or resize them"
            )
        return checked
