"Small folders in every layout: smooth random pictures, some with a bright square, and what the tests of commands share."
import csv, re
from pathlib import Path

import cv2, numpy as np, pandas as pd, pytest, tifffile, yaml

N_TRAIN,N_GOOD,N_BAD = 24,6,5 # pictures to train on, good and defective ones to test

def picture(i, hw=(40,48), c=1, dtype=np.uint8):
    "Picture number `i`: smoothed noise in the middle of the range, `h w`, or `h w c` for several channels."
    x = np.random.default_rng(i).normal(size=(*hw, c)).astype(np.float32)
    x = np.stack([cv2.GaussianBlur(x[...,k], (0,0), 2) for k in range(c)], -1)
    x = np.clip(0.4 + 0.2*x/x.std()/2, 0, 0.75)
    x = x if dtype==np.float32 else (x*np.iinfo(dtype).max).astype(dtype)
    return x[...,0] if c==1 else x

def dent(i, hw=(40,48), c=1, dtype=np.uint8):
    "Picture number `i` with a bright square, and its mask `h w` of 0 and 255."
    x,mask = picture(i, hw, c, dtype),np.zeros(hw, np.uint8)
    r = np.random.default_rng(1000+i)
    top,left = (r.integers(2, n-12) for n in hw)
    mask[top:top+10,left:left+10] = 255
    x[mask>0] = 1 if dtype==np.float32 else np.iinfo(dtype).max
    return x, mask

def save(path, a):
    "Writes `a`, `h w` or `h w c` in RGB order; TIFF for what PNG cannot hold."
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix=='.tif': tifffile.imwrite(path, a, photometric='rgb' if a.ndim==3 and a.shape[2]==3 else 'minisblack', **({'planarconfig':'contig'} if a.ndim==3 else {}))
    else: assert cv2.imwrite(str(path), a[...,::-1] if a.ndim==3 else a)
    return path

PLACES = { # folders of training, good and bad pictures, folder of the masks, and the end of their names; by layout
    'mvtec': ('part/train/good', 'part/test/good', 'part/test/dent', 'part/ground_truth/dent', '_mask.png'),
    'btad': ('01/train/ok', '01/test/ok', '01/test/ko', '01/ground_truth/ko', '.png'),
    'visa': (*['part/Data/Images/Normal']*2, 'part/Data/Images/Anomaly', 'part/Data/Masks/Anomaly', '.png'),
    'mtd': (*['MT_Free/Imgs']*2, *['MT_Crack/Imgs']*2, '.png'),
    'csv': (*['images']*3, 'defects', '.png'),
    'folder': ('good', 'good', 'dent', 'masks/dent', '.png'),
}

def _places(layout, ext):
    "`(kind, i) -> path` of pictures, `i -> path` of masks; kinds are train, good, bad."
    *folders,masks,end = PLACES.get(layout, PLACES['folder'])
    at = dict(zip(('train','good','bad'), folders))
    if layout=='mtd': ext = 'jpg'
    def stem(i): return f'exp{1+i%2}_num_{1000*(1+i//2)+i%2}' if layout=='mtd' else f'{i:03d}'
    return lambda kind,i: f'{at[kind]}/{stem(i)}.{ext}', lambda i: f'{masks}/{stem(i)}{end}'

def make_layout(root, layout, bad=N_BAD, masks=True, hw=(40,48), c=1, dtype=np.uint8, ext='png'):
    "A folder in `layout`; pictures are numbered on through train, good and bad."
    root = Path(root)
    at,mask_at = _places(layout, ext)
    rows = []
    for i in range(N_TRAIN+N_GOOD):
        kind = 'train' if i<N_TRAIN else 'good'
        save(root/at(kind, i), picture(i, hw, c, dtype))
        rows.append((at(kind, i), 0, 'good', '', kind))
    for i in range(N_TRAIN+N_GOOD, N_TRAIN+N_GOOD+bad):
        x,m = dent(i, hw, c, dtype)
        save(root/at('bad', i), x)
        if masks: save(root/mask_at(i), m)
        rows.append((at('bad', i), 1, 'dent', mask_at(i) if masks else '', 'bad'))
    if layout=='csv': write_csv(root/'catalog.csv', ['path','label','defect','mask','group'], [(p,y,d,m,f'part {i//2}' if not y else f'bad {i}') for i,(p,y,d,m,_) in enumerate(rows)])
    if layout=='visa': write_csv(root/'split_csv'/'1cls.csv', ['object','split','label','image','mask'], [('part', 'train' if k=='train' else 'test', 'normal' if not y else 'anomaly', p, m) for p,y,_,m,k in rows])
    return root

