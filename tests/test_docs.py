"What of the documentation can be checked without Quarto: every public name documented, links alive, all pages in the sidebar, pages that hold without network."
import re, shutil, subprocess, sys
from pathlib import Path

import numpy as np, pytest
from torch import Tensor

root = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (root/'nbs').is_dir(), reason='the notebooks are not here (tests of an installed wheel)')

@pytest.fixture(scope='module')
def docs():
    "The module `scripts/docs.py`."
    for o in ('nbdev','nbformat'): pytest.importorskip(o)
    sys.path.insert(0, str(root/'scripts'))
    try: import docs
    finally: sys.path.pop(0)
    return docs

# --- the sources

def test_every_public_name_is_documented(docs): assert docs.undocumented() == []
def test_no_link_is_dead(docs): assert docs.broken_links() == []
def test_sidebar_has_every_page_once(docs): assert docs.sidebar_gaps() == []

@pytest.fixture(scope='module')
def made(docs, tmp_path_factory):
    "The pages as Quarto gets them, with the signatures of all names."
    to = tmp_path_factory.mktemp('pages')
    code = f'import sys; sys.path.insert(0, {str(root/"scripts")!r}); import docs; docs.process({str(to)!r})'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=root)  # cells would register models here
    assert done.returncode==0, done.stderr[-2000:]
    return to

def test_pages_are_whole_and_hold_without_network(docs, made): assert docs.page_faults(made) == []

def test_pages_show_no_private_names_without_a_picture(docs, made):
    "A visible cell of tests is folded; a cell that uses private names is folded, or absent if it shows nothing."
    import nbformat as nf
    for f in sorted(made.rglob('*.ipynb')):
        for c in nf.read(f, 4).cells:
            body = docs.pages.parse(c) if c.cell_type=='code' and not docs.pages.is_entry(c) else []
            folded = re.search(r'^#\| code-fold: true', c.source, re.M)
            assert folded or not docs.pages.private_names(body), (f.name, c.source)
            assert folded or not body or c.outputs or not all(map(docs.pages.is_test, body)), (f.name, c.source)

def test_pictures_have_a_text_alternative(docs): assert docs.silent_pictures() == []

def test_quarto_settings_hold_without_network(docs):
    import yaml
    html = yaml.safe_load((root/'_quarto.yml').read_text())['format']['html']
    assert html['html-math-method']=='mathml' and '$web-font-path: false' in (root/'nbs'/html['theme'][1]).read_text()

# --- that the checks find what they look for

def documented(x, # `b c h w`
               n:int=1, # copies
               **kw # for `print`
              ): # shaped as `x`
    "Says it."
    return x

def silent(x, n=1): return x
def shapeless(x:np.ndarray # an image
             )->Tensor: # another
    "Says half of it."
    return x

class Loud:
    "A class."
    def __init__(self, a): self.a = a
    def run(self, b # a number
           ): return b

def test_lacks(docs):
    assert list(docs.function_lacks(documented, 'f')) == []
    assert [o.split(': ')[1] for o in docs.function_lacks(silent, 'f')] == ['argument x is not documented', 'argument n is not documented', 'what it returns is not documented']
    assert [o.split(' is ')[0] for o in docs.function_lacks(shapeless, 'f')] == ['f: x', 'f: return']
    assert [o.split(': ')[0] for o in docs.class_lacks(Loud, 'Loud')] == ['Loud.__init__', 'Loud.run', 'Loud.run']

@pytest.mark.parametrize('heading,anchor', [('Recommendations','recommendations'), ('From the command line','from-the-command-line'), ('What a p-value says','what-a-p-value-says'),
                                            ('`cnn_ae`, and why','cnn_ae-and-why'), ('2. See [this](x.ipynb)','see-this')])
def test_slug(docs, heading, anchor): assert docs.slug(heading)==anchor

@pytest.fixture
def copy(docs, tmp_path, monkeypatch):
    "A small project of two pages, in place of this one."
    import nbformat as nf
    (tmp_path/'nbs'/'a').mkdir(parents=True)
    def write(name, *texts): nf.write(nf.v4.new_notebook(cells=[nf.v4.new_markdown_cell(o) for o in texts]), tmp_path/'nbs'/name)
    write('index.ipynb', '# Home', '## Here\n\n[a page](a/page.ipynb), [its part](a/page.ipynb#a-part), [here](#here), `[no](link.ipynb)`')
    write('a/page.ipynb', '# Page', '## A part\n\n[home](../index.ipynb)')
    for o in ('README.md','CONTRIBUTING.md'): (tmp_path/o).write_text('# Home\n\n[there](nbs/index.ipynb#here), [home](#home)')
    (tmp_path/'nbs'/'sidebar.yml').write_text('website: {sidebar: {contents: [index.ipynb, {section: A, contents: [a/page.ipynb]}]}}')
    monkeypatch.setattr(docs, 'root', tmp_path)
    monkeypatch.setattr(docs, 'nbs', tmp_path/'nbs')
    return tmp_path, write

