// What the scripts of all pages share. A page holds its data as JSON in script elements that are not run.

const plotSettings = {
  responsive: true,
  displaylogo: false,
  modeBarButtons: [['zoom2d', 'pan2d', 'resetScale2d']],
}

function byId(id) {
  return document.getElementById(id)
}

function readData(id) {
  return JSON.parse(byId(id).textContent)
}

// A new element; class and text may be left out.
function make(name, cls, text) {
  const element = document.createElement(name)
  if (cls) element.className = cls
  if (text !== undefined) element.textContent = text
  return element
}

// A figure with the picture of an image, or a gap where the file has none. `words`: nodes and texts of its caption.
function makeFigure(cls, picture, alt, words) {
  const figure = make('figure', cls)
  if (picture) {
    const img = make('img')
    img.setAttribute('src', picture)
    img.alt = alt
    figure.append(img)
  } else {
    figure.append(make('div', 'none', 'no picture of it in this file'))
  }
  const caption = make('figcaption')
  caption.append(...words)
  figure.append(caption)
  return figure
}

// Runs plotly.js, which the page holds as base64 of a gzip file.
async function startPlotly(id) {
  const bytes = Uint8Array.from(atob(byId(id).textContent), c => c.charCodeAt(0))
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))
  const code = await new Response(stream).text()
  document.head.append(Object.assign(document.createElement('script'), {textContent: code}))
}

// In place of plots that cannot be drawn.
function showTooOld(id) {
  const text = 'This browser is too old for interactive plots; the plots above show the same.'
  byId(id).replaceChildren(make('p', '', text))
}

// Calls a function with the image of a point (its `customdata`) when the mouse is over it, or when it is clicked.
function listen(plot, onHover, onClick) {
  const imageOf = event => event.points[0].customdata
  plot.on('plotly_hover', event => { if (imageOf(event) !== undefined) onHover(imageOf(event)) })
  plot.on('plotly_click', event => { if (imageOf(event) !== undefined) onClick(imageOf(event)) })
}
