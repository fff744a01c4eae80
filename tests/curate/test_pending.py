from __future__ import annotations

import pytest

from idtool.curate.pending import MADE, Animate, Inpaint, Pending
from idtool.engine.step import Binding, Env
from idtool.errors import MissingError


@pytest.mark.parametrize(("step", "role"), [(Animate, "i2v"), (Inpaint, "fill")])
def test_a_pending_step_says_why_it_does_not_run_and_never_does(step: type[Pending], role: str) -> None:
    unbound = step(step.Settings(), Env("offline", {}))
    assert unbound.skip_reason() == f"needs role {role}; profile offline binds none"
    bound = step(step.Settings(), Env("paper", {role: (Binding(role, "hf:some/model"),)}))
    assert bound.skip_reason() == f"is not built in this version (role {role} bound to hf:some/model)"
    with pytest.raises(MissingError, match=f"'{step.kind}' is not built"):
        bound.operators()
    assert bound.writes({}) == MADE
    assert {"id", "media", "kind"} <= set(bound.reads({}))