def fails(f, error=ValueError):
    "The message of the error that `f` raises, which is one line."
    with pytest.raises(error) as e: f()
    text = str(e.value.args[0])
    assert '\n' not in text and len(text)<600
    return text

def write_csv(path, head, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='') as f: csv.writer(f).writerows([head, *rows])
    return path

TINY = { # settings of models that train in a moment, by name
    'cnn_ae': {'nf': 8, 'depth': 2},
    'resnet_ae': {'backbone': 'test_resnet', 'depth': 2, 'nf': 8},
    'vit_ae': {'image_size': 32, 'dim': 48, 'depth': 1, 'heads': 3, 'mlp_dim': 64, 'decoder_dim': 32, 'decoder_heads': 2},
    'diffusion_ae': {'dim': 16, 'dim_mults': [1,2], 'patch': 2, 'timesteps': 100, 'start': 0.3, 'draws': 1},
}
TINY_YAML = yaml.safe_dump({'head': None, 'loss': {'l1': 1, 'ssim': 1}, 'data': {'size': 32, 'workers': 0, 'defects': 0, 'augment': True}, 'models': TINY, 'train': {'epochs': 2, 'bs': 8, 'lr': 0.005}, 'detect': {'far': 0.2, 'search': False, 'flips': False}})

def by_size(hw):
    "Id of a parameter: `32x48`."
    return 'x'.join(map(str, hw))

def by_setting(o):
    "Id of a parameter: a function's name, or settings as `depth 2 nf 8`."
    return o.__name__ if callable(o) else ' '.join(f'{k} {v!r}' for k,v in o.items()) or 'defaults'

def field_cases(values):
    "Parameters `section, field, value` of values by field (`data.size`), with ids as `data.size 7`."
    return [pytest.param(*k.split('.'), v, id=f'{k} {v!r}') for k,vs in values.items() for v in vs]

def check_error(f, kind, *parts):
    "Calling `f` raises an error of this kind, with all the parts in its message."
    text = fails(f, kind)
    assert all(o in text for o in parts), text

KEYS = 'image_auroc image_ap image_f1_max pixel_auroc pixel_ap pixel_f1_max aupro_30 false_alarm_rate detection_rate target_false_alarm_rate'.split()

def check_figures(m):
    "Each figure is in [0,1], or null with a reason."
    for k in KEYS:
        assert k in m
        assert m[k] is not None and 0 <= m[k] <= 1 or m[k] is None and m['why'][k], k
    assert {'threshold','size','why','ci95','per_defect','n','schema'} <= set(m)
    assert not [k for k in m['why'] if m.get(k) is not None]
    for k,(lo,hi) in m['ci95'].items(): assert 0 <= lo <= m[k] <= hi <= 1, k

def check_static(file):
    "An HTML file that loads nothing."
    t = Path(file).read_text(encoding='utf-8')
    assert t.lstrip().lower().startswith('<!doctype html') and t.rstrip().endswith('</html>')
    assert not [o for o in re.findall(r'''(?:src|href|data|poster|action)\s*=\s*["']?([^"'\s>]*)''', t) if not o.startswith(('data:','#'))]
    assert not re.findall(r'@import|url\(\s*["\']?(?!data:|#)\w|<link|<iframe|fetch\(|XMLHttpRequest', t)
    return t

def made_up_scores(seed=0, lift=1., n=40, **kw):
    "A table of scores of `n` images, every second one defective, two images a group; `kw` are more columns."
    rng = np.random.default_rng(seed)
    y = np.arange(n)%2
    t = pd.DataFrame({'path': [f'{i}.png' for i in range(n)], 'label': y, 'defect': np.where(y, 'dent', 'good'), 'split': 'test'})
    return t.assign(group=np.arange(n)//2//2*2+y, score=lift*y+rng.normal(size=n), **kw)

def made_up_decisions(seed, lift):
    "The same for 80 independent images, with decisions."
    return made_up_scores(seed, lift, 80).assign(group=range(80), decision=lambda t: (t.score>1).astype(int))
