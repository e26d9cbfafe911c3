// A view in the output of a cell: viewer.js is unpacked once a page, then draws into its places.
(async () => {
  const script = document.currentScript; // null where a host runs the text of scripts
  const root = script ? script.getRootNode() : document;

  // The packed file is a script that leaves its `mount` in the window.
  async function unpack() {
    const bytes = Uint8Array.from(atob("$packed"), letter => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const viewer = document.createElement("script");
    viewer.textContent = await new Response(stream).text();
    document.head.append(viewer);
    viewer.remove();
    return window.$mount;
  }

  const waiting = (window.videothinkerMounts ||= {});
  const mount = await (waiting.$mount ||= unpack());
  const data = $data;
  for (const host of root.querySelectorAll('.vt-host[data-view="$name"]')) {
    host.removeAttribute("data-view");
    mount(host, data);
  }
})();
