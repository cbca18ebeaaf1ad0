"Parts of a page: what strangers wrote is escaped, and style sheet and scripts are in the installed package."
import json, re
from base64 import b64decode
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np, pandas as pd, pytest

from aead.report.html import (
    as_json, csv_link, html_page, Markup, read_asset, script, section_tag, share_tag, short_path, table_tag, tag)
from aead.viz.images import contour_color

from .pages import check, EVIL, Page

ASSETS = ('page.css','tools.js','page.js','plots.js','live.js')
OF_DASHBOARD = ('chart.js','dashboard.css','thumbnails.css','thumbnails.js')

def test_text_is_escaped_unless_marked():
    assert tag('p', '<', Markup('<br>'), title='"')=='<p title="&#34;">&lt;<br></p>'

MAKERS = {'text': lambda s: tag('p', s), 'attribute': lambda s: tag('img', alt=s),
          'table': lambda s: table_tag(('a',s), [(s,s)]), 'section': lambda s: html_page(s, section_tag(s, tag('b', s))),
          'page': lambda s: html_page(s, tag('b', s))}

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
    assert {o.name for o in (files('aead')/'assets').iterdir()}=={*ASSETS, *OF_DASHBOARD}

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

def test_contents_lead_to_the_sections():
    page = html_page('t', section_tag('Missed: 3 of 9', key='missed', name='Missed (3)'), section_tag('A & B'))
    o = check(page)
    assert [at['href'] for k,at in o.attrs if k=='a']==['#missed','#a-b']
    assert o.text.index('Missed (3)')<o.text.index('Missed: 3 of 9')

def test_a_page_without_sections_has_no_links(): assert check(html_page('t', tag('p', 'x'))).seen.count('a')==0

def test_the_table_is_in_the_link():
    "What is saved is the table, whatever it holds."
    t = pd.DataFrame({'image': ['a,b.png',EVIL], 'score': [1.5,None]})
    at = Page(csv_link(t, 'scores.csv', 'Save')).attrs[0][1]
    assert at['download']=='scores.csv'
    back = pd.read_csv(BytesIO(b64decode(at['href'].split('base64,')[1])))
    assert back.image.tolist()==['a,b.png', EVIL.encode('utf-8', 'replace').decode()] and back.score[0]==1.5

@pytest.mark.parametrize('n,of,width,says', [(1,4,'25%','1 of 4 (25 %)'), (0,0,'0%','0 of 0 (0 %)'), (2,3,'66.7%','2 of 3 (66.7 %)')],
    ids=['quarter','none','two thirds'])
def test_share(n, of, width, says):
    o = Page(share_tag(n, of))
    assert o.text==says and o.attrs[2][1]['style']==f'width:{width}'

def luminance(color):
    c = [int(color[i:i+2], 16)/255 for i in (1,3,5)]
    return np.dot([.2126,.7152,.0722], [o/12.92 if o<=.03928 else ((o+.055)/1.055)**2.4 for o in c])

def contrast(a, b):
    a,b = sorted((luminance(a), luminance(b)))
    return (b+.05)/(a+.05)

def schemes():
    "Colours of the light and of the dark scheme, by name."
    light,dark = [dict(re.findall(r'--([a-z-]+): (#[0-9a-f]+);', o)) for o in re.findall(r':root \{(.*?)\}', read_asset('page.css'), re.S)]
    full = {k: v if len(v)==7 else '#'+''.join(2*o for o in v[1:]) for k,v in light.items()}
    return {'light': full, 'dark': {**full, **dark}}

@pytest.mark.parametrize('scheme', ['light','dark'])
def test_texts_are_readable(scheme):
    "Texts have a contrast of 4.5 on every ground, marks of 3."
    c = schemes()[scheme]
    for ground in ('page','panel','warn'):
        for text in ('ink','soft','link'): assert contrast(c[text], c[ground])>=4.5, (text,ground)
    for mark in ('good','bad'): assert contrast(c[mark], c['page'])>=3

def test_colours_are_those_of_the_plots():
    "Blue and vermilion of the page are those of the plots, and the style sheet finds them in plotly's."
    from aead.viz.curves import colors
    light,css = schemes()['light'],read_asset('page.css')
    assert [light['good'].upper(), light['bad'].upper()]==list(colors[:2])
    for k,o in zip(('good','bad'), colors):
        rgb = ', '.join(str(int(o[i:i+2], 16)) for i in (1,3,5))
        assert f'.canvas [style*="fill: rgb({rgb})"] {{ fill: var(--{k}) !important; }}' in css
