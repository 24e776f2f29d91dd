"""The lists that tests draw from: every method, and policies easy to hard."""

from functools import partial

import numpy as np
from reattend import Reweight, Share
from reattend.head_vectors import HeadVectors
from reattend.methods import (
    ACT,
    ADHH,
    CAAC,
    EAH,
    ILVAD,
    OWL,
    PAI,
    PAINT,
    PASTA,
    SPIN,
    VAF,
    VAR,
    VHR,
    ContextEmphasis,
    EvenHeads,
    FarSight,
    HeadMask,
    HeadSteering,
    MiddleLayers,
    RowEdit,
    ScalingVis,
    SoftInjection,
    SplitSoftmax,
)
from reattend.testing import Case
from reattend.testing.sample import sample


def some_items(seed, items):
    return sample(seed).take(np.array(items))


VECTORS = HeadVectors(
    {
        layer: np.random.default_rng(layer).standard_normal((4, 16), np.float32)
        for layer in (0, 2, 3)
    },
    {2: np.array([1.0, 0.5, 0.0, 1.0])},
)
EVIDENCE = (0.0, 1.0, 0.3, 0.0, 0.6, 0.0, 0.0, 0.9, 0.0, 0.2)

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
    Case(
        MiddleLayers(alpha=1.0, layers=(0, 2)),
        neutral=MiddleLayers(alpha=0),
        conserves=True,
        idle=True,
        chunks=True,
    ),
    Case(
        PAINT(top=(0, 3, 5), bottom=(3, 9), layers=(1, 4)),
        neutral=PAINT(),
        conserves=True,
        idle=True,
        one_pass=True,
        chunks=True,
    ),
    Case(
        CAAC(strength=1.4),
        neutral=CAAC(),
        conserves=True,
        idle=True,
        one_pass=True,
        chunks=True,
    ),
    Case(
        OWL("textual", baseline=(9.0, 0.1, 9.0, 0.1, 2.0)),
        neutral=OWL("textual", alpha=0, beta=0, gain=0),
        conserves=True,
        idle=True,
        chunks=True,
    ),
    Case(
        ContextEmphasis(((3, 7), (10, 12)), {0: (1, 2), 4: (0,)}, factor=4),
        neutral=ContextEmphasis(((3, 7),), factor=1),
        conserves=True,
        one_pass=True,
        chunks=True,
    ),
    Case(
        RowEdit(((3, 7), (10, 12)), (0.5, 0.2), {0: (1, 2), 4: (0,)}, phase="both"),
        neutral=RowEdit(((3, 7),), (1,)),
        conserves=True,
        one_pass=True,
        chunks=True,
    ),
    Case(
        EvenHeads({0: (1, 2), 4: (0,)}),
        neutral=EvenHeads({0: (1,)}, epsilon=1),
        conserves=True,
        one_pass=True,
        chunks=True,
    ),
    Case(EAH(threshold=0.05, layers=(1, 3)), neutral=EAH(layers=()), conserves=True, idle=True),
    Case(
        EAH(threshold=0.001, as_published=True),
        neutral=EAH(threshold=9, as_published=True),
        conserves=True,
        idle=True,
        inputs=partial(some_items, items=(0,)),  # it changes a batch's first item alone
    ),
    Case(
        ILVAD(saliency=EVIDENCE),
        neutral=ILVAD(saliency=EVIDENCE, alpha=0),
        conserves=True,
        idle=True,
        chunks=True,
        inputs=partial(some_items, items=(0, 2)),  # images of one size
    ),
    Case(
        SoftInjection(VECTORS, amount=0.3, heads={0: (1, 2), 2: (0, 1, 2)}),
        neutral=SoftInjection(VECTORS, amount=0),
        one_pass=True,
        chunks=True,
    ),
    Case(
        HeadSteering(VECTORS, alpha=0.5, rows="all"),
        neutral=HeadSteering(VECTORS, alpha=0),
        one_pass=True,
        chunks=True,
    ),
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
    "written": Reweight(weight=(0.5, 0.3, 0, 0.2), power=(0, 0, 0, 0)),
    "raised": Reweight(weight=(1, 1, 0.8, 1), to=(0, 3), power=(1, 0.4, 2, 1)),
    "per_item": Reweight(weight=np.linspace(0, 1, 8).reshape(2, 1, 4), to=(1, 2)),
}

# Every method, once: so that it acts in layer 2 of the sample and in a tiny LLaVA.
ACTING = {
    type(method).__name__: method
    for method in (
        ACT(theta=0.08, beta=0.4),
        ADHH({2: (1, 2)}, threshold=0.01),
        CAAC(strength=1.4),
        ContextEmphasis(((3, 7), (10, 12)), {2: (1, 2)}, factor=4),
        EvenHeads({2: (0, 2)}),
        EAH(threshold=0.01, layers=(2,)),
        FarSight(),
        HeadMask({2: (1,)}),
        HeadSteering(VECTORS, alpha=0.5),
        ILVAD(saliency=EVIDENCE),
        MiddleLayers(layers=(2,)),
        OWL("textual"),
        PAI(),
        PAINT(top=(0, 3, 5), bottom=(3, 9)),
        PASTA(((3, 7), (10, 12)), {2: (1, 2)}, alpha=0.2),
        RowEdit(((3, 7), (10, 12)), (0.5, 0.2), {2: (1, 2)}, phase="both"),
        SPIN(r=0.3, gamma=0.2),
        ScalingVis(),
        SoftInjection(VECTORS, rows="all"),
        SplitSoftmax(((3, 7), (10, 12)), {2: (1, 2)}),
        VAF(layers=(2,)),
        VAR(sink_dims=(7, 100), tau=0.5, p=0.2, rho=0.3),
        VHR(layers=(1, 2)),
    )
}
