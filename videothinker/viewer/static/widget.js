// The module of every live widget. A page keeps each module that it has ever imported, and
// JupyterLab keeps the model of each widget, also of a closed one: so what draws is a text in the
// model, imported once in a page, and a model that is closed lets go of what it holds.

const modules = (globalThis.videothinkerModules ||= new Map()); // text → what it exports

async function load(code) {
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const module = await import(url);
  URL.revokeObjectURL(url);
  return module.default;
}

async function render({ model, el }) {
  const code = model.get("_code");
  if (!modules.has(code)) modules.set(code, load(code));
  return (await modules.get(code)).render({ model, el });
}

const EMPTY = { _code: "", data: null, segments: null, video_bytes: null };

function forget(model) {
  model.set(EMPTY, { silent: true });
  model.set({}, { silent: true }); // until then it knows what was before
}

export default { initialize: ({ model }) => () => forget(model), render };
