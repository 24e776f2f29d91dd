"""Pictures of attention: arrays or a recording in, matplotlib Axes out; extra `reattend[plot]`."""

from reattend.plot.along import column_profile, divergence_along
from reattend.plot.answers import answers_by_setting, changed_words
from reattend.plot.calibration import head_search, strengths
from reattend.plot.figure_file import write_figure
from reattend.plot.keys import attention_on_keys
from reattend.plot.maps import change, head_map
from reattend.plot.objects import objects_on_picture
from reattend.plot.over_picture import attention_by_word, attention_on_picture
from reattend.plot.settings import differences, frontier
from reattend.plot.sink_rates import draw_sinks
from reattend.plot.speed import roofline, scaling
from reattend.plot.stack import masses_by_layer
from reattend.plot.views import View, join_views, tiles

__all__ = [
    "View",
    "answers_by_setting",
    "attention_by_word",
    "attention_on_keys",
    "attention_on_picture",
    "change",
    "changed_words",
    "column_profile",
    "differences",
    "divergence_along",
    "draw_sinks",
    "frontier",
    "head_map",
    "head_search",
    "join_views",
    "masses_by_layer",
    "objects_on_picture",
    "roofline",
    "scaling",
    "strengths",
    "tiles",
    "write_figure",
]
