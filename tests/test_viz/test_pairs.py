"""Figures of pairs of models."""
import numpy as np

from aead.compare import get_differences, get_pairs
from aead.viz.compare import fig_differences, fig_pairs, plot_pairs

from ..helpers import made_up_decisions

def test_differences():
    t = {'a': made_up_decisions(0, .2), 'b': made_up_decisions(1, 3.), 'c': made_up_decisions(2, 1.)}
    d = get_differences(t)
    ax = fig_differences(d).axes[0]
    assert np.allclose([o.get_xdata()[0] for o in ax.lines[2::2]], d.difference)
    none = get_differences({k: o.assign(group=o.label) for k,o in t.items()})
    assert len(fig_differences(none).axes[0].lines)==4      # a point a pair, no intervals

def test_image_by_image():
    p = get_pairs(made_up_decisions(0, 1.), made_up_decisions(1, 1.))
    fig,q = fig_pairs(p, ('a','b')),plot_pairs(p, ('a','b'))
    assert sum(len(o.get_offsets()) for o in fig.axes[0].collections)==80==sum(len(o.x) for o in q.data[1:])
    assert fig.axes[0].get_xlabel()=='rank in a' and q.layout.yaxis.title.text=='rank in b'
