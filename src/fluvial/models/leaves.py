"""A Hoeffding tree that forgets what its leaves counted and keeps where it branches."""

from __future__ import annotations

from typing import Any


def forget_leaves(model: Any) -> bool:
    """Replace every leaf by a new one; False, and nothing done, where the last step is no tree of River's.

    For a copy that came out of a pickle: what a tree remembers between question and lesson is not cleared.
    """
    steps = getattr(model, "steps", None)
    tree = list(steps.values())[-1] if steps else model
    root = getattr(tree, "_root", None)
    if root is None or not hasattr(tree, "_new_leaf"):
        return False
    tree._root = _forgotten(tree, root)  # noqa: SLF001 - River has no other way to its nodes
    tree._n_active_leaves += tree._n_inactive_leaves  # noqa: SLF001 - as above
    tree._n_inactive_leaves = 0  # noqa: SLF001 - as above
    return True


def _forgotten(tree: Any, node: Any) -> Any:
    """`node` with fresh leaves below; the leaf in its place if it is one itself."""
    if not hasattr(node, "children"):
        leaf = tree._new_leaf()  # noqa: SLF001 - as above
        leaf.depth = node.depth
        return leaf
    node.children = [_forgotten(tree, child) for child in node.children]
    if getattr(node, "_alternate_tree", None) is not None:
        node._alternate_tree = None  # noqa: SLF001 - an adaptive tree's candidate for this branch
    return node
