"""A Hoeffding tree asked and taught in one walk: River's numbers to the bit, in less than half of the time.

River walks to the leaf with a chain of generators, twice an event; its adaptive leaves work out the naive
Bayes answer when they are asked and once more when they are taught, in a forest once more in between; and
a majority answer begins with a deep copy. Here the leaf and its naive Bayes answer are kept from the question
to the lesson, and the inner loops of leaf, splitter, Gaussian and variance are written out, with the same
operations in the same order.

All numbers stay in River's objects, so that there is nothing to write back. What this file does not know (an
absent feature at a branch, another kind of leaf) takes River's way, event by event; what is rare (a split, a
new splitter) calls River's own methods. Everything here is held against River by `tests/test_fused_tree.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

from fluvial.types import Feature

HALF_LOG_TAU = 0.5 * math.log(math.tau)
NEVER = -math.inf

Features = dict[str, Feature]
Votes = dict[Any, float]


@cache
def _kinds() -> tuple[Any, Any, Any, Any]:
    """River's classes for a branch, two kinds of leaf and a splitter that are written out here."""
    from river.tree.nodes.arf_htc_nodes import RandomLeafNaiveBayesAdaptive  # noqa: PLC0415 - River loads scipy
    from river.tree.nodes.branch import NumericBinaryBranch  # noqa: PLC0415 - as above
    from river.tree.nodes.htc_nodes import LeafNaiveBayesAdaptive  # noqa: PLC0415 - as above
    from river.tree.splitter import GaussianSplitter  # noqa: PLC0415 - as above

    return NumericBinaryBranch, LeafNaiveBayesAdaptive, RandomLeafNaiveBayesAdaptive, GaussianSplitter


class OneWalk:
    """Goes before River's Hoeffding tree for classes, and is asked and taught in its place.

    What it keeps between the two stands in slots, so that no checkpoint knows of it. An equal question
    has the same leaf and the same answer there, as long as nothing was learned since.
    """

    __slots__ = ("_answered", "_asked", "_leaf")
    _asked: Features | None
    _leaf: Any
    _answered: Votes | None

    def __getstate__(self) -> Any:
        """What River knows, and nothing else."""
        return vars(self)

    def predict_proba_one(self, x: Any, **kwargs: Any) -> Any:
        """Return River's answer."""
        leaf = self._find(x)
        if leaf is None:
            return super().predict_proba_one(x, **kwargs)  # type: ignore[misc]  # a mixin before River's tree
        answer = dict.fromkeys(sorted(self.classes), 0.0)  # type: ignore[attr-defined]  # as above
        if leaf.splitters is not None and leaf._nb_correct_weight >= leaf._mc_correct_weight:
            if self._answered is None:
                self._answered = naive_bayes(x, leaf.stats, leaf.splitters)
            answer.update(self._answered)
        else:
            answer.update(shares(leaf.stats))
        return answer

    def learn_one(self, x: Any, y: Any, *, w: float = 1.0) -> None:
        """Learn as River does."""
        leaf, votes = self._find(x), self._answered
        self._asked = self._leaf = self._answered = None
        if leaf is None:
            super().learn_one(x, y, w=w)  # type: ignore[misc]  # as above
        else:
            _teach(self, leaf, x, y, w, votes)

    def _find(self, x: Features) -> Any:
        """The leaf of `x`; with it comes what naive Bayes said there, if that was worked out already."""
        try:
            known = self._asked == x
        except AttributeError:  # made a moment ago
            known = False
        if not known:
            self._asked, self._leaf, self._answered = dict(x), _leaf_for(self, x), None
        return self._leaf


def _teach(model: Any, leaf: Any, x: Features, y: Any, w: float, votes: Votes | None) -> None:
    """`HoeffdingTreeClassifier.learn_one` behind the walk."""
    model.classes.add(y)
    model._train_weight_seen_by_model += w
    _teach_leaf(leaf, x, y, w, votes, model.nominal_attributes)
    if model._growth_allowed and leaf.splitters is not None:
        _grow(model, leaf, x)
    if model._train_weight_seen_by_model % model.memory_estimate_period == 0:
        model._estimate_model_size()


def _leaf_for(model: Any, x: Features) -> Any:
    """The leaf where `x` ends; None where River has to find it, or what it is."""
    node = model._root
    binary, adaptive, random, _ = _kinds()
    try:
        while type(node) is binary:
            node = node.children[0 if x[node.feature] <= node.threshold else 1]
    except KeyError:
        return None
    return node if type(node) is adaptive or type(node) is random else None


