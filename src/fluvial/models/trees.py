"""River's classification trees under their own names, deciding ties in order.

A leaf of River's keeps a category's values in a set and takes the first of the best: which one that is
depends on PYTHONHASHSEED, and on whether the set came out of a pickle. Here values are tried in order of
name, as River's regression trees do it. Everything else is River's code and River's numbers.

`unpickle` loads River's classes as these, so that a user's factory need not know them; only a class
derived from River's has to be derived from one of these instead. Their names stand in checkpoints.
"""

from __future__ import annotations

import functools
from typing import Any

from river import forest, tree
from river.forest.adaptive_random_forest import BaseTreeClassifier as RiverBaseTreeClassifier
from river.tree.splitter.nominal_splitter_classif import NominalSplitterClassif as RiverNominalSplitter

from fluvial.fused import OneWalk

__all__ = [
    "ARFClassifier",
    "BaseTreeClassifier",
    "ExtremelyFastDecisionTreeClassifier",
    "HoeffdingAdaptiveTreeClassifier",
    "HoeffdingTreeClassifier",
    "LASTClassifier",
    "NominalSplitterClassif",
]


class NominalSplitterClassif(RiverNominalSplitter):
    """Finds the best split on a category; among equals the value that sorts first."""

    _att_values: Any

    def best_evaluated_split_suggestion(self, *args: Any) -> Any:
        """River's search, which walks `_att_values`: for its duration they are a sorted list."""
        values = self._att_values
        self._att_values = sorted(values)
        try:
            return super().best_evaluated_split_suggestion(*args)  # type: ignore[no-untyped-call]  # River's
        finally:
            self._att_values = values


class _InOrder:
    """Gives each new leaf the splitter above; an attribute of the leaf goes before River's static method."""

    def _new_leaf(self, *args: Any, **kwargs: Any) -> Any:
        leaf = super()._new_leaf(*args, **kwargs)  # type: ignore[misc]  # a mixin before River's tree
        leaf.new_nominal_splitter = NominalSplitterClassif
        return leaf


class HoeffdingTreeClassifier(OneWalk, _InOrder, tree.HoeffdingTreeClassifier):
    """River's Hoeffding tree."""


class HoeffdingAdaptiveTreeClassifier(_InOrder, tree.HoeffdingAdaptiveTreeClassifier):
    """River's Hoeffding adaptive tree; it also adds up its leaves' answers in the order of the classes."""

    classes: Any

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> Any:
        """River's answer, summed in order instead of a set's, which a pickle changes from nine classes on."""
        classes = self.classes
        self.classes = sorted(classes)
        try:
            return super().predict_proba_one(x, **kwargs)  # type: ignore[no-untyped-call]  # River's
        finally:
            self.classes = classes


class ExtremelyFastDecisionTreeClassifier(_InOrder, tree.ExtremelyFastDecisionTreeClassifier):
    """River's EFDT, whose branches go on observing, and so make splitters too."""

    def _branch_selector(self, *args: Any, **kwargs: Any) -> Any:
        branch = super()._branch_selector(*args, **kwargs)
        return functools.partial(branch, new_nominal_splitter=NominalSplitterClassif)


class LASTClassifier(_InOrder, tree.LASTClassifier):
    """River's local adaptive streaming tree."""


class BaseTreeClassifier(OneWalk, _InOrder, RiverBaseTreeClassifier):
    """The tree of a forest."""


class ARFClassifier(forest.ARFClassifier):
    """River's adaptive random forest."""

    def _new_base_model(self) -> Any:
        made = BaseTreeClassifier.__new__(BaseTreeClassifier)
        made.__dict__.update(vars(super()._new_base_model()))  # type: ignore[no-untyped-call]  # River's
        return made
