// A figure of plotly whose library is fetched from the kernel once for the page, not once for each figure.
const key = Symbol.for('aead.plotly');

async function getLibrary(model) {
  if (!globalThis[key]) {
    const text = await new Promise(done => {
      model.on('msg:custom', said => { if (said?.plotly) done(said.plotly); });
      model.send({ want: 'plotly' });
    });
    globalThis[key] ??= import(URL.createObjectURL(new Blob([text], { type: 'text/javascript' })));
  }
  return (await globalThis[key]).default;
}

async function begin(model) {
  const figure = (await getLibrary(model))();
  const end = await figure.initialize?.({ model });
  return { figure, end };
}

export default () => {
  let begun;
  return {
    initialize({ model }) {
      begun = begin(model);                     // not waited for: a page gives a widget two seconds to begin
      return () => begun.then(o => o.end?.());
    },
    async render(place) { return (await begun).figure.render(place); },
  };
};
