// A slider for the threshold: counts, command, images that change sides and plots follow it. An image is its number in
// the columns of `rows`.

const rows = readData('page-rows')

const all = [...rows.score.keys()]
const defective = all.filter(i => rows.label[i] === 1)
const good = all.filter(i => rows.label[i] === 0)

// Thresholds that flag different images: each score (an image is flagged above the threshold), and one below all.
const cuts = [...new Set(rows.score)].sort((a, b) => a - b)
const lowest = cuts[0] - Math.max(1e-9, Math.abs(cuts[0]) * 1e-3)
const slider = byId('live-slider')
const mostMoved = 6     // images that change sides, shown as pictures

let threshold = rows.threshold
let waiting = false     // for the next frame, to update

// --- words

function isFlagged(i) {
  return rows.score[i] > threshold
}

function wasFlagged(i) {
  return rows.score[i] > rows.threshold
}

function round(v) {
  return String(+v.toPrecision(3))
}

function count(flagged, of, words) {
  if (!of.length) return ''
  const percent = +(100 * flagged.length / of.length).toPrecision(3)
  return `${flagged.length} of ${of.length} ${words} (${percent} %)`
}

function sayCounts(found, alarms) {
  const said = [count(found, defective, 'defective images are found'), count(alarms, good, 'good images are flagged')]
  if (defective.length + good.length === 0) said.push(count(all.filter(isFlagged), all, 'images are flagged'))
  return `${said.filter(text => text).join(', and ')}.`
}

// --- the command that keeps the threshold: the false-alarm rate is the p-value of the last image that is flagged

// A rate with four digits, never below `p`.
function roundUp(p) {
  const digits = Math.ceil(-Math.log10(p)) + 3
  return +(Math.ceil(p * 10 ** digits - 1e-9) / 10 ** digits).toFixed(digits)
}

function commandRate() {
  if (threshold === rows.threshold && rows.far !== null) return rows.far
  const p = all.filter(isFlagged).map(i => rows.p[i])
  if (!p.length || p.includes(null)) return null
  const rate = roundUp(Math.max(...p))
  return rate < 1 ? rate : null
}

function updateCommand() {
  const rate = commandRate()
  byId('live-command').textContent = rate === null ? rows.nothing : rows.command.replace('RATE', rate)
  byId('live-keeps').hidden = rate === null || threshold === rows.threshold
}

// --- what follows the threshold

function fill(id, value) {
  const place = byId(id)
  if (place) place.textContent = value
}

function updateCounts(found, alarms) {
  for (const place of document.querySelectorAll('.live-said')) place.textContent = sayCounts(found, alarms)
  fill('live-hit', found.length)
  fill('live-miss', defective.length - found.length)
  fill('live-alarm', alarms.length)
  fill('live-pass', good.length - alarms.length)
}

function updateSlider() {
  const text = `threshold ${round(threshold)}`
  slider.value = cuts.filter(c => c <= threshold).length
  slider.setAttribute('aria-valuetext', text)
  byId('live-thr').textContent = text
}

// The images whose decision the moved threshold turns round; those nearest to it first.
function updateMoved() {
  const moved = all.filter(i => isFlagged(i) !== wasFlagged(i))
  const distance = i => Math.abs(rows.score[i] - threshold)
  const shown = moved.sort((a, b) => distance(a) - distance(b)).filter(cardOf).slice(0, mostMoved)
  const some = `${moved.length} ${moved.length === 1 ? 'image changes' : 'images change'} sides`
  const first = shown.length < moved.length ? ', these first:' : ':'
  byId('live-moved-said').textContent = moved.length ? some + first : 'No image changes sides.'
  byId('live-moved').replaceChildren(...shown.map(copyCard))
}

// The ring on a curve is its last trace.
function moveRing(name, x, y) {
  if (plots[name]) Plotly.restyle(plots[name], {x: [[x]], y: [[y]]}, [plots[name].data.length - 1])
}

function updatePlots(found, alarms) {
  const recall = found.length / defective.length
  if (plots.scores) Plotly.relayout(plots.scores, {'shapes[0].x0': threshold, 'shapes[0].x1': threshold})
  moveRing('roc', alarms.length / good.length, recall)
  moveRing('pr', recall, found.length / (found.length + alarms.length || NaN))
}

function update() {
  const found = defective.filter(isFlagged)
  const alarms = good.filter(isFlagged)
  updateSlider()
  updateCounts(found, alarms)
  updateCommand()
  updateMoved()
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

// The threshold at place `n` of the slider: one below all scores, or the score number `n`.
function cutAt(n) {
  return n > 0 ? cuts[n - 1] : lowest
}

// The highest threshold that flags the image.
function flagFrom(i) {
  setThreshold(cutAt(cuts.filter(c => c < rows.score[i]).length))
}

// The image nearest to the threshold, of those that have a picture.
function nearest() {
  const distance = i => Math.abs(rows.score[i] - threshold)
  return all.filter(cardOf).reduce((a, b) => distance(b) < distance(a) ? b : a, 0)
}

slider.max = cuts.length
slider.addEventListener('input', () => setThreshold(cutAt(+slider.value)))
byId('live-back').addEventListener('click', () => setThreshold(rows.threshold))
update()
preview(nearest())
drawPlots({roc: flagFrom}, update)
