"""The data set: every depth and size, augmentation and defects that depend on image, epoch and seed only, bad files."""
import pickle, threading, time
from pathlib import Path

import cv2, numpy as np, pandas as pd, pytest, tifffile, torch
from PIL import Image

from aead.data.dataset import ImageDataset, check_images, read_batches, typical_shape
from aead.data.preprocessing import read_image
from ..helpers import by_size, draw, draw_mask, same, table

# --- items

@pytest.mark.parametrize('c', [1,3,5])
@pytest.mark.parametrize('dtype', ['uint8','uint16'])
def test_every_depth_and_number_of_channels(tmp_path, rng, c, dtype):
    top = np.iinfo(dtype).max
    a = rng.integers(0, top, (16,24,c), endpoint=True).astype(dtype)
    how = dict(photometric='rgb' if c==3 else 'minisblack', **(dict(planarconfig='contig') if c>1 else {}))
    tifffile.imwrite(tmp_path/'a.tif', a if c>1 else a[...,0], **how)
    ds = ImageDataset(table([tmp_path/'a.tif']), (16,24))
    x,clean,mask,valid = ds[0]
    assert x.shape==(c,16,24) and x.dtype==torch.float32 and torch.equal(x, clean)
    assert np.abs(x.numpy().transpose(1,2,0).astype(float)*top-a).max() < 2e-3*top/255
    assert not mask.any() and valid.all() and mask.shape==valid.shape==(16,24)

@pytest.mark.parametrize('resize', ['stretch','pad','crop'])
@pytest.mark.parametrize('hw', [(32,32),(24,40),(64,16)], ids=by_size)
@pytest.mark.parametrize('aug', [False,True])
def test_sizes(tmp_path, resize, hw, aug):
    h,w = 20,50
    draw(tmp_path/'a.png', 0, (h,w))
    m = np.zeros((h,w), np.uint8)
    m[8:12,22:28] = 255
    Image.fromarray(m).save(tmp_path/'m.png')                         # in the middle: no mode cuts it off
    x,clean,mask,valid = ImageDataset(table([tmp_path/'a.png'], [str(tmp_path/'m.png')]), hw, resize, augment=aug)[0]
    assert x.shape==(3,*hw)==clean.shape and mask.shape==valid.shape==hw
    assert all(o.dtype==torch.float32 for o in (x,clean,mask,valid))
    assert 0<=x.min() and x.max()<=1 and set(mask.unique().tolist())=={0,1} and set(valid.unique().tolist())<={0,1}
    if resize!='pad': assert valid.all()
    elif not aug:
        r = min(hw[0]/h, hw[1]/w)
        assert valid.sum()==round(h*r)*round(w*r) and not (mask*(1-valid)).any() and not (x*(1-valid)).any()

def test_a_flip_moves_mask_and_padding_along(tmp_path):
    a = np.zeros((20,40,3), np.uint8)
    a[3:6,4:9] = 255
    Image.fromarray(a).save(tmp_path/'a.png')
    Image.fromarray(a[...,0]).save(tmp_path/'m.png')
    off = dict(elastic=0, brightness=0, contrast=0, noise=0, hflip=.5, vflip=.5, rotate90=.5)
    ds = ImageDataset(table([tmp_path/'a.png']*8, [str(tmp_path/'m.png')]*8), 40, 'pad', augment=off)
    seen = set()
    for i in range(8):
        x,_,mask,valid = ds[i]
        assert torch.equal((x[0]>.5).float(), mask) and valid.sum()==20*40 and not (mask*(1-valid)).any()
        seen.add(tuple(mask.nonzero()[0].tolist()))
    assert len(seen)>3

@pytest.mark.parametrize('aug', [False,True])
def test_keeping_images_in_memory_changes_nothing(synth, aug):
    kept,fresh = (ImageDataset(synth, 32, augment=aug, cache_mb=o) for o in (64,0))
    for epoch in (0,1,0):
        kept.epoch = fresh.epoch = epoch
        assert all(same(kept[i], fresh[i]) for i in range(len(synth)))

def test_memory_for_images_has_a_limit(synth):
    reads = []
    def read(p, channels=None):
        reads.append(p)
        return read_image(p, channels)
    ds = ImageDataset(synth, 256, read=read, cache_mb=2, channels=3)
    one = 256*256*(3*4+1)
    for _ in range(2): [ds[i] for i in range(len(synth))]
    again = len(reads)-len(synth)
    assert len(synth)-2*2**20//one <= again < len(synth)          # some were kept, never more than fit