def test_dead_links_are_found(docs, copy):
    d,write = copy
    assert docs.broken_links()==[] and docs.sidebar_gaps()==[]
    write('a/page.ipynb', f'[gone](gone.ipynb), [a title](../index.ipynb#home), [out](../../README.md), [file]({docs.repo}/blob/main/nothing.md), [far](https://quarto.org)')
    assert [o.split(': ')[1].split('#')[0].split(' ')[0] for o in docs.broken_links() if 'page.ipynb: ' in o]==['gone.ipynb', '../index.ipynb', '../../README.md', f'{docs.repo}/blob/main/nothing.md']
    write('b.ipynb', '# B')
    (d/'nbs'/'sidebar.yml').write_text('website: {sidebar: {contents: [index.ipynb, index.ipynb, 20_x.ipynb, 10_y.ipynb]}}')
    assert len(docs.sidebar_gaps())==6

def test_built_sites_are_checked(docs, tmp_path):
    (tmp_path/'site_libs').mkdir()
    head = '<!doctype html><html><head><link rel="stylesheet" href="site_libs/s.css"></head>'
    def page(body): return f'{head}<body>{body}</body></html>'
    (tmp_path/'site_libs'/'s.css').write_text('@font-face{src:url("./f.woff")} @font-face{src:url(data:font/woff;base64,AA)}')
    (tmp_path/'index.html').write_text(page('<h1 id="top">Home</h1><a href="b.html#part">b</a><a href="#top">up</a><a href="https://quarto.org">far</a>'))
    (tmp_path/'b.html').write_text(page('<h2 id="part">B</h2><a href="./">home</a>'))
    assert docs.site_faults(tmp_path)==[]
    (tmp_path/'b.html').write_text(page('<a href="c.html">c</a><a href="index.html#nowhere">n</a><img src="gone.png"><script src="https://cdn.example/x.js"></script>'))
    (tmp_path/'site_libs'/'s.css').write_text('@import"https://fonts.example/css";')
    wrong = docs.site_faults(tmp_path)
    assert len(wrong)==6 and sum('loads' in o for o in wrong)==2      # and index.html links to a part that b.html has no more
    shutil.rmtree(tmp_path/'site_libs')
    assert docs.site_faults(tmp_path/'nothing')==[f"no pages in {tmp_path/'nothing'}"]

def test_tables_bring_no_scripts(docs):
    import nbformat as nf
    out = nf.v4.new_output('display_data', data={'text/html': '<table></table>', 'text/plain': 'a'})
    nb = nf.v4.new_notebook(cells=[nf.v4.new_code_cell('x', outputs=[out])], metadata={'widgets': {}})
    docs.hold_offline(nb)
    assert set(nb.cells[0].outputs[0].data)=={'text/plain','text/markdown'} and '<table>' in nb.cells[0].outputs[0].data['text/markdown'] and 'widgets' not in nb.metadata

def test_names_link_within_the_site(docs):
    "nbdev links names to the site's address on the network, also within links, and to names that have no entry."
    def url(m, n): return f'https://docs.invalid/aead/{m}.html#{n}'
    text = f"[`cnn_ae`]({url('models.cnn_ae','cnn_ae')}), [`_maker`]({url('data.synthetic','_maker')}), [see [`cnn_ae`]({url('models.cnn_ae','cnn_ae')}) and [`csv`]({url('data.catalog','csv')})](../x.ipynb)"
    assert docs.localize(text, 1)=='[`cnn_ae`](../models.cnn_ae.html#cnn_ae), `_maker`, [see `cnn_ae` and `csv`](../x.ipynb)'

# --- cells on their way to a page

def cells(*sources, kind='code'):
    import nbformat as nf
    new = nf.v4.new_code_cell if kind=='code' else nf.v4.new_markdown_cell
    return nf.v4.new_notebook(cells=[new(o) for o in sources])

def with_output(nb, i, **data):
    import nbformat as nf
    nb.cells[i].outputs = [nf.v4.new_output('display_data', data={k.replace('_', '/'): v for k,v in data.items()})]
    return nb

