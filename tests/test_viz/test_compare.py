"Several models in one figure: quality against cost, differences of pairs, two runs image by image."
import numpy as np, pandas as pd

from aead.compare import get_differences, get_pairs
from aead.viz.compare import fig_differences, fig_models, fig_pairs, get_models, plot_models, plot_pairs

from ..helpers import made_up_decisions

def test_quality_against_cost(drawn):
    metrics = pd.DataFrame(dict(run=['a','b','c'], image_auroc=[.7,.9,.8], image_auroc_low=[.6,.8,np.nan],
                                image_auroc_high=[.8,.95,np.nan]))
    m = get_models(metrics, pd.DataFrame(dict(name=['c','b','a'], median_ms=[3.,20.,5.], file_mib=[1.,9.,4.])))
    fig,p = drawn(fig_models(m, area='file_mib')),plot_models(m, area='file_mib')
    ax = fig.axes[0]
    assert [o.get_offsets()[0].tolist() for o in ax.collections]==[[3,.8],[5,.7],[20,.9]]==[[o.x[0],o.y[0]] for o in p.data]
    assert len(ax.lines)==2 and [o.get_text() for o in ax.texts]==['c','a','b']
    size = [o.get_sizes()[0] for o in ax.collections]
    assert size[0]<size[1]<size[2] and ax.get_xscale()=='log'

def test_differences(drawn):
    t = {'a': made_up_decisions(0, .2), 'b': made_up_decisions(1, 3.), 'c': made_up_decisions(2, 1.)}
    d = get_differences(t)
    ax = drawn(fig_differences(d)).axes[0]
    assert np.allclose([o.get_xdata()[0] for o in ax.lines[2::2]], d.difference)
    none = get_differences({k: o.assign(group=o.label) for k,o in t.items()})
    assert len(fig_differences(none).axes[0].lines)==4      # a point a pair, no intervals

def test_image_by_image(drawn):
    p = get_pairs(made_up_decisions(0, 1.), made_up_decisions(1, 1.))
    fig,q = drawn(fig_pairs(p, ('a','b'))),plot_pairs(p, ('a','b'))
    assert sum(len(o.get_offsets()) for o in fig.axes[0].collections)==80==sum(len(o.x) for o in q.data[1:])
    assert fig.axes[0].get_xlabel()=='rank in a' and q.layout.yaxis.title.text=='rank in b'