def test_augmentation_depends_on_image_epoch_and_seed_only(synth):
    def make(**kw): return ImageDataset(synth, 32, augment=True, **kw)
    ds,n = make(),len(synth)
    first = [ds[i] for i in range(n)]
    for i in reversed(range(n)): assert same(make()[i], first[i])                 # whatever came before
    [ds[i] for i in (3,3,5)]
    assert same(ds[4], first[4])
    np.random.seed(5)
    torch.manual_seed(5)
    assert same(ds[7], first[7])
    ds.epoch = 1
    other = [ds[i] for i in range(n)]
    assert np.mean([torch.equal(a[0], b[0]) for a,b in zip(first, other)]) < .2    # another epoch
    again = make(seed=1)
    assert np.mean([torch.equal(first[i][0], again[i][0]) for i in range(n)]) < .2  # another seed
    ds.epoch = 0
    assert same(ds[2], first[2])

def test_augmentation_of_twins_differs(tmp_path):
    draw(tmp_path/'a.png', 0)
    ds = ImageDataset(table([tmp_path/'a.png']*6), 32, augment=True)
    assert len({ds[i][0].numpy().tobytes() for i in range(6)})>=5

@pytest.mark.parametrize('workers', [0,2])
def test_augmentation_does_not_depend_on_workers(synth, workers):
    ds = ImageDataset(synth, 32, augment=True)
    dl = torch.utils.data.DataLoader(ds, batch_size=8, num_workers=workers)
    want = [torch.stack(o) for o in zip(*(ImageDataset(synth, 32, augment=True)[i] for i in range(len(synth))))]
    assert same([torch.cat(o) for o in zip(*dl)], want)

def test_augmentation_does_not_depend_on_threads(synth):
    want = [torch.stack(o) for o in zip(*(ImageDataset(synth, 64, augment=True)[i] for i in range(len(synth))))]
    for _ in range(3):
        got = [b for _,b in read_batches(ImageDataset(synth, 64, augment=True), 8, threads=4)]
        assert same([torch.cat(o) for o in zip(*got)], want)

def test_unknown_augmentation_is_named(synth):
    with pytest.raises(KeyError, match='hflop'): ImageDataset(synth, 32, augment=dict(hflop=.5))

# --- files that cannot be read

