"""Policies: pure, total, and held back by cooldown and storm breaker."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluvial.config import PolicySettings
from fluvial.policies import Observe, Reset, Reweight, make_policy
from fluvial.types import Action, Decision, MemberStanding, Signal, SignalKind, Standing

signals = st.builds(
    Signal,
    kind=st.sampled_from(SignalKind),
    plane=st.sampled_from(["error", "features", "predictions"]),
    detector=st.just("adwin"),
    events=st.integers(0, 10**9),
    before=st.floats(0, 1),
    after=st.floats(0, 1),
    since=st.integers(0, 10**9),
)
members = st.builds(
    MemberStanding,
    name=st.sampled_from(["a", "b", "c"]),
    champion=st.booleans(),
    weight=st.floats(0, 1),
    age=st.integers(0, 10**9),
)
standings = st.builds(
    Standing,
    events=st.integers(0, 10**9),
    since_reaction=st.integers(0, 10**9),
    recent_reactions=st.integers(0, 10**4),
    signals=st.lists(signals, max_size=3).map(tuple),
    members=st.lists(members, max_size=6).map(tuple),
)
policies = st.one_of(
    st.just(Observe()),
    st.builds(Reset, cooldown=st.integers(0, 1_000), max_reactions=st.integers(1, 20)),
    st.builds(
        Reweight,
        challengers=st.integers(1, 8),
        restart_every=st.integers(1, 10_000),
        cooldown=st.integers(0, 1_000),
        max_reactions=st.integers(1, 20),
    ),
)


def drift(plane="error", kind=SignalKind.DRIFT):
    return Signal(kind=kind, plane=plane, detector="adwin", events=5_000, before=0.1, after=0.4, since=4_900)


def standing(*, events=5_000, since=5_000, recent=0, signals=(), weights=(0.8, 0.15, 0.05), lanes=None):
    members = tuple(
        MemberStanding(name=(lanes or "mmm")[i], champion=i == 0, weight=w, age=100)
        for i, w in enumerate(weights)
    )
    return Standing(
        events=events, since_reaction=since, recent_reactions=recent, signals=tuple(signals), members=members
    )


@given(policies, standings)
def test_pure_and_total(policy, given_standing):
    before = copy.deepcopy(vars(policy))
    first = policy(given_standing)
    assert policy(given_standing) == first
    assert vars(policy) == before
    for decision in first:
        assert isinstance(decision, Decision)
        if decision.action in {Action.RESTART, Action.PROMOTE}:
            member = given_standing.members[decision.member]
            assert not member.champion


@given(standings)
def test_observe_never_does_anything(given_standing):
    assert Observe()(given_standing) == ()


@given(policies, standings)
def test_nothing_but_a_drift_of_the_error_resets(policy, given_standing):
    drifts = [s for s in given_standing.signals if s.kind is SignalKind.DRIFT and s.plane == "error"]
    answered = [d for d in policy(given_standing) if d.signal is not None]
    if not drifts:
        assert answered == []
    for decision in answered:
        assert decision.signal is drifts[0]


@given(policies, standings)
def test_no_storm(policy, given_standing):
    limit = getattr(policy, "max_reactions", None)
    if limit is None or given_standing.recent_reactions < limit:
        return
    for decision in policy(given_standing):
        assert decision.action is Action.HOLD or decision.signal is None


def test_reset_answers_a_drift():
    (decision,) = Reset()(standing(signals=[drift()]))
    assert decision.action is Action.RESET
    assert decision.signal == drift()


@pytest.mark.parametrize("signal", [drift("features"), drift(kind=SignalKind.WARNING), None])
def test_reset_leaves_the_rest_alone(signal):
    assert Reset()(standing(signals=[signal] if signal else [])) == ()


@pytest.mark.parametrize("policy", [Reset(), Reweight()])
@pytest.mark.parametrize(("since", "held"), [(199, True), (200, False)])
def test_cooldown(policy, since, held):
    (decision,) = policy(standing(since=since, signals=[drift()]))
    assert (decision.action is Action.HOLD) == held
    if held:
        assert "cooldown: 199 of 200" in decision.because


@pytest.mark.parametrize("policy", [Reset(), Reweight()])
@pytest.mark.parametrize(("recent", "held"), [(9, False), (10, True)])
def test_storm(policy, recent, held):
    (decision,) = policy(standing(recent=recent, signals=[drift()]))
    assert (decision.action is Action.HOLD) == held
    if held:
        assert "storm" in decision.because


def test_reweight_restarts_the_weaker_challenger_at_a_drift():
    (decision,) = Reweight()(standing(signals=[drift()], weights=(0.1, 0.6, 0.3)))
    assert (decision.action, decision.member) == (Action.RESTART, 2)


def test_reweight_keeps_the_only_challenger_when_it_is_the_one_that_answers():
    """Promoted, it goes on answering, and a fresh one takes its place."""
    (decision,) = Reweight(challengers=1)(standing(signals=[drift()], weights=(0.1, 0.9)))
    assert (decision.action, decision.member, decision.signal) == (Action.PROMOTE, 1, drift())
    (decision,) = Reweight(challengers=1)(standing(signals=[drift()], weights=(0.4, 0.6)))
    assert decision.action is Action.RESTART


def test_reweight_takes_turns_half_a_period_apart():
    policy = Reweight(challengers=2, restart_every=2_000)
    assert policy.period == 1_000
    turns = {events: policy(standing(events=events)) for events in (1_000, 2_000, 3_000, 4_000)}
    assert [d.member for (d,) in turns.values()] == [2, 1, 2, 1]
    assert all(d.action is Action.RESTART and d.signal is None for (d,) in turns.values())
    assert policy(standing(events=1_500)) == ()


@pytest.mark.parametrize(
    ("weights", "action"),
    [
        ((0.1, 0.3, 0.6), Action.PROMOTE),
        ((0.25, 0.05, 0.7), Action.RESTART),  # the champion still holds over a fifth
        ((0.1, 0.45, 0.45), Action.RESTART),  # nobody leads
        ((0.1, 0.6, 0.3), Action.RESTART),  # the leader is not the one whose turn it is
    ],
)
def test_a_leader_is_promoted_when_it_would_restart(weights, action):
    (decision,) = Reweight()(standing(events=1_000, weights=weights))
    assert (decision.action, decision.member) == (action, 2)


def test_a_challenger_is_measured_against_the_champion_of_its_lane():
    lanes = (
        MemberStanding(name="a", champion=True, weight=0.3, age=1),
        MemberStanding(name="b", champion=True, weight=0.05, age=1),
    )
    rival = MemberStanding(name="b", champion=False, weight=0.6, age=1)
    calm = Standing(events=2_000, since_reaction=9, recent_reactions=0, signals=(), members=(*lanes, rival))
    (decision,) = Reweight(challengers=1)(calm)
    assert (decision.action, decision.member) == (Action.PROMOTE, 2)


@pytest.mark.parametrize(
    ("name", "challengers", "period"), [("observe", 0, 0), ("reset", 0, 0), ("reweight", 3, 400)]
)
def test_settings_make_policies(name, challengers, period):
    policy = make_policy(
        PolicySettings(name=name, challengers=3, restart_every=1_200, cooldown=7, max_reactions=2)
    )
    assert (policy.name, policy.challengers, policy.period) == (name, challengers, period)
    if name != "observe":
        assert (policy.cooldown, policy.max_reactions) == (7, 2)
