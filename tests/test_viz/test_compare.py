"Several models in one figure: quality against cost."
import numpy as np, pandas as pd

from aead.viz.compare import fig_models, get_models, plot_models

def test_quality_against_cost(drawn):
    metrics = pd.DataFrame(dict(run=['a','b','c'], image_auroc=[.7,.9,.8], image_auroc_low=[.6,.8,np.nan], image_auroc_high=[.8,.95,np.nan]))
    m = get_models(metrics, pd.DataFrame(dict(name=['c','b','a'], median_ms=[3.,20.,5.], file_mib=[1.,9.,4.])))
    fig,p = drawn(fig_models(m, area='file_mib')),plot_models(m, area='file_mib')
    ax = fig.axes[0]
    assert [o.get_offsets()[0].tolist() for o in ax.collections]==[[3,.8],[5,.7],[20,.9]]==[[o.x[0],o.y[0]] for o in p.data]
    assert len(ax.lines)==2 and [o.get_text() for o in ax.texts]==['c','a','b']
    size = [o.get_sizes()[0] for o in ax.collections]
    assert size[0]<size[1]<size[2] and ax.get_xscale()=='log'
