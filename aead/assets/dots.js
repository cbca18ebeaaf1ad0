// Plots whose points open their image. An image is its number in `rows.caption` and `rows.picture`.

const rows = readData('dots-rows')
const plots = readData('dots-figures')

function show(i) {
  const [first, ...rest] = rows.caption[i]
  const words = [make('b', '', first), ...rest.map(text => ` · ${text}`)]
  byId('dots-detail').replaceChildren(makeFigure('thumb', rows.picture[i], rows.caption[i].join(', '), words))
}

function draw(name) {
  const {data, layout} = plots[name]
  Plotly.newPlot(byId('dots-' + name), data, layout, plotSettings).then(plot => listen(plot, show, show))
}

byId('dots').hidden = false
show(0)
startPlotly('dots-plotly').then(() => Object.keys(plots).forEach(draw)).catch(() => showTooOld('dots-plots'))
