"""The methods, one paper a file: this is the table of contents."""

from reattend.methods.act import ACT
from reattend.methods.var import VAR
from reattend.methods.vhr import VHR

__all__ = ["ACT", "VAR", "VHR"]
