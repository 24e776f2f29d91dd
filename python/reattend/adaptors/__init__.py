"""Adaptors: other people's models as they are, with reattend as their attention.

Importing this imports no framework; each is asked for when it is used.
"""

import reattend.adaptors.transformers as transformers

__all__ = ["transformers"]
