from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idtool.engine import keyset
from idtool.engine.keyset import KeySet

KEYS = st.lists(st.text(max_size=3))


@given(st.lists(KEYS), KEYS)
def test_a_key_set_is_a_set(batches: list[list[str]], asked: list[str]) -> None:
    held = {key for batch in batches for key in batch}
    found = KeySet(batches)
    assert len(found) == len(held)
    assert found.has(asked).tolist() == [key in held for key in asked]
    assert found.has(sorted(held)).all()


def test_digests_that_share_a_half(monkeypatch: pytest.MonkeyPatch) -> None:
    def halves(keys: list[str]) -> keyset.Digests:
        return np.array([[ord(key[0]), int(key[1:])] for key in keys], np.uint64).reshape(-1, 2)

    monkeypatch.setattr(keyset, "_digests", halves)
    found = KeySet([["a1", "b3", "a7"], ["a4", "c0"]])
    asked = ["a1", "a4", "a7", "a5", "b3", "b1", "c0", "c9", "d0"]
    assert found.has(asked).tolist() == [key in ("a1", "b3", "a7", "a4", "c0") for key in asked]
