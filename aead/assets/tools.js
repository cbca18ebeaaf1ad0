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

function makeButton(text, onClick) {
  const button = make('button', '', text)
  button.type = 'button'
  button.addEventListener('click', onClick)
  return button
}

// Runs plotly.js, which the page holds as base64 of a gzip file.
async function startPlotly() {
  const bytes = Uint8Array.from(atob(byId('page-plotly').textContent), c => c.charCodeAt(0))
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))
  const code = await new Response(stream).text()
  document.head.append(Object.assign(document.createElement('script'), {textContent: code}))
}

// Draws the plot `name` in place of its picture. The functions get the number of an image: under the mouse, clicked.
async function drawPlot(name, figure, onHover, onClick) {
  const place = byId(`plot-${name}`)
  const canvas = make('div', 'canvas')
  place.append(canvas)
  place.classList.add('drawn')
  if (matchMedia('(pointer: coarse)').matches) figure.layout.dragmode = false   // a finger scrolls the page
  const plot = await Plotly.newPlot(canvas, figure.data, figure.layout, plotSettings)
  const imageOf = event => event.points[0].customdata
  plot.on('plotly_hover', event => { if (onHover && imageOf(event) !== undefined) onHover(imageOf(event)) })
  plot.on('plotly_click', event => { if (onClick && imageOf(event) !== undefined) onClick(imageOf(event)) })
  return plot
}
