// What every page does: contents that follow, galleries in pages, large pictures, things to copy, paper.

// --- contents: the section at the top of the window is marked

const links = [...document.querySelectorAll('.contents li a')]
const fold = document.querySelector('.contents details')
const isWide = matchMedia('(min-width: 1100px)')

function markSection() {
  const isPassed = link => byId(link.hash.slice(1)).getBoundingClientRect().top < innerHeight / 3
  const isEnd = scrollY > 0 && innerHeight + scrollY >= document.documentElement.scrollHeight - 2
  const current = isEnd ? links.at(-1) : links.filter(isPassed).at(-1)
  for (const link of links) link.setAttribute('aria-current', link === current)
  fold.querySelector('summary b').textContent = current ? current.textContent : ''
}

function foldContents() {
  fold.open = isWide.matches
}

function startContents() {
  foldContents()
  isWide.addEventListener('change', foldContents)
  for (const link of links) link.addEventListener('click', () => { if (!isWide.matches) fold.open = false })
  addEventListener('scroll', markSection, {passive: true})
  addEventListener('resize', markSection)
  markSection()
}

// --- galleries: a few cards at a time

function cardsOf(gallery) {
  return [...gallery.querySelectorAll('.card')]
}

// Shows the page of a gallery that holds the card number `k`.
function turnTo(gallery, k) {
  const cards = cardsOf(gallery)
  const size = +gallery.dataset.page
  const first = Math.max(0, Math.floor(k / size) * size)
  cards.forEach((card, i) => { card.hidden = i < first || i >= first + size })
  const bar = gallery.nextElementSibling
  if (!bar || !bar.classList.contains('pager')) return
  gallery.dataset.first = first
  bar.children[0].disabled = first === 0
  bar.children[1].textContent = `${first + 1}–${Math.min(first + size, cards.length)} of ${cards.length}`
  bar.children[2].disabled = first + size >= cards.length
}

function startGallery(gallery) {
  if (cardsOf(gallery).length > +gallery.dataset.page) {
    const step = sign => () => turnTo(gallery, +gallery.dataset.first + sign * gallery.dataset.page)
    const bar = make('div', 'pager')
    bar.append(makeButton('‹ previous', step(-1)), make('span'), makeButton('next ›', step(1)))
    gallery.after(bar)
  }
  turnTo(gallery, 0)
}

// --- large pictures: arrow keys go through the gallery, Escape closes

const large = make('dialog', 'large')
let opened              // the card that is shown large

// The panels of a card lie side by side in its picture; each is cut out by its place.
function makePanel(card, name, k, n) {
  const picture = card.querySelector('img')
  const ratio = picture.getAttribute('width') / n / picture.getAttribute('height')
  const view = make('div', 'view')
  const img = make('img')
  img.setAttribute('src', picture.getAttribute('src'))
  img.alt = `${name}, ${picture.alt}`
  img.style.objectPosition = `${n > 1 ? 100 * k / (n - 1) : 0}% 0`
  view.style.aspectRatio = ratio
  view.append(img)
  const outline = card.querySelector('.strip svg')
  if (outline && k === 0) view.append(outline.cloneNode(true))
  const panel = make('figure', 'panel')
  panel.style.setProperty('--ratio', ratio)
  panel.append(view, make('figcaption', '', name))
  return panel
}

function siblings() {
  return [...opened.parentNode.querySelectorAll('.card')].filter(card => card.querySelector('img'))
}

function showLarge(card) {
  if (!card || !card.querySelector('img')) return
  opened = card
  const names = card.dataset.panels.split('|')
  large.querySelector('.panels').replaceChildren(...names.map((name, k) => makePanel(card, name, k, names.length)))
  const words = card.querySelector('figcaption').cloneNode(true)
  large.querySelector('.words').replaceChildren(...words.childNodes)
  const all = siblings()
  const at = all.indexOf(card)
  const heading = card.closest('section').querySelector('h2').textContent.split(':')[0]
  large.querySelector('.place').textContent = `${heading}: ${at + 1} of ${all.length}`
  large.querySelector('.back').disabled = at === 0
  large.querySelector('.next').disabled = at === all.length - 1
  large.querySelector('.outlines').hidden = !card.querySelector('.strip svg')
  if (large.open) return
  large.showModal()
  large.focus()
}

function step(n) {
  const all = siblings()
  showLarge(all[Math.min(Math.max(all.indexOf(opened) + n, 0), all.length - 1)])
}

const keys = {
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  Home: () => step(-Infinity),
  End: () => step(Infinity),
  o: () => large.classList.toggle('bare'),
}

// The gallery turns to the image that was seen last.
function leaveLarge() {
  const gallery = opened.closest('[data-page]')
  if (gallery) turnTo(gallery, cardsOf(gallery).indexOf(opened))
  const strip = opened.querySelector('.strip')
  if (strip) strip.focus()
}

function startLarge() {
  const tools = make('div', 'tools')
  const back = makeButton('‹ previous', () => step(-1))
  const next = makeButton('next ›', () => step(1))
  const outlines = makeButton('outline (O)', () => keys.o())
  back.classList.add('back')
  next.classList.add('next')
  outlines.classList.add('outlines')
  tools.append(back, next, make('span', 'place'), outlines, makeButton('close (Esc)', () => large.close()))
  large.append(tools, make('div', 'panels'), make('p', 'words'))
  large.setAttribute('aria-label', 'large picture')
  large.tabIndex = -1
  large.addEventListener('close', leaveLarge)
  large.addEventListener('click', event => { if (event.target === large) large.close() })
  large.addEventListener('keydown', event => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return
    event.preventDefault()
    keys[event.key]()
  })
  document.body.append(large)
  document.addEventListener('click', event => {
    const strip = event.target.closest('.cards .strip')
    if (strip) showLarge(byId(strip.closest('.card').dataset.of) || strip.closest('.card'))
  })
}

// --- commands to copy

function startCopy(box) {
  const button = makeButton('copy', () => {
    navigator.clipboard.writeText(box.querySelector('pre').textContent).then(
      () => { button.textContent = 'copied' },
      () => getSelection().selectAllChildren(box.querySelector('pre')))
    setTimeout(() => { button.textContent = 'copy' }, 1500)
  })
  box.append(button)
}

// --- paper: what is folded is printed

function unfold() {
  for (const o of document.querySelectorAll('main details:not([open])')) {
    o.dataset.folded = ''
    o.open = true
  }
}

function foldAgain() {
  for (const o of document.querySelectorAll('details[data-folded]')) {
    delete o.dataset.folded
    o.open = false
  }
}

startContents()
startLarge()
document.querySelectorAll('.cards[data-page]').forEach(startGallery)
document.querySelectorAll('.copy').forEach(startCopy)
addEventListener('beforeprint', unfold)
addEventListener('afterprint', foldAgain)
