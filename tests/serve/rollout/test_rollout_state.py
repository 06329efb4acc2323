"""The split of the traffic: as large as asked, sticky, growing without moving anybody, and fair."""

from __future__ import annotations

import hashlib
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, kstest

from ml_core.serve.rollout.rollout_state import bucket, takes_challenger
from tests.serve.answering.builders import live_model, live_of

N = 20_000
TAIL = 1e-6
TAG, OTHER = "risk:v2-0a1b2c3d", "risk:v3-11111111"
KEYS = [f"patient-{i}" for i in range(N)]
weights = st.floats(0.0, 1.0)
texts = st.text(min_size=1, max_size=30).filter(str.isprintable)


def within_chance(hits: int, n: int, share: float) -> bool:
    return binom.ppf(TAIL, n, share) <= hits <= binom.isf(TAIL, n, share)


@pytest.mark.parametrize("weight", [0.001, 0.05, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("key", ["subject", "client_request_id", "nothing"])
def test_the_challenger_gets_the_share_it_is_given(weight, key):
    random.seed(11)
    asked = {
        "subject": lambda name: (name, None),
        "client_request_id": lambda name: (None, name),
        "nothing": lambda name: (None, None),
    }[key]
    hits = sum(takes_challenger(weight, TAG, *asked(name)) for name in KEYS)
    assert within_chance(hits, N, weight)


@given(texts, weights)
def test_a_subject_always_meets_the_same_model(subject, weight):
    answers = {takes_challenger(weight, TAG, subject, str(i)) for i in range(20)}
    assert len(answers) == 1


@given(texts, weights)
def test_without_a_subject_the_callers_own_id_is_sticky(key, weight):
    assert len({takes_challenger(weight, TAG, None, key) for _ in range(5)}) == 1
    assert takes_challenger(weight, TAG, None, key) == takes_challenger(weight, TAG, key, None)


@given(texts, weights, weights)
def test_a_growing_weight_keeps_whom_it_had(key, one, other):
    smaller, larger = sorted((one, other))
    assert takes_challenger(larger, TAG, key, None) or not takes_challenger(smaller, TAG, key, None)


@given(texts)
def test_nothing_goes_to_a_weight_of_zero_and_everything_to_one(key):
    assert not takes_challenger(0.0, TAG, key, None)
    assert takes_challenger(1.0, TAG, key, None)


def test_a_key_that_falls_exactly_on_the_weight_is_not_the_challengers():
    weight = bucket("ward-3", "risk:v2")
    assert not takes_challenger(weight, "risk:v2", "ward-3", None)
    assert takes_challenger(math.nextafter(weight, 1.0), "risk:v2", "ward-3", None)


@given(st.text(max_size=40).filter(lambda text: text.isprintable()), st.text(max_size=60).filter(str.isprintable))
def test_a_bucket_lies_in_the_unit_interval(key, salt):
    assert 0.0 <= bucket(key, salt) < 1.0


def test_buckets_are_uniform_whatever_the_keys_look_like():
    for keys in (KEYS, [str(i) for i in range(N)], [f"{i:>40}" for i in range(N)]):
        assert kstest([bucket(key, TAG) for key in keys], "uniform").pvalue > TAIL


def test_another_challenger_draws_its_patients_anew():
    ours, theirs = (np.array([bucket(key, tag) for key in KEYS]) for tag in (TAG, OTHER))
    table = np.histogram2d(ours, theirs, bins=10, range=((0, 1), (0, 1)))[0]
    assert all(within_chance(int(cell), N, 0.01) for cell in table.ravel())


def test_who_met_one_challenger_meets_the_next_no_more_often_than_others():
    both = sum(takes_challenger(0.5, TAG, key, None) and takes_challenger(0.5, OTHER, key, None) for key in KEYS)
    assert within_chance(both, N, 0.25)


def test_the_same_patients_for_every_worker_and_every_start():
    salt = hashlib.sha256(TAG.encode()).digest()[:16]
    drawn = hashlib.blake2b(b"ward-3", digest_size=8, salt=salt).digest()
    assert bucket("ward-3", TAG) == int.from_bytes(drawn, "big") / 2**64 == pytest.approx(0.429787, abs=1e-6)


def test_a_live_canary_splits_by_the_same_rule():
    challenger = live_model()
    live = live_of(challenger=challenger, mode="canary", weight=0.3)
    for key in KEYS[:500]:
        expected = takes_challenger(0.3, challenger.model.tag, key, None)
        assert live.route(key, "whatever") == ("challenger" if expected else "champion")
        assert live.route(None, key) == live.route(key, None)


@pytest.mark.parametrize(
    "facts",
    [{"mode": "off"}, {"mode": "shadow"}, {"mode": "canary", "challenger": None}, {"mode": "canary", "weight": 0.0}],
)
def test_without_a_canary_the_champion_answers_everybody(facts):
    live = live_of(**{"challenger": live_model(), "weight": 0.9, **facts})
    assert {live.route(key, None) for key in KEYS[:200]} == {"champion"}


def test_shares_of_the_slots_add_up():
    live = live_of(challenger=live_model(), previous=live_model(), mode="canary", weight=0.3)
    assert [live.share(slot) for slot in ("champion", "challenger", "previous")] == pytest.approx([0.7, 0.3, 0.0])
    shadow = live_of(challenger=live_model(), mode="shadow", weight=0.3)
    assert [shadow.share(slot) for slot in ("champion", "challenger", "previous")] == [1.0, 0.0, 0.0]
