"""The methods, one paper a file: this is the table of contents.

What is not here, and why: a row's mean and deviation (ONLY) are known only when the row is done,
so its side branch is a measure; OPERA's roll-back and VISTA's steering happen outside attention, in
the loop and after the MLP. The manual says where papers are found that have another name here.
"""

from reattend.methods.act import ACT
from reattend.methods.adhh import ADHH
from reattend.methods.caac import CAAC
from reattend.methods.context_emphasis import ContextEmphasis
from reattend.methods.eah import EAH
from reattend.methods.even_heads import EvenHeads
from reattend.methods.farsight import FarSight
from reattend.methods.head_mask import HeadMask
from reattend.methods.head_steering import HeadSteering
from reattend.methods.ilvad import ILVAD
from reattend.methods.middle_layers import MiddleLayers
from reattend.methods.owl import OWL
from reattend.methods.pai import PAI
from reattend.methods.paint import PAINT
from reattend.methods.pasta import PASTA
from reattend.methods.row_edit import RowEdit
from reattend.methods.scaling_vis import ScalingVis
from reattend.methods.soft_injection import SoftInjection
from reattend.methods.spin import SPIN
from reattend.methods.split_softmax import SplitSoftmax
from reattend.methods.vaf import VAF
from reattend.methods.var import VAR
from reattend.methods.vhr import VHR

__all__ = [
    "ACT",
    "ADHH",
    "CAAC",
    "EAH",
    "ILVAD",
    "OWL",
    "PAI",
    "PAINT",
    "PASTA",
    "SPIN",
    "VAF",
    "VAR",
    "VHR",
    "ContextEmphasis",
    "EvenHeads",
    "FarSight",
    "HeadMask",
    "HeadSteering",
    "MiddleLayers",
    "RowEdit",
    "ScalingVis",
    "SoftInjection",
    "SplitSoftmax",
]
