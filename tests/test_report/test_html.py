"Parts of a page: what strangers wrote is escaped, and style sheet and scripts are in the installed package."
import json
from importlib.resources import files
from pathlib import Path

import numpy as np, pandas as pd, pytest

from aead.report.html import as_json, html_page, Markup, read_asset, script, short_path, table_tag, tag
from aead.viz.images import contour_color

from .pages import EVIL, Page

ASSETS = ('page.css','tools.js','live.js','dots.js')

def test_text_is_escaped_unless_marked():
    assert tag('p', '<', Markup('<br>'), title='"')=='<p title="&#34;">&lt;<br></p>'

MAKERS = {'text': lambda s: tag('p', s), 'attribute': lambda s: tag('img', alt=s),
          'table': lambda s: table_tag(('a',s), [(s,s)]), 'page': lambda s: html_page(s, tag('b', s))}

@pytest.mark.parametrize('make', MAKERS.values(), ids=MAKERS)
def test_whatever_a_name_holds(make):
    "Read back, the name is what it was, and it made no element."
    o = Page(str(make(EVIL)))
    assert 'script' not in o.seen
    assert EVIL in o.text or EVIL in [v for _,at in o.attrs for v in at.values()]

NUMBERS = {'nan': (np.float64('nan'), None), 'inf': (float('inf'), None), 'float32': (np.float32(.5), .5),
           'int64': (np.int64(3), 3), 'bool': (np.bool_(True), True), 'tuple': ((1,'a'), [1,'a'])}

@pytest.mark.parametrize('value,want', NUMBERS.values(), ids=NUMBERS)
def test_json_of_numbers(value, want): assert json.loads(as_json({'x': value}))=={'x': want}

def test_json_cannot_end_a_script():
    text = as_json([EVIL, '</script>'])
    assert '<' not in text and json.loads(text)==[EVIL, '</script>']
    assert script(text).count('</')==1

@pytest.mark.parametrize('name', ASSETS)
def test_assets_are_installed(name):
    "Where the package is, in a checkout or in site-packages."
    assert (files('aead')/'assets'/name).is_file()
    text = read_asset(name)
    assert len(text)>500 and max(map(len, text.splitlines()))<=120
    assert '</' not in text and 'url(' not in text and '@import' not in text

def test_no_asset_is_forgotten():
    assert {o.name for o in (files('aead')/'assets').iterdir()}==set(ASSETS)

def test_assets_are_in_the_wheel():
    "`setup.py` lists the folder: a wheel is built from it."
    setup = Path(__file__).resolve().parents[2]/'setup.py'
    if not setup.is_file(): pytest.skip('no checkout')
    assert "'assets/*'" in setup.read_text()

def test_style_sheet():
    "Braces are closed, and the outline of a defect has the colour of all other pictures."
    css = read_asset('page.css')
    assert css.count('{')==css.count('}') and css in html_page('t')
    assert f'stroke: {contour_color};' in css

PATHS = {'deep': ('/a/b/c/d.png','b/c/d.png'), 'file': ('d.png','d.png'), 'Windows': ('C:\\a\\b\\c\\d.png','b/c/d.png'),
         'Path': (Path('c/d.png'),'c/d.png')}

@pytest.mark.parametrize('path,want', PATHS.values(), ids=PATHS)
def test_short_path(path, want): assert short_path(path)==want

def test_cells_know_their_column():
    t = pd.DataFrame({'a': ['x','y'], 'b': [1,2]})
    o = Page(table_tag(('Name','Value'), t.itertuples(index=False)))
    assert [at.get('data-label') for k,at in o.attrs if k=='td']==['Value','Value'] and o.text=='NameValuex1y2'
