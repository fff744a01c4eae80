"""Splits by identity: disjoint, balanced, never empty when they need not be, and independent of order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idtool.curate.splits import assign, check_shares
from idtool.errors import UsageError

SIZES = st.dictionaries(st.text(min_size=1, max_size=8), st.integers(1, 40), min_size=1, max_size=60)
SHARES = st.sampled_from([{"train": 0.9, "val": 0.1}, {"train": 0.8, "val": 0.1, "test": 0.1}, {"train": 1.0}])


@given(sizes=SIZES, shares=SHARES, seed=st.integers(0, 5))
def test_every_identity_is_in_one_split_and_shares_are_met_within_one_identity(sizes, shares, seed):
    found = assign(sizes, shares, seed)
    assert set(found) == set(sizes)
    total = sum(sizes.values())
    for split, share in shares.items():
        members = [name for name in sizes if found[name] == split]
        pairs = sum(sizes[name] for name in members)
        assert pairs < share * total + max(sizes.values()) + 1e-6
        if len(sizes) >= len(shares):
            assert members


@given(sizes=SIZES, seed=st.integers(0, 5))
def test_order_of_the_identities_changes_nothing(sizes, seed):
    shares = {"train": 0.9, "val": 0.1}
    assert assign(sizes, shares, seed) == assign(dict(reversed(sizes.items())), shares, seed)


def test_the_seed_decides_among_equals():
    sizes = {f"p{number}": 10 for number in range(50)}
    held_out = {
        frozenset(n for n, s in assign(sizes, {"train": 0.9, "val": 0.1}, seed).items() if s == "val")
        for seed in range(4)
    }
    assert len(held_out) == 4
    assert all(len(names) == 5 for names in held_out)


def test_one_huge_identity_goes_to_the_large_split():
    assert assign({"huge": 1000, "a": 1, "b": 1}, {"train": 0.9, "val": 0.1})["huge"] == "train"


def test_a_single_identity_fills_the_largest_split_only():
    assert assign({"only": 5}, {"val": 0.1, "train": 0.9}) == {"only": "train"}


@pytest.mark.parametrize(
    ("shares", "word"),
    [
        ({}, "empty"),
        ({"train": 0.5}, "sum to 0.5"),
        ({"train": 1.5, "val": -0.5}, "-0.5"),
        ({"a-b": 1.0}, "a-b"),
        ({"train": float("nan")}, "nan"),
    ],
)
def test_bad_shares_are_refused_with_what_they_are(shares, word):
    with pytest.raises(UsageError, match=word):
        check_shares(shares)
