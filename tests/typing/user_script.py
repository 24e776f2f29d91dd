"""Ten lines of a user, which mypy and pyright read in their strict modes."""

import numpy as np
import numpy.typing as npt
import reattend as ra

query = np.zeros((1, 2, 5, 8), np.float32)
out: npt.NDArray[np.float32] = ra.attention(query, query, query, causal=True)
labels = np.array([[[0, 1, 1, 0, 0]]], np.uint8)
policy = ra.Reweight(weight=(0.8, 1), to=(1,))
found = ra.attention(query, query, query, segments=labels, policy=policy, returns="masses")
assert found.masses is not None
session = ra.Session([ra.VAR(sink_dims=(1415, 2533)), ra.VHR()], num_layers=32)
print(out.shape, found.masses[..., 1].max(), session.report().to_dict())