@pytest.fixture
def damaged(tmp_path):
    "Eight images: number 2 is truncated, 5 is missing, the mask of 6 has another size."
    paths = [draw(tmp_path/f'{i}.png', i) for i in range(8)]
    raw = Path(paths[2]).read_bytes()
    Path(paths[2]).write_bytes(raw[:len(raw)//2])
    Path(paths[5]).unlink()
    masks = ['']*8
    draw_mask(tmp_path/'m.png', 0, (9,9))
    masks[6] = str(tmp_path/'m.png')
    return table(paths, masks)

@pytest.mark.parametrize('bs', [1,2,3,8,50])
def test_batches_skip_and_report_bad_files(damaged, bs):
    good,bad = [],{}
    for i,b in read_batches(ImageDataset(damaged, 16), bs):
        if isinstance(b, Exception): bad[i] = b
        else:
            assert len(i)==len(b[0])<=bs
            good += i
    assert good==[0,1,3,4,7] and list(bad)==[2,5,6]
    assert '2.png' in str(bad[2]) and '5.png' in str(bad[5]) and 'm.png' in str(bad[6])

def test_check_images_leaves_bad_ones_out(damaged):
    with pytest.raises(ValueError, match='m.png'): check_images(damaged)     # a mask that does not fit is an error
    damaged['mask'] = ''
    with pytest.warns(UserWarning, match='2 of 8 images'): df,c,bad = check_images(damaged)
    assert c==3 and list(bad)==[damaged.path[2], damaged.path[5]]
    assert df.path.tolist()==damaged.path.drop([2,5]).tolist() and df.index.tolist()==list(range(6))
    with pytest.raises(ValueError, match='none of the 2'): check_images(damaged.iloc[[2,5]])

def test_check_images_wants_one_number_of_channels(tmp_path):
    df = table([draw(tmp_path/'a.png', 0, c=1), draw(tmp_path/'b.png', 0, c=3)])
    with pytest.raises(ValueError, match='set channels to 1 or 3'): check_images(df)
    for c in (1,3): assert check_images(df, c)[1]==c

# --- batches

@pytest.mark.parametrize('n,bs,threads', [(0,4,2),(1,4,1),(7,4,2),(8,4,3),(13,1,2)])
def test_batches_come_in_order(tmp_path, n, bs, threads):
    def read(p, c=None):
        time.sleep(.003*(int(p)%3==0))                       # some take longer
        return np.full((8,8,1), int(p)/100, np.float32)
    got = list(read_batches(ImageDataset(table(range(n)), 8, read=read), bs, threads))
    assert [i for o,_ in got for i in o]==list(range(n))
    assert [len(o) for o,_ in got]==[bs]*(n//bs)+[n%bs]*(n%bs>0)
    if n: assert torch.equal(torch.cat([b[0] for _,b in got])[:,0,0,0], torch.arange(n)/100)

def test_only_a_few_batches_are_in_memory():
    started,lock = [0],threading.Lock()
    def read(p, c=None):
        with lock: started[0] += 1
        return np.zeros((8,8,1), np.float32)
    bs,used,most = 4,0,0
    batches = read_batches(ImageDataset(table(range(200)), 8, read=read, cache_mb=0), bs, threads=4)
    for rows,_ in batches:
        time.sleep(.002)
        most,used = max(most, started[0]-used),used+len(rows)
        if used==100: break
    assert used==100 and bs <= most <= 4*bs
    batches.close()
    assert started[0] <= 100+4*bs                            # who stops early does not read the rest

# --- synthetic defects

def test_defects_depend_on_image_epoch_and_seed_only(synth):
    df = synth[synth.split=='train'].reset_index(drop=True)
    a,b,c = (ImageDataset(df, 32, defects=1., seed=s, cache_mb=m) for s,m in ((0,64),(0,0),(1,64)))
    xs = [a[i] for i in range(6)]
    assert all(torch.equal(p, q) for i in reversed(range(6)) for p,q in zip(xs[i], b[i]))
    assert not all(torch.equal(xs[i][0], c[i][0]) for i in range(6))
    a.epoch = 1
    assert not all(torch.equal(xs[i][0], a[i][0]) for i in range(6))

@pytest.mark.parametrize('augment', [False,True])
def test_only_marked_pixels_differ_from_clean(synth, augment):
    df = synth[synth.split=='train'].reset_index(drop=True)
    ds = ImageDataset(df, 32, augment=augment, defects=1., seed=3)
    plain = ImageDataset(df, 32, augment=augment, seed=3)
    n = 0
    for i in range(8):
        x,clean,mask,valid = ds[i]
        assert torch.equal(clean, plain[i][0]) and torch.equal(x[:,mask==0], clean[:,mask==0])
        assert x.min()>=0 and x.max()<=1
        n += int(mask.any())
    assert n >= 6

def test_defects_stay_out_of_the_padding(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        smooth = cv2.GaussianBlur(rng.integers(0, 256, (20,60), np.uint8), (0,0), 1.5)
        cv2.imwrite(str(tmp_path/f'{i}.png'), smooth)
    df = pd.DataFrame({'path': [str(tmp_path/f'{i}.png') for i in range(6)], 'mask': ''})
    ds = ImageDataset(df, 64, 'pad', defects=1.)
    for i in range(6):
        x,clean,mask,valid = ds[i]
        assert 0 < valid.mean() < 1 and not mask[valid==0].any() and torch.equal(x[:,valid==0], clean[:,valid==0])

@pytest.mark.parametrize('share', [0,.3,1])
def test_share_of_images_with_defects(synth, share):
    ds = ImageDataset(synth[synth.split=='train'].reset_index(drop=True), 32, defects=float(share))
    got = np.mean([bool(ds[i+k*len(ds)][2].any()) for k in range(40) for i in range(5)])
    assert abs(got-share) < .12

def test_rows_out_of_use(synth):
    df = synth[synth.split=='train'].reset_index(drop=True)
    ds,part = ImageDataset(df, 32),ImageDataset(df, 32)
    part.use = [3,1]
    assert len(part)==2 and torch.equal(part[0][0], ds[3][0]) and torch.equal(part[3][0], ds[1][0])

def test_pickles_for_workers_that_are_spawned(tmp_path):
    "Windows and macOS start loader processes afresh, so a data set must pickle, and give the same items there."
    draw(tmp_path/'a.png', 0)
    df = table([tmp_path/'a.png'])
    ds = ImageDataset(df, 32, augment=True, defects=1.)
    again = pickle.loads(pickle.dumps(ds))
    for a,b in zip(ds[0], again[0]): assert torch.equal(a, b)

# --- crops

def frames(n=4, hw=(100,160), c=1):
    "Images whose pixels tell where they are, and a data set of them."
    i,j = np.indices(hw, dtype=np.float32)
    def read(p, channels=None): return np.stack([i/hw[0], j/hw[1], np.full(hw, p/10, np.float32)], -1)
    return pd.DataFrame({'path': range(n), 'mask': ''}), read

def place(x, hw=(100,160)): return round(float(x[0,0,0])*hw[0]),round(float(x[1,0,0])*hw[1])

def test_crops_are_parts_of_the_frame_and_depend_on_seed_epoch_and_index():
    df,read = frames()
    def make(**kw): return ImageDataset(df, (100,160), crop=(48,48), read=read, **kw)
    ds = make()
    def places(ds): return [place(ds[i][0]) for i in range(8)]
    first = places(ds)
    for i,(top,left) in enumerate(first):
        assert np.array_equal(ds[i][0].numpy(), ds.load(i%4)[0][top:top+48,left:left+48].transpose(2,0,1))
    assert len(set(first))>5 and places(make())==first and places(make(cache_mb=0))==first
    ds.epoch = 1
    assert places(ds)!=first and places(make(seed=1))!=first
    assert all(o.shape==(3,48,48) for o in make(augment=True)[0][:2])

def test_crops_reach_every_pixel_often():
    df,read = frames(1)
    ds,seen = ImageDataset(df, (100,160), crop=(48,48), read=read),np.zeros((100,160))
    for i in range(400):
        top,left = place(ds[i][0])
        seen[top:top+48,left:left+48] += 1/400
    assert seen.min()>.02 and seen[50,80]<.3                # uniform places would leave corners to one crop in 6000

def test_crops_hold_picture_and_not_padding_alone():
    wide = np.ones((40,400,1), np.float32)
    ds = ImageDataset(pd.DataFrame({'path': [0], 'mask': ''}), (400,400), 'pad', crop=(32,32), read=lambda p,c: wide)
    for i in range(40): assert ds[i][3].any()
    empty = ImageDataset(pd.DataFrame({'path': [0], 'mask': ''}), (64,64), crop=(32,32), read=lambda p,c: wide, defects=1.)
    assert [o.shape[-2:] for o in empty[0]]==[(32,32)]*4

def test_the_mask_is_cropped_with_the_image(tmp_path):
    draw(tmp_path/'a.png', 0, (64,96))
    draw_mask(tmp_path/'m.png', 0, (64,96))
    ds = ImageDataset(table([tmp_path/'a.png'], [tmp_path/'m.png']), (64,96), crop=(32,32))
    whole = ImageDataset(table([tmp_path/'a.png'], [tmp_path/'m.png']), (64,96))[0]
    for i in range(10):
        x,_,mask,_ = ds[i]
        at = [(a,b) for a in range(33) for b in range(65) if torch.equal(whole[0][:,a:a+32,b:b+32], x)]
        assert any(torch.equal(whole[2][a:a+32,b:b+32], mask) for a,b in at)

def test_defects_are_drawn_on_crops():
    df,read = frames(3)
    ds = ImageDataset(df, (100,160), crop=(64,64), read=read, defects=1., cache_mb=4)
    drawn = 0
    for i in range(6):
        x,clean,mask,_ = ds[i]
        assert torch.equal(x[:,mask==0], clean[:,mask==0])
        drawn += bool(mask.any())
    assert drawn>=5

@pytest.mark.parametrize('hw,n', [((64,64),1), ((64,96),2), ((100,160),4)], ids=['a crop','two','many'])
def test_views_cover_the_frame_together(hw, n):
    df,read = frames(9, hw)
    ds = ImageDataset(df, hw, crop=(64,64), read=read)
    seen = np.zeros(hw)
    for i in range(9):
        views = ds.views(i)
        assert len(views)==n and len({place(o[0].transpose(2,0,1), hw) for o in views})==n
        for img,mask,valid in views:
            top,left = place(img.transpose(2,0,1), hw)
            assert img.shape[:2]==valid.shape==(64,64) and mask is None
            seen[top:top+64,left:left+64] += 1
    assert (seen>0).all()

def test_the_cache_counts_what_it_keeps():
    df,read = frames(6)
    one = 100*160*(3*4+1)
    ds = ImageDataset(df, (100,160), read=read, cache_mb=1)
    for _ in range(3):
        for i in range(6): ds.load(i)
    assert sum(sum(o.nbytes for o in item if o is not None) for item in ds._cache.values())==5*one<=2**20
    assert len(ds._cache)==5 and ds._room==2**20-5*one

# --- typical shape

@pytest.mark.parametrize('shapes,want', [
    ([(480,640)]*9, (480,640)), ([(480,640)]*9+[(640,480)], (480,640)), ([(480,640)]*5+[(640,480)]*5, (480,480)),
    ([(100,100),(110,100),(100,112)], (100,100)), ([(30,300),(300,300),(300,30)], (30,30)), ([(96,128),(192,256),(480,640)], (192,256))])
def test_typical_shape(shapes, want):
    images = [np.zeros((*o,1), np.float32) for o in shapes]
    df = pd.DataFrame({'path': range(len(images)), 'mask': ''})
    assert typical_shape(df, lambda p,c: images[p])==want
