// The keys of a control: JupyterLab takes arrows and letters from all that has the focus and is no
// text, so that a slider would stand still and the notebook scroll on.

const HELD = "data-lm-suppress-shortcuts"; // Lumino leaves alone what is typed in such an element

function render({ el }) {
  // Lumino listens on the document: the window is asked before it. Ctrl+S and such stay its own.
  const hold = event => {
    const box = el.closest(".vt-control");
    if (box?.contains(event.target))
      box.toggleAttribute(HELD, !(event.ctrlKey || event.altKey || event.metaKey));
  };
  window.addEventListener("keydown", hold, true);
  return () => window.removeEventListener("keydown", hold, true);
}

export default { render };
