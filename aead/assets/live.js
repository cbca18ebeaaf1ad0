// A slider for the threshold: counts, pictures and plots follow it. An image is its number in the columns of `rows`.

const rows = readData('live-rows')
const figures = readData('live-figures')

const all = [...rows.score.keys()]
const defective = all.filter(i => rows.label[i])
const good = all.filter(i => !rows.label[i])

// Thresholds that flag different images: each score (an image is flagged above the threshold), and one below all.
const cuts = [...new Set(rows.score)].sort((a, b) => a - b)
const lowest = cuts[0] - Math.max(1e-9, Math.abs(cuts[0]) * 1e-3)
const slider = byId('live-slider')

const plots = {}        // those that are drawn, by name
let threshold = rows.threshold
let shown               // the image in the large picture
let waiting = false     // for the next frame, to update

// --- words

function isFlagged(i) {
  return rows.score[i] > threshold
}

function outcome(i) {
  if (rows.label[i]) return isFlagged(i) ? 'found' : 'missed'
  return isFlagged(i) ? 'false alarm' : 'passed'
}

function cssClass(i) {
  return outcome(i).replace(' ', '-')
}

function round(v) {
  return String(+v.toPrecision(3))
}

function count(flagged, of, words) {
  if (!of.length) return ''
  const percent = +(100 * flagged.length / of.length).toPrecision(3)
  return `${flagged.length} of ${of.length} ${words} (${percent} %)`
}

// --- pictures

function makeCard(i, isLarge) {
  const words = [make('b', '', rows.defect[i]), ` · score ${round(rows.score[i])}`]
  if (isLarge) {
    words.push(rows.p[i] === null ? '' : ` · p-value ${round(rows.p[i])}`)
    words.push(' · ', make('span', cssClass(i), outcome(i)), make('small', '', rows.path[i]))
  }
  const alt = `image and heat map of ${rows.path[i]}, ${rows.defect[i]}`
  const card = makeFigure(`thumb ${cssClass(i)}`, rows.picture[i], alt, words)
  if (!isLarge) card.addEventListener('click', () => show(i))
  return card
}

function show(i) {
  shown = i
  byId('live-detail').replaceChildren(makeCard(i, true))
}

// The first images of a list, and their number in the heading.
function showStrip(id, images) {
  const heading = byId(`${id}-n`)
  if (heading) heading.textContent = ` (${images.length})`
  const cards = images.slice(0, 6).map(i => makeCard(i, false))
  byId(id).replaceChildren(...(cards.length ? cards : [make('p', '', 'None.')]))
}

function byScore(a, b) {
  return rows.score[a] - rows.score[b]
}

function nearestFirst() {
  const distance = i => Math.abs(rows.score[i] - threshold)
  return [...all].sort((a, b) => distance(a) - distance(b))
}

// --- what follows the threshold

function updateCounts(found, alarms) {
  const said = [count(found, defective, 'defective images are found'), count(alarms, good, 'good images are flagged')]
  byId('live-said').textContent = `${said.filter(text => text).join(', and ')}.`
  byId('live-hit').textContent = found.length
  byId('live-miss').textContent = defective.length - found.length
  byId('live-alarm').textContent = alarms.length
  byId('live-pass').textContent = good.length - alarms.length
}

function updateSlider() {
  const text = `threshold ${round(threshold)}`
  slider.value = cuts.filter(c => c <= threshold).length
  slider.setAttribute('aria-valuetext', text)
  byId('live-thr').textContent = text
}

function updatePlots(found, alarms) {
  if (plots.scores) Plotly.relayout(plots.scores, {'shapes[0].x0': threshold, 'shapes[0].x1': threshold})
  if (!plots.roc) return
  const point = {x: [[alarms.length / good.length]], y: [[found.length / defective.length]]}
  Plotly.restyle(plots.roc, point, [plots.roc.data.length - 1])
}

function update() {
  const found = defective.filter(isFlagged)
  const alarms = good.filter(isFlagged)
  updateSlider()
  updateCounts(found, alarms)
  showStrip('live-missed', defective.filter(i => !isFlagged(i)).sort(byScore))
  showStrip('live-alarms', [...alarms].sort((a, b) => byScore(b, a)))
  showStrip('live-near', nearestFirst())
  if (shown !== undefined) show(shown)
  updatePlots(found, alarms)
}

// Many events of the slider between two frames are one update.
function setThreshold(v) {
  threshold = v
  if (waiting) return
  waiting = true
  requestAnimationFrame(() => {
    waiting = false
    update()
  })
}

// --- start

// The threshold at place `n` of the slider: one below all scores, or the score number `n`.
function cutAt(n) {
  return n > 0 ? cuts[n - 1] : lowest
}

// The highest threshold that flags the image.
function flagFrom(i) {
  setThreshold(cutAt(cuts.filter(c => c < rows.score[i]).length))
}

function draw(name, onClick) {
  const place = byId(`live-${name}`)
  if (!place || !figures[name]) return
  Plotly.newPlot(place, figures[name].data, figures[name].layout, plotSettings).then(plot => {
    listen(plot, show, i => {
      show(i)
      if (onClick) onClick(i)
    })
    plots[name] = plot
    update()
  })
}

slider.max = cuts.length
slider.addEventListener('input', () => setThreshold(cutAt(+slider.value)))
byId('live-back').addEventListener('click', () => setThreshold(rows.threshold))
byId('live').hidden = false
show(nearestFirst()[0])
update()
startPlotly('live-plotly').then(() => {
  draw('scores')
  draw('roc', flagFrom)
}).catch(() => showTooOld('live-plots'))
