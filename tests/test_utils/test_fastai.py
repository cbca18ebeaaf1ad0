"What fastai users call on a learner: it does what they expect, or says in one line what to call instead."
import matplotlib.pyplot as plt, pytest, torch
from fastai.callback import schedule # noqa: F401 (methods of `Learner`)
from fastai.interpret import Interpretation

from aead.data.loaders import get_dls
from aead.interpret import AnomalyInterpretation
from aead.learner import anomaly_learner
from aead.models.zoo import create_autoencoder

from ..helpers import TINY

@pytest.fixture(scope='module')
def learn(synth):
    "A learner on images with synthetic defects, trained for an epoch."
    torch.manual_seed(0)
    dls = get_dls(synth, 32, 8, workers=0, device='cpu', defects=.5)
    learn = anomaly_learner(dls, create_autoencoder('cnn_ae', ni=1, **TINY['cnn_ae']), fast=False)
    learn.fine_tune(1)
    return learn

def images_in(axs): return sum(len(o.images) for o in axs)

def rows_of(fig): return [o for o in (ax.get_ylabel() for ax in fig.axes) if o]

def test_usual_calls(learn, synth):
    "Rates, losses, validation, summary, predictions of other images."
    assert len(learn.recorder.plot_loss(skip_start=0).lines)==2
    assert learn.lr_find(num_it=12, show_plot=False).valley>0
    assert learn.validate()[0]>0 and 'Total params' in learn.summary()
    preds,(clean,mask,valid) = learn.get_preds(dl=learn.dls.test_dl(synth.path[:3].tolist()))
    assert preds.shape==clean.shape==(3,1,32,32) and not mask.any() and valid.all()
    learn.dls.show_batch(max_n=4)
    assert images_in(plt.gcf().axes)==4

def test_show_results(learn, synth):
    "A row more where the model saw corrupted images."
    learn.show_results(max_n=2)
    assert rows_of(plt.gcf())==['image','corrupted','reconstruction','error'] and images_in(plt.gcf().axes)==8
    learn.show_results(dl=learn.dls.test_dl(synth.path[:3].tolist()))
    assert rows_of(plt.gcf())==['image','reconstruction','error'] and images_in(plt.gcf().axes)==9

def test_losses_of_images(learn):
    "Each is that of a batch of one; their mean is the loss of the validation; fastai's own class has the same."
    each = learn.image_losses()
    x,clean,mask,valid = (o[None] for o in learn.dls.valid_ds[1])
    learn.model.eval()
    with torch.no_grad(): one = learn.loss_func(clean, learn.model(x), valid=valid)
    assert torch.isclose(each[1], one) and each.equal(learn.get_preds(with_loss=True)[-1])
    assert abs(float(each.mean())-learn.validate()[0]) < 1e-3
    assert Interpretation.from_learner(learn).top_losses(2)[0].equal(AnomalyInterpretation.from_learner(learn).top_losses(2)[0])

def test_top_losses(learn):
    "Sorted, with their paths, and the pictures of those images."
    interp = AnomalyInterpretation.from_learner(learn)
    losses,at,paths = interp.top_losses(3, items=True)
    assert losses.tolist()==sorted(interp.losses.tolist())[:-4:-1] and list(paths)==[learn.dls.valid_ds.paths[i] for i in at]
    assert len(interp.top_losses(99)[0])==len(interp.losses)
    interp.plot_top_losses(2)
    assert plt.gcf().axes[0].get_title()==f'loss {losses[0]:.3g}'
    drawn = torch.as_tensor(plt.gcf().axes[2].images[0].get_array())
    assert torch.allclose(drawn, learn.dls.valid_ds[int(at[0])][0][0])                # what the model saw

@pytest.mark.parametrize('call', [lambda o: o.predict(0), lambda o: o.tta(), lambda o: o.export('x.pkl'),
    lambda o: Interpretation.from_learner(o).plot_top_losses(1)], ids=['predict','tta','export','plot_top_losses'])
def test_one_line_says_what_to_call(learn, call):
    with pytest.raises(TypeError, match='Anomaly(Detector|Interpretation)') as e: call(learn)
    assert '\n' not in str(e.value)
