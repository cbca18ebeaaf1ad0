// Pictures to click on. Arrow keys go to the neighbours: the kernel chooses them where `steps` is set; else the focus moves.
const steps = { ArrowLeft: -1, ArrowRight: 1 };

function make(name, text, where) {
  if (!text) return;
  const o = document.createElement(name);
  o.textContent = text;
  where.append(o);
}

function render({ model, el }) {
  const grid = document.createElement('div');
  grid.className = 'aead-thumbnails';
  grid.classList.toggle('large', model.get('side') >= 160);
  grid.dataset.lmSuppressShortcuts = 'true';
  el.append(grid);

  function cell(o, k) {
    const b = document.createElement('button'), img = document.createElement('img');
    b.type = 'button';
    b.title = img.alt = o.name;
    img.src = o.picture;
    make('strong', o.title, b);
    b.append(img);
    make('span', o.text, b);
    b.onclick = () => model.send({ press: k });
    return b;
  }

  function mark() {
    const inside = grid.contains(document.activeElement) && model.get('steps');
    model.get('items').forEach((o, k) => grid.children[k].classList.toggle('open', o.row === model.get('open_row')));
    if (inside) (grid.querySelector('.open') ?? grid.firstChild)?.focus();
  }

  function fill() {
    const inside = grid.contains(document.activeElement);
    const width = model.get('side') + 10;
    grid.style.gridTemplateColumns = `repeat(auto-fill, minmax(min(${width}px, 100%), 1fr))`;
    grid.style.maxWidth = `${model.get('columns') * (width + 4)}px`;
    grid.replaceChildren(...model.get('items').map(cell));
    if (inside) grid.firstChild?.focus();
    mark();
  }

  function press(e) {
    if (!(e.key in steps)) return;
    e.preventDefault();
    if (model.get('steps')) return model.send({ step: steps[e.key] });
    const at = [...grid.children].indexOf(document.activeElement);
    grid.children[at + steps[e.key]]?.focus();
  }

  grid.addEventListener('keydown', press);
  model.on('change:items', fill);
  model.on('change:open_row', mark);
  fill();
  return () => { model.off('change:items', fill); model.off('change:open_row', mark); };
}

export default { render };
