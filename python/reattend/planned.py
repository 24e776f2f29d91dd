"""What a method plans for a call, brought to the rows that the plan's two words name."""

from __future__ import annotations

from typing import Any

from reattend.call import Call
from reattend.method import Method
from reattend.plan import Plan


def planned(method: Method, call: Call, state: Any) -> tuple[Plan | None, Any]:
    """Ask a method for its plan, and keep of it what is for rows of this call.

    Parameters
    ----------
    method : Method
        Whose plan it is.
    call : Call
        What the method is shown.
    state
        What it returned last for this layer.

    Returns
    -------
    plan : Plan or None
        For all rows of its ``where``, as `compose` takes it. The very object that the last call
        had, where the method's plan is and its words leave out no row of either.
    state
        What to hand back next time.

    Examples
    --------
    >>> import numpy as np
    >>> from reattend.call import Prompt
    >>> from reattend.methods import HeadMask
    >>> query = key = np.zeros((1, 2, 3, 4), np.float32)
    >>> call = Call(0, 1, query, key, key, Prompt(3))
    >>> planned(HeadMask({0: (1,)}, rows="last"), call, None)[0].where.tolist()
    [[[False, False, True]]]
    """
    plan, state = method.plan(call, state)
    if plan is None or plan.everywhere:
        return plan, state
    if not call.prefill and plan.phase != "prefill" and plan.rows != "after_image":
        return plan.unscoped, state  # every row of a step chooses a word
    return plan.only(call.in_scope(plan.rows, plan.phase), call.first_row), state
