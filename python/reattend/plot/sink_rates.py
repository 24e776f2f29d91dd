"""The picture: how much attention each head spends on sinks, before and after the methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reattend.call import Call
from reattend.method import Method
from reattend.methods import ACT
from reattend.observer import Observer, States
from reattend.optional import demand
from reattend.plot.figure_file import write_figure
from reattend.plot.lettering import broken
from reattend.plot.maps import change, head_map
from reattend.policy import Array
from reattend.sinks import column_sinks

_TITLE, _CAPTION = 14, 9  # points
_FIRST, _LATER = 1, 2  # labels of the first key and of sinks behind it


class SinkShares(NamedTuple):
    """Mean share of a head's attention on sinks, over the prompt's rows but the first."""

    before: Array  # [L, H, 2], on the first key and on later sinks, as softmax gave it
    after: Array  # [L, H, 2], as the methods left it


class WatchedSession(Observer):
    """A session that also notes how much of the prompt's attention goes to sinks.

    A later sink of a head is a key, behind the first, whose attention is above ``theta`` in the
    mean over the rows that see it (ACT's rule). What is noted comes from segment masses and column
    sums: the attention matrix never exists. It costs each layer one more pass, on the prompt only.

    Parameters
    ----------
    methods : Method or sequence of Method
        As for `Session`.
    num_layers, num_heads : int
        Of the model.
    theta : float, optional
        The threshold.

    Examples
    --------
    >>> session = WatchedSession([], num_layers=1, num_heads=2)
    >>> query = key = value = np.zeros((1, 2, 3, 8), dtype=np.float32)
    >>> with session.generation():
    ...     out = session.attend(0, query, key, value)
    >>> session.shares().before[0].round(3).tolist()
    [[0.417, 0.583], [0.417, 0.583]]
    """

    def __init__(
        self,
        methods: Method | Sequence[Method],
        *,
        num_layers: int,
        num_heads: int,
        theta: float = ACT.theta,
    ) -> None:
        super().__init__(methods, num_layers=num_layers, num_heads=num_heads)
        self.theta = theta
        self._shares = np.zeros((2, num_layers, num_heads, 2))

    def observe(self, call: Call, states: States) -> None:
        """Note the sinks of a whole prompt.

        Parameters
        ----------
        call, states
            As for `Observer.observe`.

        Examples
        --------
        See the example of the class.
        """
        if 1 < call.query.shape[2] == call.key_len:
            self._note(call, states)

    def shares(self) -> SinkShares:
        """Give what was noted of the last prompt, the mean over the batch.

        Examples
        --------
        See the example of the class.
        """
        return SinkShares(*self._shares.copy())

    def _note(self, call: Call, states: States) -> None:
        means = call.column_sums() / np.maximum(call.row_counts, 1)[:, None]
        labels = np.where(column_sinks(means, self.theta), _LATER, 0).astype(np.uint8)
        np.put_along_axis(labels, call.first_key[:, None, None], _FIRST, axis=-1)
        look = self.look(call, labels, 3, states)
        rows = call.rows[None] > call.first_key[:, None]  # [B, N]: the first row sees one key only
        for masses, shares in zip((look.before, look.after), self._shares, strict=True):
            mean = np.einsum("bhng,bn->hg", masses, rows) / max(int(rows.sum()), 1)
            for column, label in enumerate((_FIRST, _LATER)):
                shares[call.layer, :, column] = mean[:, look.labels == label].sum(-1)


def draw_sinks(path: str | Path, shares: SinkShares, *, title: str, caption: str) -> None:
    """Draw heat maps of layers and heads: before, after and the difference; before alone if equal.

    Parameters
    ----------
    path : path
        Where to write, as .png, .pdf or .svg. The file is there in full or not at all.
    shares : SinkShares
        What to draw.
    title, caption : str
        Above and below.

    Raises
    ------
    ValueError
        If the path ends otherwise.
    MissingPackageError
        If matplotlib is not installed.

    Examples
    --------
    >>> import tempfile
    >>> shares = SinkShares(*np.random.default_rng(0).random((2, 4, 3, 2)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_sinks(Path(folder, "sinks.png"), shares, title="Sinks", caption="random numbers")
    """
    write_figure(path, lambda: _figure(shares, title, caption))


def _figure(shares: SinkShares, title: str, caption: str) -> Any:
    # Without pyplot: no window, no global state.
    figures = demand("matplotlib.figure")
    changed = not np.array_equal(shares.before, shares.after)
    num_layers = len(shares.before)
    names = ("the first key", "later sinks")
    # One row of maps for each kind of sink; without a difference the two stand side by side.
    grid = (2, 3) if changed else (1, 2)
    height = float(np.clip(0.13 * num_layers, 2.2, 5.0))
    width = 3.9 * grid[1]
    title = broken(title, width - 0.3, _TITLE, weight="bold")
    caption = broken(caption, width - 0.3, _CAPTION)
    lettering = (title.count("\n") * _TITLE + caption.count("\n") * _CAPTION) * 1.25 / 72
    figure = figures.Figure(
        figsize=(width, height * grid[0] + 1.3 + lettering), layout="constrained"
    )
    figure.suptitle(title, fontsize=_TITLE, fontweight="bold")
    figure.supxlabel(caption, fontsize=_CAPTION, color="0.3")
    axes = figure.subplots(*grid, squeeze=False)
    for kind, name in enumerate(names):
        top = max(float(shares.before[..., kind].max()), float(shares.after[..., kind].max()), 0.01)
        before, after = shares.before[..., kind], shares.after[..., kind]
        look: dict[str, Any] = {"percent": True, "label": ""}
        if not changed:
            head_map(before, high=top, title=name, ax=axes[0, kind], **look)
            continue
        for at, when, values in zip(axes[kind], ("before", "after"), (before, after), strict=False):
            head_map(values, high=top, title=f"{name}, {when}", ax=at, **look)
        change(before, after, title=f"{name}, after - before", ax=axes[kind, 2], **look)
    return figure