def test_scripts_are_found_where_they_would_run(docs):
    entry = '### f\n\n```python\ndef f(\n    a, # goes into `<script>`\n)\n```\n\n*Writes `<script>`.*'
    assert not docs.has_script({'text/markdown': entry})
    assert docs.has_script({'text/markdown': entry+'\n\n```{=html}\n<script>1</script>\n```'}) and docs.has_script({'image/svg+xml': '<svg><script>1</script></svg>'})
    assert docs.output_faults({'text/plain': '<script>', 'text/html': '<b>', 'image/png': ''})==['text/html']

def test_signatures_hold_no_links(docs):
    entry = '---\n\n\n\n### f\n\n```python\ndef f(\n    a:NoneType=None, # as [`g`](b.html#g) takes it\n    n:int=1\n)\n```\n\n*See [`g`](b.html#g).*'
    assert docs.pages.plain_signature(entry)=='### f {.entry}\n\n```python\ndef f(\n    a=None, # as `g` takes it\n    n:int=1\n)\n```\n\n*See [`g`](b.html#g).*'

def test_entries_stand_in_the_order_of_their_cell(docs):
    from execnb.nbio import dict2nb
    from nbdev.process import NBProcessor
    from nbdev.processors import add_show_docs
    code = ['#| export\ndef a(): pass\ndef b(): pass\nclass C: pass', 'a()', '#| export\ndef d(): pass\ndef e(): pass']
    nb = dict2nb(cells(*code))
    NBProcessor(nb=nb, procs=[add_show_docs, docs.pages.entry_order()]).process()
    assert [o.source for o in nb.cells if o.source.startswith('show_doc')]==[f'show_doc({o})' for o in 'abCde']

@pytest.mark.parametrize('code,private,fate', [
    ('test_eq(1, 1)\nassert True', False, 'folded'), ('for i in range(2): test_fail(lambda: i)', False, 'folded'), ('x = 1\ntest_eq(x, 1)', False, 'shown'),
    ('with d: test_eq(1, 1)\nelse_ = 2', False, 'shown'), ('_f(1)', False, 'gone'), ('o._f', True, 'folded'), ('_,b = f()', False, 'shown'),
    ('class A:\n    def __len__(self): return 2', False, 'shown'), ('print(1)', True, 'shown')], ids=lambda o: str(o).replace('\n', '; '))
def test_tests_and_private_names_step_back(docs, code, private, fate):
    nb = cells(code)
    if private: with_output(nb, 0, text_plain='1')
    docs.pages.fold_tests(nb)
    assert fate==('gone' if not nb.cells else 'folded' if 'code-fold: true' in nb.cells[0].source else 'shown')

def test_tests_in_a_row_are_one(docs):
    nb = cells('test_eq(1, 1)', 'test_eq(2, 2)', 'a = 1', 'test_eq(a, 1)')
    docs.pages.fold_tests(nb)
    assert [o.source.count('test_eq') for o in nb.cells]==[2,0,1] and nb.cells[0].source.count('code-fold')==1

def test_tutorials_show_what_they_teach(docs):
    nb = cells('test_eq(1, 1)', 'def f(): pass', '@register\ndef g(): pass', 'class C: pass', 'plt.plot(a)', 'plt.plot(a)', 'f()')
    with_output(nb, 4, image_png='aa')
    docs.pages.fold_tests(nb, tutorial=True)
    fate = {o.source.splitlines()[-1]: o.source.splitlines()[1] if 'code-fold' in o.source else '' for o in nb.cells}
    assert fate=={'def f(): pass': '#| code-summary: "Helper"', 'def g(): pass': '', 'class C: pass': '', 'plt.plot(a)': '', 'f()': ''}
    assert '#| code-summary: "Code of the figure"' in nb.cells[3].source and len(nb.cells)==6

def test_alternatives_become_one_line(docs):
    nb = cells('#| echo: false\n#| fig-alt: Bricks: one is broken,\n#|   and the map is red there.\nshow()\n#| odd', 'show()')
    with_output(with_output(nb, 0, image_png='aa'), 1, image_png='aa')
    docs.pages.join_alternatives(nb)
    assert nb.cells[0].source=='#| echo: false\n#| fig-alt: "Bricks: one is broken, and the map is red there."\nshow()\n#| odd'
    assert [docs.pages.lacks_alternative(o) for o in nb.cells]==[False,True]
    docs.pages.join_alternatives(nb)                                                    # a second time changes nothing
    assert '#| fig-alt: "Bricks: one is broken, and the map is red there."' in nb.cells[0].source