def shares(stats: Votes) -> Votes:
    """Each class's share of the weight (`normalize_values_in_dict`)."""
    total = sum(stats.values())
    if total == 0 or total != total:  # noqa: PLR0124 - NaN
        return dict(stats)
    factor = 1 / total
    return {k: value * factor for k, value in stats.items()}


def naive_bayes(x: Features, stats: Votes, splitters: dict[str, Any]) -> Votes:
    """`do_naive_bayes_prediction` for Gaussian splitters, and River's own for the others."""
    total = sum(stats.values())
    if not stats or total == 0:
        return {}
    gaussian = _kinds()[3]
    seen = [
        (x[name], splitter._att_dist_per_class if type(splitter) is gaussian else splitter)
        for name, splitter in splitters.items()
        if name in x
    ]
    votes = {}
    for k, weight in stats.items():
        votes[k] = _log_vote(k, math.log(weight / total), seen) if weight > 0 else 0.0
    highest = max(votes.values())
    log_sum = highest + math.log(sum([math.exp(vote - highest) for vote in votes.values()]))
    return {k: math.exp(vote - log_sum) for k, vote in votes.items()}


def _log_vote(k: Any, vote: float, seen: list[tuple[Any, Any]]) -> float:
    """Prior and likelihood of class `k`, in logarithms."""
    log = math.log
    for value, known in seen:
        if type(known) is not dict:
            vote += _other_log_vote(known, value, k)
        elif k in known:
            var = known[k]._var
            mean = var.mean
            n, ddof = mean.n, var.ddof
            if n > ddof:
                variance = var._S / (n - ddof)
                if variance > 0.0:
                    p = (value - mean._mean) ** 2 / (-2.0 * variance) - HALF_LOG_TAU - 0.5 * log(variance)
                    if p > NEVER:
                        vote += p
    return vote


def _other_log_vote(splitter: Any, value: Any, k: Any) -> float:
    """What a splitter of another kind adds to the vote."""
    log_proba: Callable[[Any, Any], float] | None = getattr(splitter, "cond_log_proba", None)
    if log_proba is not None:
        p = log_proba(value, k)
        return p if p > NEVER else 0.0
    p = splitter.cond_proba(value, k)
    return math.log(p) if p > 0 else 0.0


def _teach_leaf(leaf: Any, x: Features, y: Any, w: float, votes: Votes | None, nominal: Any) -> None:
    """`LeafNaiveBayesAdaptive.learn_one` and what it calls."""
    stats, splitters = leaf.stats, leaf.splitters
    if splitters is not None:
        majority = shares(stats)
        if not stats or max(majority, key=majority.__getitem__) == y:
            leaf._mc_correct_weight += w
        if votes is None:
            votes = naive_bayes(x, stats, splitters)
        if votes and max(votes, key=votes.__getitem__) == y:
            leaf._nb_correct_weight += w
    if y in stats:
        stats[y] += w
    else:
        stats[y] = w
    if splitters is not None:
        _teach_splitters(leaf, x, y, w, nominal)


def _teach_splitters(leaf: Any, x: Features, y: Any, w: float, nominal: Any) -> None:
    """`HTLeaf.update_splitters` and `GaussianSplitter.update` down to the variance."""
    _, _, random, gaussian = _kinds()
    splitters, disabled, names = leaf.splitters, leaf._disabled_attrs, x
    if type(leaf) is random:
        names = leaf.feature_indices
        if not names:  # River draws them with the leaf's first event
            leaf.update_splitters(x, y, w, nominal)
            return
    for name in names:
        if name not in x:
            continue
        value, splitter = x[name], splitters.get(name)
        if type(splitter) is not gaussian or disabled or y not in splitter._att_dist_per_class:
            leaf.update_splitters({name: value}, y, w, nominal)
            continue
        low, high = splitter._min_per_class, splitter._max_per_class
        if value < low[y]:
            low[y] = value
        if value > high[y]:
            high[y] = value
        var = splitter._att_dist_per_class[y]._var
        mean = var.mean
        old = mean._mean
        n = mean.n = mean.n + w
        new = mean._mean = old + (w / n) * (value - old)
        var._S += w * (value - old) * (value - new)


def _grow(model: Any, leaf: Any, x: Features) -> None:
    """Split the leaf when it is time, or close it at the greatest depth."""
    if leaf.depth >= model.max_depth:
        leaf.deactivate()
        model._n_active_leaves -= 1
        model._n_inactive_leaves += 1
        return
    seen = sum(leaf.stats.values())
    if seen - leaf._last_split_attempt_at >= model.grace_period:
        parent, node = None, model._root
        while node is not leaf:
            parent, node = node, node.next(x)
        branch = parent.branch_no(x) if parent is not None else None
        model._attempt_to_split(leaf, parent, branch)
        leaf._last_split_attempt_at = seen
