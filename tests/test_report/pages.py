"What the tests of pages share: what a run has, made up, and a reader that checks a page."
from html.parser import HTMLParser

import numpy as np, pandas as pd

# A name that would do harm if it were not escaped.
EVIL = '"\'><script>alert(1)</script><img src=x onerror=alert(1)>&amp; $x$ \udcff 裂纹'
VOID = ('img','meta','input') # elements without an end tag

def own_scripts(name):
    "Type and id of the scripts of a section."
    data = [('application/json',f'{name}-{k}') for k in ('rows','figures')]
    return [*data, ('text/plain',f'{name}-plotly'), (None,None)]

class Page(HTMLParser):
    "Checks that tags nest, and collects what is on the page."
    def __init__(self, text):
        super().__init__()
        self.open,self.seen,self.attrs,self.text = [],[],[],''
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attrs):
        self.seen.append(name)
        self.attrs.append((name, dict(attrs)))
        if name not in VOID: self.open.append(name)

    def handle_endtag(self, name): assert self.open.pop()==name
    def handle_data(self, s): self.text += s

def check(page, name='live'):
    "Well formed, self-contained, with no scripts but those of the section `name`."
    o = Page(page)
    scripts = [at for k,at in o.attrs if k=='script']
    assert [(at.get('type'), at.get('id')) for at in scripts] in ([], own_scripts(name))
    assert not [at for at in scripts if set(at)-{'type','id'}]
    assert 'link' not in o.seen and 'iframe' not in o.seen
    for k,at in o.attrs:
        assert not [a for a in at if a.startswith('on')]
        if k=='img': assert at['alt'] and at['src'].startswith('data:image/')
    assert '@import' not in page and 'url(' not in page
    return o

def scores(n=40, seed=0):
    rng = np.random.default_rng(seed)
    label = np.repeat([0,1], n//2)
    s = rng.normal(3,1,n)+3*label
    t = pd.DataFrame({'path': [f'/x/y/{i}.png' for i in range(n)], 'label': label})
    t = t.assign(defect=np.where(label==0,'good','crack'), group='', split='test')
    return t.assign(score=s, p_value=rng.random(n), decision=(s>5).astype(int))

def metrics(**kw):
    n = dict(test_good=20, test_defective=20, train=100, val=10, cal=30, cal_groups=12, skipped=0)
    return {**dict(image_auroc=.97, image_ap=.95, pixel_auroc=None, false_alarm_rate=.05, detection_rate=.9,
                   target_false_alarm_rate=.05, threshold=5., size=[64,64], why={'pixel_auroc':'no masks'},
                   ci95={'image_auroc':[.9,.99]}, per_defect={'crack':{'image_auroc':.97,'n':20}}, n=n,
                   heat_max=8.), **kw}

def example(sz=(32,48), c=1, seed=0, **kw):
    rng = np.random.default_rng(seed)
    mask = np.zeros(sz, np.uint8)
    mask[5:20,5:20] = 1
    return {**dict(image=rng.random((*sz,c)), recon=rng.random((*sz,c)), amap=rng.random(sz)*8, mask=mask,
                   path='/x/y/1.png', defect='crack', label=1, score=7., p_value=.01, decision=1), **kw}
