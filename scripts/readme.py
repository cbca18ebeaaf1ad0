"Writes README.md, and the pictures in it, from nbs/index.ipynb; `make readme`."
import io, re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent
pictures = 'nbs/images'

def visible(cell):
    "Whether a reader of the README should see the cell."
    return not re.search(r'^#\|\s*(hide|default_exp|export)', cell.source, re.M)

def alternative(cell):
    "What a cell says about its picture."
    found = re.search(r'^#\| *fig-alt: *(.*(?:\n#\|  .*)*)', cell.source, re.M)
    return ' '.join(o.lstrip('#| ').strip() for o in found[1].splitlines()) if found else ''

def without_fences(text):
    "Tiles become a list, since GitHub knows no divisions of Pandoc's."
    text = re.sub(r'^::: \{\.tile\}\n(.+)\n\n(.+)\n:::\n\n?', r'- **\1**: \2\n', text, flags=re.M)
    return re.sub(r'^::: *\n+', '\n', re.sub(r'^::: .*\n+', '', text, flags=re.M), flags=re.M)

def render():
    "README's text, and its pictures by file name."
    nb = nbformat.read(root/'nbs'/'index.ipynb', 4)
    nb.cells = [c for c in nb.cells if visible(c)]
    said = [alternative(c) for c in nb.cells if any('image/png' in o.get('data', {}) for o in c.get('outputs', []))]
    for c in nb.cells:
        if re.search(r'^#\| *echo: *false', c.source, re.M): c.metadata['transient'] = {'remove_source': True}
        if c.cell_type=='code': c.source = '\n'.join(o for o in c.source.splitlines() if not o.startswith('#|'))
        for o in c.get('outputs', []): o.get('data', {}).pop('text/html', None)
    text,res = MarkdownExporter().from_notebook_node(nb)
    names = {k: f"index-{i}.{k.rsplit('.', 1)[1]}" for i,k in enumerate(sorted(res['outputs']))}
    for (k,v),alt in zip(names.items(), said): text = re.sub(rf'\s*!\[\w*\]\({re.escape(k)}\)\s*', f'\n\n![{alt}]({pictures}/{v})\n\n', text)
    text = without_fences(text)
    text = re.sub(r'\]\((?!http|nbs/|#)([\w./-]+\.(?:ipynb|png|jpg))', r'](nbs/\1', text)
    return re.sub(r'\n{3,}', '\n\n', text).strip()+'\n', {v:res['outputs'][k] for k,v in names.items()}

def write_card(picture, path):
    "What a link to the site shows elsewhere: the picture on white, 1200 x 630 pixels."
    from PIL import Image
    im = Image.open(io.BytesIO(picture)).convert('RGB')
    im.thumbnail((1160,600), Image.Resampling.LANCZOS)
    card = Image.new('RGB', (1200,630), 'white')
    card.paste(im, ((1200-im.width)//2, (630-im.height)//2))
    card.quantize(256).save(path, optimize=True)

if __name__=='__main__':
    text,images = render()
    (root/'README.md').write_text(text, encoding='utf-8')
    (root/pictures).mkdir(exist_ok=True)
    for k,v in images.items(): (root/pictures/k).write_bytes(v)
    write_card(images[min(images)], root/pictures/'social.png')
