"Writes README.md, and the pictures in it, from nbs/index.ipynb; `make readme`."
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent
pictures = 'nbs/images'

def visible(cell):
    "Whether a reader of the README should see the cell."
    return not re.search(r'^#\|\s*(hide|default_exp|export)', cell.source, re.M)

def render():
    "README's text, and its pictures by file name."
    nb = nbformat.read(root/'nbs'/'index.ipynb', 4)
    nb.cells = [c for c in nb.cells if visible(c)]
    for c in nb.cells:
        if re.search(r'^#\| *echo: *false', c.source, re.M): c.metadata['transient'] = {'remove_source': True}
        if c.cell_type=='code': c.source = '\n'.join(o for o in c.source.splitlines() if not o.startswith('#|'))
        for o in c.get('outputs', []): o.get('data', {}).pop('text/html', None)
    text,res = MarkdownExporter().from_notebook_node(nb)
    names = {k: f"index-{i}.{k.rsplit('.', 1)[1]}" for i,k in enumerate(sorted(res['outputs']))}
    for k,v in names.items(): text = re.sub(rf'\s*!\[\w*\]\({re.escape(k)}\)\s*', f'\n\n![images with defects, and their anomaly maps]({pictures}/{v})\n\n', text)
    text = re.sub(r'\]\((?!http|nbs/|#)([\w./-]+\.(?:ipynb|png|jpg))', r'](nbs/\1', text)
    return re.sub(r'\n{3,}', '\n\n', text).strip()+'\n', {v:res['outputs'][k] for k,v in names.items()}

if __name__=='__main__':
    text,images = render()
    (root/'README.md').write_text(text, encoding='utf-8')
    (root/pictures).mkdir(exist_ok=True)
    for k,v in images.items(): (root/pictures/k).write_bytes(v)
