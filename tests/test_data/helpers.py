"""Tiny folders in every layout, with the truth about them, and what the tests of this folder share."""
from pathlib import Path

import numpy as np, pandas as pd, torch
from PIL import Image

from aead.data.synthetic import make_synthetic, plan_synthetic, synthetic_images

def draw(path, i, hw=(20,24), c=3):
    "Writes image number `i`, random pixels."
    path.parent.mkdir(parents=True, exist_ok=True)
    a = np.random.default_rng([i, len(path.name)]).integers(0, 256, (*hw,c), dtype=np.uint8)
    Image.fromarray(a if c==3 else a[...,0]).save(path)
    return str(path)

def draw_mask(path, i, hw=(20,24), v=255):
    "Writes mask number `i`, a small rectangle of value `v`."
    path.parent.mkdir(parents=True, exist_ok=True)
    m = np.zeros(hw, np.uint8)
    m[2+i%7:9+i%7, i%11:i%11+3+i%4] = 1
    Image.fromarray(m*v).save(path)
    return m

# --- folders; each function returns `{path: (defect, mask or None)}`, the truth

def like_mvtec(root, good='good', bad=('crack','dent'), mask='{}_mask.png', v=255):
    truth = {}
    for i in range(16):
        truth[draw(root/'nut'/('train' if i<12 else 'test')/good/f'{i:03d}.png', i)] = 'good',None
    for k,d in enumerate(bad):
        for i in range(3): # the same stems in each class: masks must not be mixed up
            p = root/'nut'/'test'/d/f'{i:03d}.png'
            m = draw_mask(root/'nut'/'ground_truth'/d/mask.format(p.stem), 3*k+i, v=v)
            truth[draw(p, 20+10*k+i)] = d, m
    return truth

def like_btad(root): return like_mvtec(root, 'ok', ('ko',), '{}.png')

def like_visa(root):
    truth,rows,data = {},[],Path('nut')/'Data'
    for i in range(16):
        p = data/'Images'/'Normal'/f'{i:04d}.JPG'
        truth[draw(root/p, i)] = 'good',None
        rows.append(('nut', 'train' if i<12 else 'test', 'normal', p.as_posix(), ''))
    for i in range(4):
        p,m = data/'Images'/'Anomaly'/f'{i:03d}.JPG',data/'Masks'/'Anomaly'/f'{i:03d}.png'
        truth[draw(root/p, 30+i)] = 'anomaly', draw_mask(root/m, i, v=i+1)
        rows.append(('nut', 'test', 'anomaly', p.as_posix(), m.as_posix()))
    (root/'split_csv').mkdir()
    t = pd.DataFrame(rows, columns=['object','split','label','image','mask'])
    t.to_csv(root/'split_csv'/'1cls.csv', index=False)
    return truth

def like_mtd(root):
    truth,n = {},0
    for t in range(12): # tiles of their own sizes, far apart in number, at three exposures
        hw = (30+6*t, 40+5*(t%4))
        for e in (1,3,6):
            n += 1
            truth[draw(root/'MT_Free'/'Imgs'/f'exp{e}_num_{1000*t+n}.jpg', n, hw, 1)] = 'good',None
    for t in range(3):
        p = root/'MT_Crack'/'Imgs'/f'exp2_num_{50_000+1000*t}.jpg'
        truth[draw(p, 90+t, (32,44), 1)] = 'crack', draw_mask(p.with_suffix('.png'), t, (32,44))
    draw_mask(root/'MT_Free'/'Imgs'/'exp1_num_1.png', 0, (30,40), 0)
    return truth

def like_folder(root):
    truth = {draw(root/'good'/f'sub{i%2}'/f'{i:02d}.png', i): ('good',None) for i in range(14)}
    for i in range(2): # masks beside their images
        truth[draw(root/'crack'/f'{i}.jpg', 40+i)] = 'crack', draw_mask(root/'crack'/f'{i}.png', i)
    for i in range(2): # masks in a folder of their own
        m = draw_mask(root/'ground_truth'/'dent'/f'{i}_mask.png', 4+i)
        truth[draw(root/'dent'/f'{i}.png', 50+i)] = 'dent', m
    truth[draw(root/'hole'/'7.bmp', 60)] = 'hole',None
    (root/'.hidden').mkdir()
    draw(root/'.hidden'/'x.png', 0)
    (root/'notes.txt').write_text('not an image')
    return truth

def mask_of(root, p):
    "Where `like_folder` puts the mask of `p`."
    p = Path(p)
    return p.with_suffix('.png') if p.suffix=='.jpg' else root/'ground_truth'/'dent'/f'{p.stem}_mask.png'

def like_csv(root):
    truth = like_folder(root)
    rows = [dict(path=Path(p).relative_to(root).as_posix(), label=int(d!='good'), defect=d, group=f'part{i//2}',
                 mask='' if m is None else mask_of(root, p).relative_to(root).as_posix())
            for i,(p,(d,m)) in enumerate(truth.items())]
    pd.DataFrame(rows).to_csv(root/'catalog.csv', index=False)
    return truth

def like_synthetic(root):
    "The truth comes from the plan, not from what was written."
    kw = dict(textures='brick', sz=48, n_shots=1, n_regions=12)
    make_synthetic(root, **kw)
    plan = plan_synthetic(**kw)
    made = zip(plan.itertuples(), synthetic_images(plan, 48))
    return {str(root/o.path): (o.defect, m if o.label else None) for o,(_,m) in made}

generators = dict(synthetic=like_synthetic, mvtec=like_mvtec, btad=like_btad, visa=like_visa, mtd=like_mtd,
                  folder=like_folder, csv=like_csv)

# --- catalogs and tensors

def whole(s):
    "No part is in two of train, val, cal, or in one of them and in test."
    for g,o in s.groupby('group').split: assert len(set(o)-{''})<=1 or set(o)=={'test',''}, g

def table(paths, masks=None, split='train'):
    "A catalog of good images, each a group of its own."
    paths = [str(o) for o in paths]
    masks = masks or ['']*len(paths)
    return pd.DataFrame(dict(path=paths, label=0, defect='good', mask=masks, group=paths, split=split))

def same(a, b):
    "Whether two items or batches are equal, tensor by tensor."
    return len(a)==len(b) and all(torch.equal(o, p) for o,p in zip(a, b))
