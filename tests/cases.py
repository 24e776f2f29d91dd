"""The lists that tests draw from: every method, and policies easy to hard."""

import numpy as np
from reattend import Reweight, Share
from reattend.methods import (
    ACT,
    ADHH,
    PAI,
    PASTA,
    SPIN,
    VAF,
    VAR,
    VHR,
    FarSight,
    HeadMask,
    ScalingVis,
    SplitSoftmax,
)
from reattend.testing import Case

METHODS = [
    Case(VAR(), neutral=VAR(p=1), conserves=True, idle=True, one_pass=True),
    Case(
        VAR(sink_dims=(7, 100), tau=0.5, p=0.2, rho=0.3),
        neutral=VAR(sink_dims=(7, 100), tau=0.5, p=1, rho=0.3),
        conserves=True,
        idle=True,
        one_pass=True,
        chunks=True,
    ),
    Case(VHR(), neutral=VHR(alpha=1), idle=True, one_pass=True),
    Case(VHR(heads={0: (1,), 2: (0, 3)}), neutral=VHR(heads={}), idle=True, one_pass=True),
    Case(VHR(alpha=0.5, layers=(0, 2)), neutral=VHR(alpha=1, layers=()), idle=True, one_pass=True),
    Case(ACT(), neutral=ACT(beta=1), conserves=True, idle=True),
    Case(ACT({2: (0, 3), 3: (1,)}, theta=0.13), neutral=ACT({}), conserves=True, idle=True),
    Case(
        HeadMask({0: (1,), 3: (0, 2)}),
        neutral=HeadMask({0: (1,)}, gate=1),
        one_pass=True,
        chunks=True,
    ),
    Case(HeadMask(None, gate=-1), neutral=HeadMask(), one_pass=True, chunks=True),
    Case(
        ADHH({1: (0, 3), 2: (1, 2)}, threshold=0.3),
        neutral=ADHH(None, threshold=2),
        idle=True,
        one_pass=True,
        chunks=True,
    ),
    Case(SPIN(), neutral=SPIN(r=1), idle=True, one_pass=True, chunks=True),
    Case(SPIN(r=0.3, gamma=0), neutral=SPIN(gamma=1), idle=True, one_pass=True, chunks=True),
    Case(
        PASTA(((3, 7), (10, 12)), {0: (1, 2), 4: (0,)}),
        neutral=PASTA(((3, 7),), alpha=1),
        conserves=True,
        one_pass=True,
        chunks=True,
    ),
    Case(
        PASTA(((3, 7), (10, 12)), alpha=0.3, as_published=True),
        neutral=PASTA(),
        conserves=True,
        one_pass=True,
        chunks=True,
    ),
    Case(
        SplitSoftmax(((3, 7), (10, 12)), {0: (1, 2), 4: (0,)}),
        neutral=SplitSoftmax(((3, 7),), k=1),
        conserves=True,
        one_pass=True,
        chunks=True,
    ),
    Case(PAI(), neutral=PAI(alpha=0), conserves=True, idle=True, one_pass=True, chunks=True),
    Case(
        PAI(alpha=1.5, layers=(0, 4)),
        neutral=PAI(layers=()),
        conserves=True,
        idle=True,
        one_pass=True,
        chunks=True,
    ),
    Case(
        VAF(layers=(1, 3)),
        neutral=VAF(1, 1),
        conserves=True,
        idle=True,
        one_pass=True,
        chunks=True,
    ),
    Case(ScalingVis(), neutral=ScalingVis(w=1), conserves=True, idle=True, chunks=True),
    Case(FarSight(), one_pass=True, chunks=True),
    Case(FarSight(sigma=0.3, slopes=False), one_pass=True, chunks=True),
    Case(ACT(update_sinks=False), neutral=ACT(theta=1), conserves=True, idle=True),
]

POLICIES = {
    "identity": Reweight(weight=(1, 1, 1, 1)),
    "scale": Reweight(weight=(2, 2, 2, 2)),
    "drop_one": Reweight(weight=(1, 0, 1, 1)),
    "hand_on": Reweight(weight=(1, 0.4, 1, 1), to=(0, 2, 3)),
    "receivers_give_too": Reweight(weight=(0.9, 0.4, 1, 1), to=(0, 2)),
    "gated": Reweight(weight=(1, 0.6, 0.6, 1), to=(3,), when=Share((2, 3), 0.3)),
    "gated_twice": Reweight(
        weight=(1, 0.6, 0.6, 1),
        to=(3,),
        when=(Share((2, 3), 0.2), Share((3,), 0.5, within=(2, 3))),
    ),
    "per_head": Reweight(weight=np.linspace(0, 2, 16).reshape(1, 4, 4), to=(0,)),
    "per_item": Reweight(weight=np.linspace(0, 1, 8).reshape(2, 1, 4), to=(1, 2)),
}
