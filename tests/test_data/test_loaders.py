"""Loaders: the same epoch whenever it is asked for, each image once a pass, passes of any length."""
import subprocess, sys

import pytest, torch

from aead.data.dataset import ImageDataset
from aead.data.loaders import get_dls
from ..helpers import same

# --- loaders

def epoch_of(dls, k):
    dls.train.set_epoch(k)
    return [torch.cat(o) for o in zip(*dls.train)]

@pytest.mark.parametrize('workers', [0,2])
def test_an_epoch_is_the_same_whenever_it_is_asked_for(synth, workers):
    def make(seed=0, w=workers): return get_dls(synth, 32, 5, seed=seed, workers=w, device='cpu')
    dls = make()
    epochs = [epoch_of(dls, k) for k in range(3)]
    assert same(epoch_of(make(), 2), epochs[2])              # a run that resumes
    assert same(epoch_of(make(w=0), 1), epochs[1])           # whatever the workers
    assert same(epoch_of(dls, 0), epochs[0])
    others = (epochs[0],epochs[1]),(epochs[1],epochs[2]),(epochs[0],epoch_of(make(1), 0))
    for a,b in others: assert not torch.equal(a[0], b[0])

def test_each_image_once_an_epoch_and_in_another_order(synth):
    dls = get_dls(synth, 32, 5, augment=False, workers=0, device='cpu')
    def key(x): return [o.numpy().tobytes() for o in x]
    want = sorted(key(ImageDataset(synth[synth.split=='train'], 32)[i][0] for i in range(10)))
    orders = [key(epoch_of(dls, k)[0]) for k in range(4)]
    assert all(sorted(o)==want for o in orders) and len({tuple(o) for o in orders})==4

def test_validation_is_not_varied(synth):
    dls = get_dls(synth, 32, 5, workers=0, device='cpu')
    ds = ImageDataset(synth[synth.split=='val'], 32)
    for k in (0,1):
        dls.train.set_epoch(k)
        want = [torch.stack(o) for o in zip(*(ds[i] for i in range(len(ds))))]
        assert same([torch.cat(o) for o in zip(*dls.valid)], want)

@pytest.mark.parametrize('bs,sizes', [(3,[3,3,3]), (10,[10]), (64,[10])], ids=['several','exact','larger'])
def test_batch_sizes(synth, bs, sizes):
    dls = get_dls(synth, 32, bs, workers=0, device='cpu')
    assert [len(b[0]) for b in dls.train]==sizes

def test_loader_errors(synth):
    for s in ('train','val'):
        with pytest.raises(ValueError, match=f"no images in '{s}'"): get_dls(synth[synth.split!=s], 32)
    bad = synth.assign(split=synth.split.replace('test','train'))
    with pytest.raises(ValueError, match='20 training images are defective'): get_dls(bad, 32)

def test_loader_processes_after_threads_were_used(tmp_path):
    "OpenCV's pool of threads must not be inherited by a forked loader process, which would wait for it forever."
    code = '''if True:
        import numpy as np, pandas as pd, cv2
        from aead.data.loaders import get_dls
        maps = np.random.rand(2,2000,2000).astype(np.float32)
        cv2.remap(np.zeros((2000,2000), np.float32), *maps, 1)     # starts a pool, if there is one
        df = pd.DataFrame({'path': range(24), 'mask': '', 'label': 0, 'split': ['train']*16+['val']*8})
        def read(i, c): return np.random.default_rng(i).random((256,256,1), dtype='float32')
        dls = get_dls(df, size=256, bs=4, workers=2, augment={'elastic': 1.}, read=read)
        for e in range(3):
            dls.train.set_epoch(e)
            assert len(list(dls.train))==4
        assert cv2.getNumThreads()<=1
    '''
    subprocess.run([sys.executable, '-c', code], check=True, timeout=120, capture_output=True)

@pytest.mark.parametrize('batches', [1,3,11])
def test_a_pass_of_any_length(synth, batches):
    dl = get_dls(synth, 32, 4, workers=0, device='cpu', batches=batches).train
    dl.set_epoch(2)
    idxs,n = dl.get_idxs(),len(dl.dataset)
    assert len(dl)==batches and len(list(dl))==batches and len(idxs)==4*batches==len(set(idxs))
    rounds = [sorted(i%n for i in idxs[k:k+n]) for k in range(0, len(idxs), n)]
    assert all(len(set(o))==len(o) for o in rounds) and all(o==list(range(n)) for o in rounds[:-1] if len(o)==n)
    assert dl.get_idxs()==idxs
