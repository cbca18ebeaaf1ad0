// Plots whose points open their image. The card `image-i` shows image number `i`, where the page has such a card.

const plots = {}        // those that are drawn, by name

function cardOf(i) {
  return byId(`image-${i}`)
}

// A copy of a card that opens the card itself.
function copyCard(i) {
  const card = cardOf(i).cloneNode(true)
  card.dataset.of = card.id
  card.removeAttribute('id')
  card.hidden = false
  return card
}

function preview(i) {
  const place = byId('seen')
  if (!place) return
  place.replaceChildren(cardOf(i) ? copyCard(i) : make('p', 'legend', 'This image has no picture in this file.'))
}

// Shows what only a script can move, and draws all plots, one after the other. `clicks` are functions of an image by
// the name of a plot.
async function drawPlots(clicks, afterwards) {
  const figures = readData('page-figures')
  for (const part of document.querySelectorAll('.live')) part.hidden = false
  try {
    await startPlotly()
    for (const name of Object.keys(figures)) {
      const onClick = clicks[name] || (i => showLarge(cardOf(i)))
      plots[name] = await drawPlot(name, figures[name], preview, onClick)
      if (afterwards) afterwards()
    }
  } catch (error) {
    console.warn('The plots stay pictures: ' + error)
  }
}