def test_pictures_get_their_width(docs):
    import base64, io
    from PIL import Image
    with io.BytesIO() as f:
        Image.new('L', (40,20)).save(f, 'png')
        dot = base64.b64encode(f.getvalue()).decode()
    svg = '<svg xmlns:x="a" width="300pt" height="150pt" viewBox="0 0 300 150"><rect width="3pt"/></svg>'
    nb = with_output(with_output(cells('a', 'b'), 0, **{'image_svg+xml': svg}), 1, image_png=dot, image_jpeg=dot)
    docs.pages.size_pictures(nb)
    assert nb.cells[0].outputs[0].data['image/svg+xml']==svg.replace('width="300pt" height="150pt"', 'width="640" height="320"')
    assert set(nb.cells[1].outputs[0].data)=={'image/png'} and nb.cells[1].outputs[0].metadata['image/png']=={'width': 120, 'height': 60}

def test_lost_texts_are_found(docs):
    texts = ['# A page\n\n> What it `is`.', 'Its [introduction](b.ipynb#c).\n\nMore of `it`.', '## A part']
    page = cells(*[o.replace('(b.ipynb#c)', '(b.html#c)').replace('`it`', '[`it`](x.html#it)') for o in texts[1:]], kind='md')
    import nbformat as nf
    page.cells.insert(0, nf.v4.new_raw_cell("---\ndescription: What it `is`.\ntitle: A page\n---\n"))
    source = cells(*texts, kind='md')
    assert list(docs.pages.lost_texts(source, page))==[]
    del page.cells[1]
    source.cells[0].source += '\n\nAn introduction in the cell of the title.'
    assert [o[:5] for o in docs.pages.lost_texts(source, page)]==['# A p','Its i']

@pytest.mark.parametrize('name,said', [('image_auroc','image AUROC'), ('low','from'), ('auroc_crack','AUROC, crack'), ('better_than','better than'), ('vit_ae','vit_ae'), ('variant','variant'), ('','')])
def test_headings_are_words(docs, name, said): assert docs.pages.plain_heading(name, docs.metric_labels())==said

def test_tables_have_headings_in_words(docs):
    nb = with_output(cells('t'), 0, text_markdown='<table><th>image_auroc</th><th style="a">low</th><th></th><td>low</td></table>')
    docs.pages.plain_headings(nb, docs.metric_labels())
    assert nb.cells[0].outputs[0].data['text/markdown']=='<table><th>image AUROC</th><th style="a">from</th><th></th><td>low</td></table>'

@pytest.mark.parametrize('frame,heads', [('plain', ['','a','b']), ('named', ['what','a','b']), ('two', ['data','what','a','b']), ('columns', ['what','a','b'])])
def test_tables_have_one_row_of_headings(docs, frame, heads):
    import pandas as pd
    df = pd.DataFrame({'what': ['x','y'], 'data': ['u','v'], 'a': [1,2], 'b': [3,4]})
    index = dict(plain=[], named=['what'], two=['data','what'], columns=['what'])[frame]
    df = df.set_index(index)[['a','b']] if index else df[['a','b']]
    if frame=='columns': df.columns.name = 'split'
    nb = with_output(cells('t'), 0, text_markdown=df._repr_html_())
    docs.pages.tidy_tables(nb)
    text = nb.cells[0].outputs[0].data['text/markdown']
    assert '<style' not in text and re.findall(r'<th>(.*?)</th>', text.split('</thead>')[0])==heads

# --- settings of the site

def test_settings_name_what_is_there(docs):
    "Links of the bar and of the page for lost readers, the picture of Open Graph, the icon; each page has words in the sidebar."
    import yaml
    nbs,web = root/'nbs',yaml.safe_load((root/'_quarto.yml').read_text())['website']
    linked = [*(o['href'] for o in web['navbar']['left']), *re.findall(r'\]\(/([^)]+)\)', (nbs/'404.qmd').read_text()), web['favicon'], web['open-graph']['image']]
    assert len(linked)>10 and [o for o in linked if not (nbs/o).is_file()]==[]
    def items(o): return [x for i in o for x in [i, *items(i.get('contents', []))]]
    entries = items(yaml.safe_load((nbs/'sidebar.yml').read_text())['website']['sidebar']['contents'])
    assert all(o.get('text') or o.get('section') for o in entries)

def test_addresses_of_the_site(docs, tmp_path, monkeypatch):
    f = tmp_path/'nbdev.yml'
    for url,want in (('', 'website:\n  title: "a"\n'), ('https://me.io/a', 'website:\n  site-url: "https://me.io/a"\n  title: "a"\n')):
        f.write_text('website:\n  title: "a"\n  site-url: "https://docs.invalid/a"\n')
        monkeypatch.setattr(docs, 'site_url', url)
        docs.drop_addresses(f)
        assert f.read_text()==want
    (tmp_path/'404.html').write_text('<a href="/a/404.html">x</a><a href="/a/gone.html">y</a>')
    assert docs.site_faults(tmp_path)==['404.html: /a/gone.html (no such file)']
