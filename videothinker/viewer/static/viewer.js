// The viewer of one answered question: frames or video, lanes of segments on one time axis, lists,
// traces, edits. The traits (time, selected, segments, playing, loop) live in `model`; what the
// parts of one drawing share is `v`. Texts enter as text nodes, no markup is read. All stands in a
// shadow root: no style of the host leaks in, none of ours leaks out.

const STYLE = "viewer.css"; // stands for the text of that file, which Python puts here
const LIST = 100; // rows of a list that are in the page at once
const TICK_STEPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800];
const MIN_SPAN = 0.2; // seconds; no closer is zoomed
const COLOURS = { true: "#2b8cc9", predicted: "#d9691e", tick: "#7d8590" };
const { abs, ceil, floor, max, min, round } = Math;
const VERDICTS = { right: "✓ right answer", wrong: "✗ wrong answer", "no answer": "— no answer" };

// The host's theme where it names one, else the browser's: a style outside the shadow
// root. (VS Code: in viewer.css.)
const themed = (names, scheme) => `:is(${names}) .vt-shell { color-scheme: ${scheme} }`;
const THEMES = ".vt-shell { display: block; min-width: 200px; color-scheme: light dark }"
  + themed("[data-jp-theme-light=true], .quarto-light, [theme=light]", "light")
  + themed("[data-jp-theme-light=false], .quarto-dark, [theme=dark]", "dark");

// == Texts and elements ==

// Characters that are not seen but change what is: controls, bidirectional ones, zero width.
const HIDDEN = new RegExp("[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e"
  + "\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\u{e0000}-\\u{e007f}]", "gu");
const code = letter => letter.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
const plain = text => String(text ?? "").replace(HIDDEN, letter => "[U+" + code(letter) + "]");
const cut = (text, limit) => {
  const all = String(text ?? "");
  return plain(all.slice(0, limit)) + (all.length > limit ? " …" : "");
};

// element("div.a.b", { title: "…" }, "text", node): an object holds properties or attributes, null
// nothing. What one does not see in a text of the data is shown.
function element(kind, ...parts) {
  const [tag, ...classes] = kind.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const part of parts) {
    if (typeof part === "string" || part instanceof Node) {
      node.append(part instanceof Node ? part : plain(part));
      continue;
    }
    for (const [key, value] of Object.entries(part || {})) {
      if (key in node) node[key] = value;
      else node.setAttribute(key, value);
    }
  }
  return node;
}

const button = (text, title, onclick, kind = "button.vt-button") =>
  element(kind, { type: "button", title, onclick }, text);

// A text of the data; a long one is cut, and a button shows more of it.
function words(kind, text, limit = 1500) {
  const node = element(kind, { dir: "auto" });
  const all = String(text ?? "");
  let end = 0;
  const grow = size => {
    node.append(plain(all.slice(end, end + size)));
    end += size;
    if (end >= all.length) return;
    const more = button(`show more (${all.length - end} characters left)`, "", () => {
      more.remove();
      grow(20000);
    }, "button.vt-more");
    node.append(" ", more);
  };
  grow(limit);
  return node;
}

function choice(label, options, value, pick) {
  const node = element("select.vt-select", { "aria-label": label });
  node.onchange = () => pick(node.value);
  node.append(...options.map(([key, text]) => new Option(cut(text, 40), key)));
  node.value = value;
  return node;
}

// Change a text without making a node: this runs in each step of a scrub.
function write(node, text) {
  if (!node.firstChild) node.append("");
  if (node.firstChild.data !== text) node.firstChild.data = text;
}

// A canvas of this size in CSS pixels, empty; returns what draws on it.
function blank(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = max(1, round(width * ratio));
  canvas.height = round(height * ratio);
  canvas.style.height = height + "px";
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}

// == Times ==

const clamp = (x, low, high) => min(max(x, low), high);
const millis = time => round(1000 * time) / 1000;
const two = number => String(number).padStart(2, "0");
const hoursAndMinutes = time => [floor(time / 3600), floor(time / 60) % 60];

// "6.500 s" in a clip of less than two minutes, else "1:02:03.500"; `brief` leaves zeros out.
function clock(time, duration, brief = false) {
  const exact = millis(time);
  const isShort = duration < 120;
  const seconds = isShort ? exact : millis(exact % 60);
  const text = brief ? String(seconds) : seconds.toFixed(3);
  if (isShort) return text + " s";
  const [hours, minutes] = hoursAndMinutes(exact);
  const start = hours ? hours + ":" + two(minutes) : minutes;
  return start + ":" + (seconds < 10 ? "0" : "") + text;
}

const many = (n, unit) => n + " " + unit + (n === 1 ? "" : "s");

function inWords(time) {
  const exact = millis(time);
  const [hours, minutes] = hoursAndMinutes(exact);
  const parts = [[hours, "hour"], [minutes, "minute"], [millis(exact % 60), "second"]];
  const said = parts.filter(([n, unit]) => n || (unit === "second" && exact < 60));
  return said.map(([n, unit]) => many(n, unit)).join(" ");
}

// The number of times that are not after this one; `times` in order.
function countUntil(times, time) {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= time + 1e-6) low = middle + 1;
    else high = middle;
  }
  return low;
}

// == Segments ==

// Temporal intersection over union; a range without length or not finite overlaps nothing.
function tiou(a, b) {
  const isRange = s => Number.isFinite(s.start) && Number.isFinite(s.end) && s.end > s.start;
  if (!isRange(a) || !isRange(b)) return 0;
  const shared = max(0, min(a.end, b.end) - max(a.start, b.start));
  return shared / (a.end - a.start + b.end - b.start - shared);
}

const touches = (a, b) => a.start < b.end && b.start < a.end;

// Give each segment the one of `others` it overlaps best: `match` (its index or -1) and `tiou`.
function match(items, others) {
  for (const item of items) {
    Object.assign(item, { match: -1, tiou: 0 });
    others.forEach((other, j) => {
      const overlap = touches(item, other) ? tiou(item, other) : 0;
      if (overlap > item.tiou) Object.assign(item, { match: j, tiou: overlap });
    });
  }
}

// Pairs of two lanes, one to one, best overlap first; then what is left of either: [a, b, tIoU].
function pairs(first, second) {
  const used = new Set();
  const rows = first.flatMap(a => second.filter(b => touches(a, b)).map(b => [a, b, tiou(a, b)]))
    .sort((p, q) => q[2] - p[2])
    .filter(([a, b, overlap]) => {
      const isFree = overlap && !used.has(a) && !used.has(b);
      if (isFree) used.add(a).add(b);
      return isFree;
    });
  first.forEach(a => used.has(a) || rows.push([a, null, 0]));
  second.forEach(b => used.has(b) || rows.push([null, b, 0]));
  return rows.sort((p, q) => (p[0] || p[1]).left - (q[0] || q[1]).left);
}

// Rows in which nothing overlaps; returns how many there are.
function pack(items, duration) {
  const free = []; // where each row is free again
  for (const item of [...items].sort((a, b) => a.left - b.left || a.right - b.right)) {
    const from = item.left < duration ? item.left : 0.9 * duration; // a mark at the end
    const row = free.findIndex(end => end <= from);
    item.row = row < 0 ? free.length : row;
    free[item.row] = max(item.right, from + 0.002 * duration);
  }
  return max(1, free.length);
}

// A lane that is called by a number is one of a group.
const isNumber = lane => /^\d+$/.test(lane.name);
const labelOf = lane => (isNumber(lane) ? "rollout " : "") + cut(lane.name, 40);

// What is drawn of a lane: its segments inside the clip, with flags, in rows.
function prepare({ duration, times }, lane) {
  lane.items = lane.segments.map((segment, i) => {
    const { start, end } = segment;
    const left = clamp(start, 0, duration);
    const right = clamp(max(start, end), 0, duration);
    const isBefore = max(start, end) < 0;
    const frames = isBefore ? 0 : countUntil(times, right) - countUntil(times, left - 2e-6);
    const flags = [
      end < start && "ends before it starts",
      isBefore && "lies before the start of the clip",
      start < 0 && !isBefore && "clipped at the start of the clip",
      start >= duration && "lies after the end of the clip",
      start < duration && end > duration + 0.5 && "clipped at the end of the clip",
      times.length && !frames && "no sampled frame inside",
    ];
    const name = lane.name + " " + (i + 1);
    const said = labelOf(lane) + (isNumber(lane) ? " segment " : " ") + (i + 1);
    const flag = flags.filter(Boolean).join(", ");
    return { origin: i, ...segment, lane, i, name, said, left, right, frames, flag };
  });
  // Ranges of blocks that are not counted are drawn and can do nothing.
  lane.faults = lane.trace.filter(piece => piece.why);
  const drops = lane.faults.filter(piece => piece.range).map(({ range: [start, end], why }) =>
    ({ why, name: "", left: clamp(start, 0, duration), right: clamp(end, 0, duration) }));
  lane.drawn = [...lane.items, ...drops];
  lane.rows = pack(lane.drawn, duration);
  lane.height = lane.rows < 3 ? 22 : clamp(round(72 / lane.rows), 6, 22); // of a row, pixels
}

// A range holds its start and not its end; a millionth of a second is to spare.
const inside = (item, time) => item.left <= time + 1e-6 && time < item.right - 1e-6;

// == What the parts share ==

function makeView(model, shell) {
  const data = model.get("data");
  const { times, counts } = data.frames;
  const duration = max(data.duration, 1e-3);
  const v = { model, shell, data, times, duration, from: 0, to: duration, width: 0, rate: 1 };
  const parts = { time: [], view: [], lanes: [] }; // what draws again when one of these changes
  const ends = [];
  v.when = (kinds, draw) => kinds.split(" ").forEach(kind => parts[kind].push(draw));
  v.fire = (...kinds) => kinds.forEach(kind => parts[kind].forEach(draw => draw()));
  v.atEnd = task => ends.push(task);
  v.end = () => ends.splice(0).forEach(task => task());
  v.tell = (type, more = {}) => model.send({ type, ...more });

  v.seen = counts.reduce((sum, n) => sum + n, 0);
  v.firstOf = k => counts.slice(0, k).reduce((sum, n) => sum + n, 1); // number of a frame
  v.frameAt = time => max(0, countUntil(times, time) - 1);
  v.clock = (time, brief) => clock(time, duration, brief);
  v.range = ({ start, end }) => v.clock(start, true).replace(" s", "") + "–" + v.clock(end, true);
  v.x = time => (time - v.from) / (v.to - v.from) * v.width;

  v.lanes = data.lanes.map((lane, number) => ({ ...lane, number }));
  v.truth = v.lanes.find(lane => lane.kind === "true");
  v.editable = v.lanes.find(lane => lane.name === data.editable);
  v.shown = v.lanes.find(lane => lane !== v.truth) || v.truth; // whose list and trace are shown
  v.compared = null; // or two lanes
  v.prepare = () => {
    v.lanes.forEach(lane => prepare(v, lane));
    v.lanes.forEach(lane => lane === v.truth || match(lane.items, v.truth ? v.truth.items : []));
    v.other = v.shown === v.truth ? v.lanes.find(lane => lane !== v.truth) : v.shown;
    if (v.truth) match(v.truth.items, v.other ? v.other.items : []);
  };
  v.show = lane => {
    if (lane === v.shown) return;
    v.shown = lane;
    v.prepare();
    v.fire("lanes");
  };
  v.item = (selected = model.get("selected")) => {
    const gap = selected.lastIndexOf(" ");
    const lane = v.lanes.find(({ name }) => name === selected.slice(0, gap));
    return lane && lane.items[selected.slice(gap + 1) - 1];
  };

  // The page's own changes, told to Python at once: ipywidgets sends one message at a time, merges
  // what is newer, and takes no late echo for what it is about to send; a timer here would.
  v.set = changes => {
    v.own = true;
    Object.entries(changes).forEach(([key, value]) => model.set(key, value));
    v.own = false;
    model.save_changes();
  };
  return v;
}

// == Where the playhead and the window are ==

function addMoves(v) {
  const { model, duration } = v;
  v.time = () => clamp(model.get("time"), 0, duration);
  v.move = (time, changes) => { // the video is not sought: it may be what says the time
    v.set({ time: clamp(time, 0, duration), ...changes });
    if (v.time() < v.from || v.time() > v.to) v.zoom(1, v.time(), 0.1);
    v.fire("time");
  };
  v.go = (time, changes) => {
    v.move(time, changes);
    v.seek(v.time());
    v.tell("seek", { time: v.time() });
  };
  v.pick = item => { // a second time: play it in a loop
    if (item.name === model.get("selected")) return v.loopOver(true);
    if (item.lane !== v.truth) v.show(item.lane);
    v.go(item.left, { selected: item.name });
    v.tell("select", { selected: item.name });
  };
  v.unpick = () => {
    v.set({ selected: "" });
    v.fire("time");
    v.tell("select", { selected: "" });
  };
  // Zoom by a factor; `anchor` (seconds) comes to, or stays at, this part of the window.
  v.zoom = (factor, anchor = v.time(), part = (anchor - v.from) / (v.to - v.from)) => {
    const span = clamp((v.to - v.from) / factor, min(MIN_SPAN, duration), duration);
    v.from = clamp(anchor - part * span, 0, duration - span);
    v.to = v.from + span;
    v.fire("view");
  };
  v.pan = from => v.zoom(1, from, 0);
}

// == Playing ==

// A video may be data, a blob, or come from where the page does; "" for any other address.
function checkedUrl(src) {
  if (!URL.canParse(src, document.baseURI)) return "";
  const url = new URL(src, document.baseURI);
  const isOurs = url.protocol === location.protocol && url.host === location.host;
  return isOurs || /^(data:video\/|blob:)/i.test(url.href) ? url.href : "";
}

function makeVideo(v, fail) {
  const bytes = v.model.get("video_bytes");
  const given = v.data.video || {};
  let src = checkedUrl(given.src);
  if (bytes && bytes.byteLength) {
    v.file = new Blob([bytes], { type: given.type || "video/mp4" });
    src = URL.createObjectURL(v.file);
    v.atEnd(() => URL.revokeObjectURL(src));
  } else if (!given.src) {
    return null;
  }
  const video = element("video.vt-picture", { muted: true, playsInline: true, preload: "auto",
    "aria-label": "the video" });
  video.onerror = () => fail(video.error.message || "not decoded");
  video.onloadedmetadata = () => video.videoWidth ? v.seek(v.time()) : fail("it holds no picture");
  if (src) video.src = src;
  else queueMicrotask(() => fail("its address is not allowed"));
  v.atEnd(() => {
    video.onerror = null;
    video.pause();
    video.removeAttribute("src");
    video.load();
  });
  return video;
}

// The video, or in its place the picture that the model saw last.
function drawStage(v) {
  const { shape: [height, width], sprite } = v.data.frames;
  const canvas = element("canvas.vt-picture", { role: "img" });
  canvas.style.cssText = `aspect-ratio:${width}/${height};width:${240 * width / height}px`;
  canvas.classList.toggle("vt-pixels", width <= 128);
  canvas.hidden = !sprite;
  const stage = element("div.vt-stage", canvas);
  let drawn = -1;
  const draw = () => {
    const k = pictureAt(v, v.time());
    if (v.video || !v.image || k === drawn) return;
    drawn = k;
    canvas.setAttribute("aria-label", "frame at " + v.clock(v.pictureTimes[k], true));
    Object.assign(canvas, { width: sprite.width, height: sprite.height });
    paint(v, canvas.getContext("2d"), k, 0, 0, sprite.width, sprite.height);
  };
  v.video = makeVideo(v, reason => {
    v.video = null;
    stage.replaceChildren(canvas, element("p.vt-soft", `The video cannot be played here (${
      plain(reason)}): the frames stand in, at their true times.`));
    draw();
  });
  v.start = (v.data.video || {}).start || 0; // of the clip in its file, seconds
  if (v.video) stage.replaceChildren(v.video);
  stage.hidden = !v.data.video && !v.video && !sprite;
  v.when("time view", draw);
  return stage;
}

// A widget may be drawn more than once, each time through a model of its own that holds the same
// data: the first of the drawings counts the time while it plays.
const drawings = new WeakMap(); // data → its drawings

function addPlayer(v) {
  const { model, duration } = v;
  const all = drawings.get(v.data) || [];
  drawings.set(v.data, all);
  all.push(v);
  const leave = () => all.splice(all.indexOf(v), 1);
  const lead = () => all.unshift(...leave());
  let request = 0;
  let last = 0;
  const isLive = () => v.video && v.rate > 0; // else the page counts the time itself
  const bounds = () => {
    const item = model.get("loop") && v.item();
    return item ? [item.left, max(item.right, item.left + 0.05)] : [0, duration];
  };
  v.seek = time => {
    if (v.video && v.video.readyState) v.video.currentTime = time + v.start;
  };
  const start = () => v.video.play().catch(error =>
    error.name === "NotAllowedError" && v.play(false));
  const halt = () => {
    cancelAnimationFrame(request);
    if (v.video) v.video.pause();
  };
  const tick = now => {
    if (!v.shell.isConnected || all[0] !== v) return halt();
    const [from, to] = bounds();
    const isBack = v.rate < 0;
    let time = v.time() + min((now - last) / 1000, 0.25) * v.rate;
    if (isLive()) time = v.video.readyState ? v.video.currentTime - v.start : v.time();
    last = now;
    const isOver = isBack ? time <= from : time >= to || (isLive() && v.video.ended);
    if (isOver && model.get("loop")) {
      time = isBack ? to : from;
      v.seek(time);
      if (isLive() && v.video.paused) start();
    }
    v.move(time);
    if (isOver && !model.get("loop")) return v.play(false);
    if (isBack && v.video && !v.video.seeking) v.seek(time);
    request = requestAnimationFrame(tick);
  };
  // Bring clock and video to what `playing`, `loop` and the speed say.
  v.run = () => {
    halt();
    if (!all[0].shell.isConnected) lead();
    if (model.get("playing") && all[0] === v) {
      const [from, to] = bounds();
      const time = v.time();
      const isBack = v.rate < 0;
      const isThere = isBack ? time > from && time <= to : time >= from && time < to - 1e-3;
      if (!isThere && (!isBack || model.get("loop"))) v.move(isBack ? to : from);
      v.seek(v.time());
      if (isLive()) {
        v.video.playbackRate = v.rate;
        start();
      }
      last = performance.now();
      request = requestAnimationFrame(tick);
    }
    v.fire("time");
  };
  v.play = (playing, rate = abs(v.rate)) => {
    const isNew = playing !== model.get("playing");
    v.rate = rate;
    lead();
    v.set({ playing });
    v.run();
    if (isNew) v.tell(playing ? "play" : "pause", { time: v.time(), rate });
  };
  v.loopOver = loop => {
    v.set({ loop });
    v.tell("loop", { loop });
    if (loop) v.play(true);
    else v.run();
  };
  v.atEnd(() => {
    halt();
    leave();
    if (all.length) all[0].run();
  });
}

// == Pictures ==

function loadPictures(v) {
  const { sprite } = v.data.frames;
  if (!sprite || !/^data:image\/(jpeg|png|webp);base64,/.test(sprite.src)) return;
  v.pictureTimes = sprite.pictures.map(k => v.times[k]);
  const image = new Image();
  image.onload = () => {
    v.image = image;
    v.fire("view", "time");
  };
  image.src = sprite.src;
  v.atEnd(() => { image.onload = null; });
}

const pictureAt = (v, time) => max(0, countUntil(v.pictureTimes || [], time) - 1);

// Draw picture k into a box; `shown` is how much of its width is seen, in pixels.
function paint(v, context, k, x, y, width, height, shown = width) {
  const { columns, width: w, height: h } = v.data.frames.sprite;
  const left = k % columns * w;
  const top = floor(k / columns) * h;
  context.imageSmoothingEnabled = v.data.frames.shape[1] > 128;
  context.drawImage(v.image, left, top, w * shown / width, h, x, y, shown, height);
}

// The pictures on the axis, at full strength in each column; below, a tick for every frame.
// Zoomed out, an even strip: each tile shows the last frame read at its middle. Zoomed in, each
// frame's picture from its time on, again and again until the next.
function drawStrip(v) {
  const canvas = element("canvas.vt-track.vt-strip");
  const { shape } = v.data.frames;
  const ratio = shape[1] / shape[0];
  v.when("view", () => {
    if (!v.width) return;
    const times = v.pictureTimes || [];
    const n = times.length;
    const least = clamp(v.width / max(n, 1) / ratio, 46, 84) * ratio;
    const width = v.width / max(1, round(v.width / least)); // whole tiles fill the axis
    const height = n ? round(width / ratio) : 4;
    const context = blank(canvas, v.width, height + 9);
    const end = v.x(v.duration);
    const tile = (from, to, pictureOf) => {
      let x = from + max(0, floor(-from / width)) * width;
      for (; v.image && x < min(to, v.width) - 0.5; x += width) {
        const left = round(x);
        const shown = round(min(x + width, to)) - left;
        paint(v, context, pictureOf(x + width / 2), left, 0, max(width, shown), height, shown);
      }
    };
    const scale = v.width / (v.to - v.from);
    const gap = n > 1 ? (times[n - 1] - times[0]) / (n - 1) : 0;
    if (gap * scale < 2 * width) tile(v.x(0), end, x => pictureAt(v, v.from + x / scale));
    else times.forEach((time, k) =>
      tile(v.x(k && time), k + 1 < n ? v.x(times[k + 1]) : end, () => k));
    context.fillStyle = COLOURS.tick;
    new Set(v.times.map(time => round(v.x(time)))).forEach(x =>
      context.fillRect(x, height + 2, 1.5, 7));
  });
  return canvas;
}

// == Lanes ==

function drawLane(v, lane) {
  // To a screen reader the lists say the same.
  const track = element("div.vt-track.vt-lane", { "aria-hidden": "true" });
  const nodes = [];
  const place = (item, i) => {
    const { height } = lane;
    const isAfter = item.left >= v.duration; // a mark at the end
    const x = isAfter ? v.width - 30 : max(v.x(item.left), -2);
    const width = isAfter ? 30 : clamp(v.x(item.right) - x, 3, v.width + 2 - x);
    const isSeen = isAfter ? v.to >= v.duration : v.x(item.right) > -1 && x < v.width;
    if (!isSeen) return nodes[i] && nodes[i].remove();
    const node = nodes[i] = nodes[i] || element("div.vt-seg.vt-" + lane.kind);
    node.dataset.segment = item.name;
    node.style.cssText = `left:${x}px;width:${width}px;top:${item.row * (height + 2)}px;`
      + `height:${height}px`;
    node.title = item.why || "";
    node.classList.toggle("vt-off", !!item.why);
    node.classList.toggle("vt-thin", width < 8);
    node.classList.toggle("vt-blind", v.times.length > 0 && !item.frames);
    const mark = item.why ? "✗" : i + 1 + (item.flag ? " ⚠ " : " ");
    const isReadable = width > 22 && height > 13;
    write(node, isReadable ? mark + (isAfter ? "" : cut(item.caption, 120)) : "");
    if (!node.parentNode) track.append(node);
  };
  const highlight = () => {
    const time = v.time();
    const picked = v.item();
    lane.drawn.forEach((item, i) => {
      const state = (inside(item, time) ? " on" : "") + (item === picked ? " picked" : "");
      if (!nodes[i] || nodes[i].state === state) return;
      nodes[i].state = state;
      nodes[i].classList.toggle("on", inside(item, time));
      nodes[i].classList.toggle("picked", item === picked);
      if (item === picked) track.scrollTop = item.row * (lane.height + 2) - 50;
    });
  };
  v.when("view lanes", () => {
    if (!v.width) return;
    track.style.height = lane.rows * (lane.height + 2) + "px";
    track.classList.toggle("vt-off",
      !!v.compared && lane !== v.truth && !v.compared.includes(lane));
    lane.drawn.forEach(place);
    nodes.splice(lane.drawn.length).forEach(node => node.remove());
    highlight();
  });
  v.when("time", highlight);
  const none = lane.kind === "true" ? "none annotated" : faultsOf(lane) || "none named";
  if (!lane.drawn.length && lane !== v.editable) track.append(element("p.vt-soft", none));
  return track;
}

const faultsOf = ({ faults: { length } }) => length ? many(length, "block") + " not counted" : "";

const factsOf = facts =>
  Object.entries(facts || {}).map(([name, text]) => name + ": " + text).join(" · ");

// The name of a lane; a click shows its list and its trace.
function drawLabel(v, lane) {
  const verdict = VERDICTS[lane.verdict] || "";
  const title = cut([lane.name, verdict, factsOf(lane.facts)].filter(Boolean).join(" · "), 300);
  const answer = cut(lane.answer, 8) + " " + verdict.slice(0, 1) + (lane === v.editable ? "✎" : "");
  const label = button("", title, () => v.show(lane), "button.vt-name");
  label.append(element("bdi", cut(lane.name, 40)), " ", element("small", answer));
  v.when("lanes", () => { label.ariaPressed = lane === v.shown; });
  return label;
}

// == Axis, overview, playhead ==

function drawAxis(v) {
  const axis = element("div.vt-track.vt-axis", { tabIndex: 0, role: "slider", "aria-label": "time",
    "aria-valuemin": 0, "aria-valuemax": v.duration });
  v.when("view", () => {
    if (!v.width) return;
    const span = v.to - v.from;
    const most = max(2, v.width / (v.duration < 120 ? 70 : 90));
    const step = TICK_STEPS.find(s => span / s <= most) || 3600 * ceil(span / most / 3600);
    axis.replaceChildren();
    for (let k = ceil(v.from / step - 1e-6); k * step <= v.to + 1e-6; k++) {
      const x = v.x(k * step);
      const end = x < 24 ? ".vt-first" : x > v.width - 24 ? ".vt-last" : "";
      const label = element("span" + end, v.clock(k * step, true));
      const tick = element("i");
      tick.style.left = label.style.left = x + "px";
      axis.append(tick, label);
    }
  });
  v.when("time", () => {
    axis.ariaValueNow = v.time();
    axis.ariaValueText = inWords(v.time());
  });
  return axis;
}

// All lanes in small, with the window that the rest shows; a drag moves the window.
function drawOverview(v) {
  const canvas = element("canvas.vt-track.vt-overview");
  v.when("view lanes", () => {
    if (!v.width) return;
    const row = clamp(floor(32 / v.lanes.length), 2, 6);
    const height = max(14, row * v.lanes.length + 4);
    const context = blank(canvas, v.width, height);
    const scale = v.width / v.duration;
    v.lanes.forEach((lane, k) => {
      context.fillStyle = COLOURS[lane.kind];
      lane.items.forEach(({ left, right }) => context.fillRect(min(left * scale, v.width - 1),
        2 + row * k, max((right - left) * scale, 1), row - 1));
    });
    context.strokeStyle = COLOURS.tick;
    context.lineWidth = 2;
    const width = max((v.to - v.from) * scale - 2, 3);
    context.strokeRect(v.from * scale + 1, 1, width, height - 2);
  });
  return canvas;
}

function drawOverlay(v) {
  const cursor = element("div.vt-cursor");
  const band = element("div.vt-band");
  v.when("time view lanes", () => {
    const x = v.x(v.time());
    cursor.style.transform = `translateX(${x}px)`;
    cursor.hidden = x < -1 || x > v.width + 1;
    cursor.dataset.time = v.time();
    const item = v.item();
    band.hidden = !item;
    if (!item) return;
    const left = clamp(v.x(item.left), 0, v.width);
    band.style.cssText = `left:${left}px;width:${clamp(v.x(item.right), 0, v.width) - left}px`;
  });
  return element("div.vt-over", band, cursor);
}

// What is at the pointer: the picture and the milliseconds, beside it and inside the board.
function addHover(v, board) {
  const { shape: [height, width] } = v.data.frames;
  const scale = min(128 / width, 80 / height);
  const canvas = element("canvas", { width: width * scale, height: height * scale });
  const text = element("span");
  const hover = element("div.vt-hover", { hidden: true, "aria-hidden": "true" }, canvas, text);
  v.hover = (event, time, words) => {
    const box = board.getBoundingClientRect();
    canvas.hidden = !v.image;
    if (!canvas.hidden) {
      const context = canvas.getContext("2d");
      paint(v, context, pictureAt(v, time), 0, 0, canvas.width, canvas.height);
    }
    write(text, words);
    hover.hidden = false;
    const x = event.clientX - box.left;
    const room = hover.offsetWidth + 12;
    hover.style.transform = `translateX(${x + room < box.width ? x + 12 : max(0, x - room)}px)`;
  };
  v.unhover = board.onpointerleave = () => { hover.hidden = true; };
  return hover;
}

function drawBoard(v) {
  const name = text => element("div.vt-name", text);
  const lanes = v.lanes.map(lane => [drawLabel(v, lane), drawLane(v, lane)]);
  v.overview = drawOverview(v);
  v.axis = drawAxis(v);
  const rows = [[name("overview"), v.overview], [name("frames"), drawStrip(v)], ...lanes,
    [name("time"), v.axis]];
  const overlay = drawOverlay(v);
  overlay.style.gridRow = "2 / " + (rows.length + 1);
  const board = element("div.vt-board", ...rows.flat(), overlay);
  rows.forEach((row, i) => row.forEach(node => { node.style.gridRow = i + 1; }));
  board.append(addHover(v, board));
  addPointer(v, board);
  const observer = new ResizeObserver(() => {
    const width = v.axis.clientWidth;
    if (!width || width === v.width) return;
    v.width = width;
    v.fire("view");
  });
  observer.observe(board);
  v.atEnd(() => observer.disconnect());
  return board;
}

// == Pointer ==

function addPointer(v, board) {
  const pointers = new Map(); // number of the pointer → its x
  let grip = null; // what the drag does
  let still = NaN; // where the last one began
  const part = x => (x - v.axis.getBoundingClientRect().left) / v.width; // of the axis
  const timeAt = x => v.from + clamp(part(x), 0, 1) * (v.to - v.from);
  const kindOf = target =>
    ["overview", "axis", "strip", "lane"].find(kind => target.closest(".vt-" + kind));
  const itemOf = target => target.matches(".vt-seg") ? v.item(target.dataset.segment) : null;
  // What a drag from here moves of a segment that can be edited: an edge or both.
  const edgeOf = (event, item) => {
    if (!item || item.lane !== v.editable) return "";
    const box = event.target.getBoundingClientRect();
    const reach = min(8, box.width / 3);
    if (event.clientX < box.left + reach) return "start";
    return event.clientX > box.right - reach ? "end" : "both";
  };
  const pinch = () => {
    const [a, b] = pointers.values();
    return { middle: (a + b) / 2, distance: max(abs(a - b), 10) };
  };
  const scrub = x => { // on the strip from frame to frame
    const time = timeAt(x);
    v.move(grip.kind === "strip" && v.times.length ? v.times[v.frameAt(time)] : time);
    v.seek(v.time());
  };
  const drags = {
    axis: scrub,
    strip: scrub,
    lane: x => v.pan(grip.from - (x - grip.x) / v.width * (v.to - v.from)),
    overview: x => v.pan(grip.from + (x - grip.x) / v.width * v.duration),
    edit: (x, event) => {
      const by = (x - grip.x) / v.width * (v.to - v.from);
      grip.range = shifted(v, grip.before, by, grip.edge);
      Object.assign(v.editable.segments[grip.item.i], grip.range);
      v.prepare();
      v.fire("view", "time");
      v.hover(event, timeAt(x), v.range(grip.range));
    },
    pinch: () => {
      if (pointers.size < 2) return;
      const { middle, distance } = pinch();
      v.zoom((v.to - v.from) * distance / grip.scale, timeAt(middle));
    },
  };
  v.letGo = () => { // of a segment that is dragged: it is as it was before
    if (!grip || !grip.edge) return;
    const { item: { i }, before: { start, end } } = grip;
    Object.assign(v.editable.segments[i], { start, end });
    grip = null;
    pointers.clear();
  };
  board.onpointerdown = event => {
    const kind = kindOf(event.target);
    const x = event.clientX;
    if (!kind || event.button) return;
    event.preventDefault();
    board.closest(".vt").focus({ preventScroll: true }); // it draws no ring
    v.unhover();
    still = x;
    pointers.set(event.pointerId, x);
    board.setPointerCapture(event.pointerId);
    const item = itemOf(event.target);
    const edge = edgeOf(event, item);
    if (kind === "overview" && (part(x) * v.duration < v.from || part(x) * v.duration > v.to)) {
      v.pan(part(x) * v.duration - (v.to - v.from) / 2);
    }
    grip = { kind: edge ? "edit" : kind, x, from: v.from, item, edge, before: { ...item } };
    if (pointers.size > 1) {
      grip = { kind: "pinch", x, scale: pinch().distance * (v.to - v.from) };
    }
    if (drags[kind] === scrub) scrub(x);
  };
  board.onpointermove = event => {
    const x = event.clientX;
    if (pointers.has(event.pointerId)) {
      pointers.set(event.pointerId, x);
      grip.isMoved = grip.isMoved || abs(x - grip.x) > 3;
      if (grip.isMoved) drags[grip.kind](x, event);
      return;
    }
    if (abs(x - still) < 1) return; // nothing over what was clicked
    const item = itemOf(event.target);
    board.dataset.edge = edgeOf(event, item);
    const name = item ? " · " + item.said : "";
    const kind = kindOf(event.target);
    if (kind && kind !== "overview") v.hover(event, timeAt(x), v.clock(timeAt(x)) + name);
  };
  board.onpointerup = board.onpointercancel = event => {
    if (!pointers.delete(event.pointerId) || pointers.size) return;
    const { kind, item, isMoved, range } = grip;
    v.letGo();
    grip = null;
    if (drags[kind] === scrub) {
      v.tell("seek", { time: v.time() });
    } else if (range) {
      v.prepare();
      if (event.type === "pointerup") v.change(item.i, range);
      else v.fire("lanes", "time");
    } else if (!isMoved && item) {
      v.pick(item);
    } else if (!isMoved && kind === "lane") {
      v.go(timeAt(event.clientX));
    }
  };
  board.addEventListener("wheel", event => {
    const { deltaX, deltaY } = event;
    const isAcross = event.shiftKey || abs(deltaX) > abs(deltaY);
    const across = isAcross ? deltaX || deltaY : 0;
    const isZoom = event.ctrlKey || event.metaKey;
    if (!isZoom && !across) return; // the page scrolls
    event.preventDefault();
    if (isZoom) v.zoom(Math.exp(-clamp(deltaY, -60, 60) / 100), timeAt(event.clientX));
    else v.pan(v.from + across / v.width * (v.to - v.from));
  }, { passive: false });
}

// == Edits ==

// Move a segment or one of its edges by seconds; it comes into the clip and has a length.
function shifted({ duration }, { start, end }, by, edge) {
  const least = min(0.01, duration);
  if (edge === "start") {
    const fixed = clamp(end, least, duration);
    return { start: millis(clamp(start + by, 0, fixed - least)), end: fixed };
  }
  if (edge === "end") {
    const fixed = clamp(start, 0, duration - least);
    return { start: fixed, end: millis(clamp(end + by, fixed + least, duration)) };
  }
  const length = clamp(end - start, least, duration);
  const from = clamp(start + by, 0, duration - length);
  return { start: millis(from), end: millis(from + length) };
}

function addEdits(v) {
  const { model, editable } = v;
  v.isEditable = item => item && item.lane === editable;
  v.past = [];
  v.future = [];
  if (!editable) return;
  // `origin` tells which segment of the reply an edited one was; -2 for none.
  const key = segment => JSON.stringify(rowOf(segment));
  const origins = new Map(editable.segments.map((segment, i) => [key(segment), i]));
  const numbered = segments => segments.map(segment =>
    ({ origin: origins.get(key(segment)) ?? -2, ...segment }));
  const given = () => editable.segments.map(rowOf);
  const put = segments => {
    editable.segments = numbered(segments);
    v.prepare();
  };
  const tell = (type, selected, told) => {
    v.set({ segments: given(), selected });
    v.fire("lanes", "time");
    v.tell(type, told);
  };
  const commit = (type, segments, selected, told) => {
    v.past.push(editable.segments);
    v.future = [];
    put(segments);
    tell(type, selected, told);
  };
  put(model.get("segments") || editable.segments);
  v.outside = () => { // Python has set them
    const segments = model.get("segments");
    if (JSON.stringify(segments.map(rowOf)) === JSON.stringify(given())) return;
    v.letGo();
    v.past.push(editable.segments);
    v.future = [];
    put(segments);
    v.fire("lanes", "time");
  };
  v.change = (i, changes) => {
    const segments = editable.segments.map((one, k) => k === i ? { ...one, ...changes } : one);
    const { start, end, caption } = segments[i];
    const selected = editable.name + " " + (i + 1);
    commit("edit", segments, selected, { index: i, start, end, caption });
  };
  v.setEdge = (i, edge, time) => {
    const { start, end } = { ...editable.items[i], [edge]: millis(time) };
    v.change(i, shifted(v, { start: min(start, end), end: max(start, end) }, 0, edge));
  };
  v.add = () => {
    const start = millis(min(v.time(), v.duration - 0.01));
    const end = millis(min(start + (v.to - v.from) / 10, v.duration));
    const index = editable.segments.length;
    const segments = [...editable.segments, { start, end, caption: "", origin: -2 }];
    commit("add", segments, editable.name + " " + (index + 1), { index, start, end });
  };
  v.remove = ({ i }) => {
    commit("delete", editable.segments.filter((_, k) => k !== i), "", { index: i });
    v.axis.focus({ preventScroll: true }); // its own button is gone
  };
  const step = (type, from, to) => {
    if (!from.length) return;
    to.push(editable.segments);
    put(from.pop());
    tell(type, v.item() ? model.get("selected") : "");
  };
  v.undo = () => step("undo", v.past, v.future);
  v.redo = () => step("redo", v.future, v.past);
}

// A time or the caption of a segment, to be typed.
function drawField(v, { i }, key) {
  const isTime = key !== "caption";
  const input = element("input", isTime ? { type: "number", step: "any" } : { dir: "auto" });
  input.onchange = () => {
    const value = clamp(input.valueAsNumber, 0, v.duration);
    if (!isTime) v.change(i, { caption: input.value });
    else if (value === value) v.setEdge(i, key, value); // not if it is no number
  };
  const label = element("label", key + " ", input);
  label.update = item => { input.value = item[key]; };
  label.update(v.editable.items[i]);
  return label;
}

// The selected segment in full.
function drawDetail(v) {
  const detail = element("div.vt-detail", { hidden: true });
  const facts = element("small");
  let fields = [];
  let drawn = null;
  v.when("lanes time", () => {
    const item = v.item();
    if (item === drawn) return;
    const isSame = item && drawn && item.name === drawn.name; // its fields keep the focus
    drawn = item;
    detail.hidden = !item;
    if (!item) return;
    const texts = [v.range(item), many(item.frames, "sampled frame"), fitOf(v, item), item.flag];
    write(facts, texts.filter(Boolean).join(" · "));
    if (isSame) return fields.forEach(field => field.update(item));
    detail.className = "vt-detail vt-mark-" + item.lane.kind;
    detail.replaceChildren(element("b", item.said), " ", facts);
    fields = [];
    if (!v.isEditable(item)) return detail.append(words("p.vt-caption", item.caption, 600));
    fields = ["start", "end", "caption"].map(key => drawField(v, item, key));
    detail.append(element("div.vt-editor", ...fields,
      button("Delete", "delete (Del)", () => v.remove(item))));
  });
  return detail;
}

// == Keys ==

const KEYS = [
  ["Space, K", "play or pause"],
  ["J, L", "play backwards, forwards; again: twice as fast"],
  ["Shift+L", "loop the selected segment on, off"],
  ["← →", "one sampled frame; with Shift one second"],
  ["Home End Page", "to the ends; a tenth of the window"],
  ["[ ]", "previous, next segment"],
  ["+ − 0", "zoom in, out, whole clip (or Ctrl+wheel, pinch)"],
  ["C", "compare two lanes"],
  ["Esc", "close this, or deselect"],
];
const EDIT_KEYS = [
  ["I, O", "the selected segment starts, ends at the playhead"],
  [", .", "move its start by 0.1 s"],
  ["< >", "move its end by 0.1 s"],
  ["Alt+← Alt+→", "move all of it by 0.1 s; with Shift by 1 s"],
  ["N, Del", "new segment, delete it"],
  ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo"],
];

function stepFrame(v, turn) {
  const time = v.time();
  if (!v.times.length) return v.go(time + turn);
  const k = v.frameAt(time);
  const isBetween = turn < 0 && time > v.times[k] + 1e-6;
  v.go(v.times[clamp(isBetween ? k : k + turn, 0, v.times.length - 1)]);
}

function stepSegment(v, turn) {
  const picked = v.item();
  const filled = [v.shown, v.truth].find(lane => lane && lane.items.length);
  const lane = picked ? picked.lane : filled;
  if (!lane) return;
  const order = [...lane.items].sort((a, b) => a.left - b.left || a.i - b.i);
  const n = order.length;
  const now = picked ? order.indexOf(picked) : turn > 0 ? -1 : n;
  const next = order[(now + turn + n) % n];
  if (next !== picked) v.pick(next);
}

// Faster in this direction, or at plain speed when it did not play in it.
function shuttle(v, direction) {
  const isSame = v.model.get("playing") && v.rate * direction > 0;
  v.play(true, direction * (isSame ? min(2 * abs(v.rate), 8) : 1));
}

// What a key does to the selected segment, if it can be edited.
function editOf(v, item, letter, { shiftKey, altKey }, turn) {
  const nudge = (by, edge) => () => v.change(item.i, shifted(v, item, by, edge));
  const set = edge => () => v.setEdge(item.i, edge, v.time());
  if (altKey && turn) return nudge(turn * (shiftKey ? 1 : 0.1), "both");
  const remove = () => v.remove(item);
  return { i: set("start"), o: set("end"), ",": nudge(-0.1, "start"),
    ".": nudge(0.1, "start"), "<": nudge(-0.1, "end"), ">": nudge(0.1, "end"), delete: remove,
    backspace: remove }[letter];
}

// What a key does, if anything.
function actionOf(v, event, isButton) {
  const letter = event.key.toLowerCase();
  const { shiftKey, altKey } = event;
  if (event.ctrlKey || event.metaKey) {
    return { z: shiftKey ? v.redo : v.undo, y: v.redo }[letter];
  }
  const turn = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
  const item = v.item();
  const edit = v.isEditable(item) && editOf(v, item, letter, event, turn);
  if (edit || altKey) return edit;
  if (turn) return () => shiftKey ? v.go(v.time() + turn) : stepFrame(v, turn);
  if (letter === " " && isButton) return null; // it presses the button
  const page = (v.to - v.from) / 10;
  const play = () => v.play(!v.model.get("playing"));
  return {
    " ": play,
    k: play,
    j: () => shuttle(v, -1),
    l: () => shiftKey ? v.loopOver(!v.model.get("loop")) : shuttle(v, 1),
    home: () => v.go(0),
    end: () => v.go(v.duration),
    pageup: () => v.go(v.time() + page),
    pagedown: () => v.go(v.time() - page),
    "[": () => stepSegment(v, -1),
    "]": () => stepSegment(v, 1),
    "+": () => v.zoom(2),
    "=": () => v.zoom(2),
    "-": () => v.zoom(0.5),
    "0": () => v.zoom(0),
    "?": v.help,
    c: v.lanes.length > 1 && v.compare,
    n: v.add,
    escape: () => v.helpButton.ariaExpanded === "true" ? v.help() : v.unpick(),
  }[letter];
}

// Keys that mean something here do not reach the host, which has meanings of its own.
function addKeys(v, root) {
  root.onkeydown = event => {
    const target = event.composedPath()[0];
    const scrolls = /^(ArrowUp|ArrowDown|Page.*|Home|End)$/.test(event.key);
    const theirs = scrolls ? ", [role=region]" : /^Arrow/.test(event.key) ? ", .vt-wide" : "";
    if (target.matches("input, select" + theirs)) return event.stopPropagation();
    const action = actionOf(v, event, target.matches("button, summary"));
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  };
}

// == Buttons ==

function drawHelp(v) {
  const keys = [...KEYS, ...(v.editable ? EDIT_KEYS : [])].map(([key, text]) =>
    element("div", element("dt", key), element("dd", text)));
  const help = element("section.vt-help", { hidden: true, "aria-label": "keys" },
    element("p", "Keys work while the viewer has the focus. "
      + "A click goes to a segment, a second one plays it in a loop."),
    element("dl.vt-keys", ...keys));
  v.help = () => {
    help.hidden = !help.hidden;
    v.helpButton.ariaExpanded = !help.hidden;
  };
  return help;
}

function drawBar(v) {
  const { model } = v;
  const play = button("", "play or pause (space)", () => v.play(!model.get("playing")));
  const loop = button("⟳ Loop", "loop the selected segment, or all (Shift+L)", () =>
    v.loopOver(!model.get("loop")));
  const speeds = [0.25, 0.5, 1, 1.5, 2, 4, 8].map(rate => [rate, rate + "×"]);
  const speed = choice("speed", speeds, 1, rate => {
    v.rate = +rate;
    v.run();
  });
  const time = element("span.vt-clock");
  const group = (...buttons) => element("span.vt-group", ...buttons);
  v.helpButton = button("?", "keys (?)", () => v.help());
  v.helpButton.ariaExpanded = "false";
  const bar = element("div.vt-bar", play, loop, speed, time,
    group(button("−", "zoom out (−)", () => v.zoom(0.5)),
      button("+", "zoom in (+)", () => v.zoom(2)),
      button("Fit", "show the whole clip (0)", () => v.zoom(0))));
  if (v.editable) {
    const undo = button("Undo", "undo (Ctrl+Z)", v.undo);
    const redo = button("Redo", "redo (Ctrl+Shift+Z)", v.redo);
    bar.append(group(button("Add", "new segment here (N)", v.add), undo, redo));
    v.when("lanes", () => {
      undo.disabled = !v.past.length;
      redo.disabled = !v.future.length;
    });
  }
  if (v.lanes.length > 1) {
    const compare = button("Compare", "two lanes (C)", () => v.compare());
    v.when("lanes", () => { compare.ariaPressed = !!v.compared; });
    bar.append(compare);
  }
  bar.append(drawExport(v), v.helpButton);
  v.when("time", () => {
    write(play, model.get("playing") ? "❚❚ Pause" : "▶ Play");
    loop.ariaPressed = !!model.get("loop");
    speed.value = abs(v.rate);
    write(time, v.clock(v.time()) + " / " + v.clock(v.duration));
  });
  return bar;
}

// == Question, answers ==

function drawHead(v) {
  const { data } = v;
  const answered = v.lanes.filter(lane => VERDICTS[lane.verdict]);
  const right = answered.filter(lane => lane.verdict === "right").length;
  const verdict = answered.length > 1 ? right + " of " + answered.length + " right"
    : answered.map(lane => VERDICTS[lane.verdict])[0];
  const facts = [data.guessed ? "length not known" : v.clock(v.duration, true) + " long"];
  const verb = data.seen === false ? " shown" : " seen";
  if (v.seen || data.seen !== null) facts.push(many(v.seen, "frame") + verb);
  if (factsOf(data.meta)) facts.push(factsOf(data.meta));
  const head = element("div.vt-head", words("strong", data.title, 300));
  if (verdict) head.append(element("span.vt-verdict", verdict));
  head.append(...facts.map(fact => words("span", fact, 200)));
  return head;
}

// The options, or for an open question the answers; which is right, and who chose which.
function drawOptions(v) {
  const { options, answer } = v.data;
  const replies = v.lanes.filter(lane => lane.kind !== "true");
  const answers = new Set([answer, ...replies.map(lane => lane.answer)].filter(Boolean));
  const open = [...answers].map(text => ({ text, letter: text, right: text === answer }));
  const rows = (options.length ? options : open).map(({ text, letter, right }) => {
    const names = replies.filter(lane => lane.answer === letter).map(lane => cut(lane.name, 30));
    const row = element("li", words("span", text, 400));
    if (right) row.append(element("em.vt-right", "right answer"));
    const chosen = replies.length < 2 ? "model’s answer" : names.join(", ");
    if (names.length) row.append(element("em.vt-chosen", chosen));
    return row;
  });
  return element("ul.vt-options", ...rows);
}

// == Lists ==

// Is there anything to compare with? The lane of an annotation may be empty.
function isAnnotated(v) {
  return v.truth && v.truth.items.length;
}

// How well a segment fits its partner in the other lane, in words.
function fitOf(v, item) {
  const other = item.lane === v.truth ? v.other : v.truth;
  if (!other || !isAnnotated(v)) return "";
  const name = labelOf(other);
  return item.match < 0 ? "overlaps no " + name + " segment"
    : "tIoU " + item.tiou.toFixed(2) + " with " + other.items[item.match].said;
}

function drawRow(v, item) {
  const row = button(item.i + 1 + ". ", "", () => v.pick(item), "button.vt-row");
  row.dataset.segment = item.name;
  const facts = [item.flag && "⚠ " + item.flag, fitOf(v, item)].filter(Boolean).join(" · ");
  row.append(element("b", v.range(item)), " ",
    element("bdi", cut(item.caption, 200) || "(no caption)"), " ", element("small", facts));
  return row;
}

// Rows of `host`, a hundred at a time. `shown` is told which are in the page: the number of the
// first, and their nodes. Returns what brings row i into the page.
function paged(host, tag, count, drawRow, shown) {
  let page = -1;
  const turn = to => {
    page = to;
    const first = page * LIST;
    const length = min(LIST, count - first);
    const rows = Array.from({ length }, (_, k) => drawRow(first + k));
    host.replaceChildren(...rows);
    shown(first, rows);
    if (count <= LIST) return;
    const back = button("earlier", "", () => turn(page - 1));
    const next = button("later", "", () => turn(page + 1));
    back.disabled = !page;
    next.disabled = first + LIST >= count;
    host.append(element(tag, `${first + 1}–${first + length} of ${count} `, back, " ", next));
  };
  const reach = i => {
    const to = floor(clamp(i, 0, count - 1) / LIST);
    if (count && to !== page) turn(to);
  };
  host.replaceChildren();
  shown(0, []);
  return reach;
}

// The segments of a lane as buttons.
function drawList(v, laneOf) {
  const title = element("h4");
  const list = element("ol.vt-list");
  const box = element("div", title, list);
  let rows = []; // [segment, its button]
  let reach = () => {};
  let last = null; // the segment selected last
  const highlight = () => {
    const picked = v.item();
    for (const [item, row] of rows) {
      const isPicked = item === picked;
      row.classList.toggle("on", inside(item, v.time()));
      if (isPicked === row.classList.contains("picked")) continue;
      row.classList.toggle("picked", isPicked);
      row.ariaCurrent = isPicked ? "true" : null;
    }
  };
  const follow = () => {
    const picked = v.item();
    if (picked && picked !== last && picked.lane === laneOf()) reach(picked.i);
    last = picked;
    highlight();
  };
  v.when("lanes", () => {
    const lane = laneOf();
    box.hidden = !lane;
    if (!lane) return;
    const { items } = lane;
    box.className = "vt-mark-" + lane.kind;
    const style = lane.kind === "true" ? " (solid)" : " (hatched)";
    const none = items.length ? "" : ": none";
    const dropped = lane.faults.length ? ", " + faultsOf(lane) : "";
    title.replaceChildren(element("bdi", labelOf(lane)), style + none + dropped);
    const drawItem = i => element("li", { "aria-posinset": i + 1, "aria-setsize": items.length },
      drawRow(v, items[i]));
    const top = rows.length ? rows[0][0].i : 0; // an edit leaves the list where it is
    reach = paged(list, "li", items.length, drawItem, (first, nodes) => {
      rows = nodes.map((node, k) => [items[first + k], node.firstChild]);
      highlight();
    });
    reach(top);
    follow();
  });
  v.when("time", follow);
  return box;
}

// == What the model wrote ==

function drawTrace(v) {
  const names = v.lanes.map((lane, i) => [i, lane.name]);
  const select = choice("whose trace is shown", names, 0, i => v.show(v.lanes[i]));
  const body = element("div.vt-trace-body", { tabIndex: 0, role: "region",
    "aria-label": "what the model wrote" });
  const facts = element("p.vt-soft");
  const list = element("div");
  body.append(facts, list);
  let blocks = []; // the pieces of each
  let rows = []; // [index of its segment, block]
  let reach = () => {};
  const drawPiece = (lane, { tag, text, segment }) => {
    if (tag !== "time" || segment < 0) {
      return words("span.vt-" + (/^\w+$/.test(tag) ? tag : "text"), text, 4000);
    }
    return button(cut(text, 60), "show this segment", () => {
      const item = lane.items.find(({ origin }) => origin === segment);
      if (item) v.pick(item);
    }, "button.vt-time");
  };
  const drawBlock = (lane, pieces) => element("div.vt-block", ...pieces.flatMap(piece =>
    [element("span.vt-tag", cut(piece.tag, 20)), drawPiece(lane, piece)]),
  ...pieces.filter(({ why }) => why).map(({ why }) =>
    element("p.vt-soft", "⚠ not counted: " + why)));
  const draw = lane => {
    write(facts, cut(factsOf(lane.facts) || (lane.trace.length ? "" : "nothing"), 600));
    blocks = [];
    for (const piece of lane.trace) {
      if (!blocks.length || ["time", "", "answer"].includes(piece.tag)) blocks.push([]);
      blocks[blocks.length - 1].push(piece);
    }
    reach = paged(list, "p", blocks.length, i => drawBlock(lane, blocks[i]), (first, nodes) => {
      rows = nodes.map((node, k) => [blocks[first + k][0].segment, node]);
    });
    reach(0);
  };
  let last = null; // the segment selected last
  // Bring a block to the top of the box, or so many before it that the box is full: none is cut.
  const bring = node => {
    list.style.paddingBottom = 0;
    const last = body.scrollHeight - body.clientHeight; // as far as it scrolls
    if (last <= 0) return;
    const tops = rows.map(row => row[1].offsetTop - body.offsetTop);
    const top = tops.find((top, k) => top >= last || rows[k][1] === node);
    list.style.paddingBottom = max(0, top - last) + "px";
    body.scrollTop = top;
  };
  const highlight = () => {
    const picked = v.item();
    const isOurs = picked && picked.lane === v.shown;
    const block = isOurs ? blocks.findIndex(([piece]) => piece.segment === picked.origin) : -1;
    if (block >= 0 && picked !== last) reach(block);
    last = picked;
    for (const [origin, node] of rows) {
      const item = v.shown.items.find(item => item.origin === origin);
      const isOn = !!item && (isOurs ? item === picked : inside(item, v.time()));
      if (isOn === node.classList.contains("on")) continue;
      node.classList.toggle("on", isOn);
      if (isOn) bring(node);
    }
  };
  let drawn = null;
  v.when("lanes", () => {
    if (!v.shown) return;
    select.value = v.shown.number;
    if (v.shown !== drawn) draw(drawn = v.shown);
    highlight();
  });
  v.when("time", highlight);
  return element("div.vt-trace",
    element("div.vt-trace-head", element("h4", "What was written"), select), body);
}

// == Comparing two lanes ==

function drawCompare(v) {
  const box = element("section.vt-compare", { "aria-label": "comparison" });
  v.compare = () => {
    const others = v.lanes.filter(lane => lane !== v.truth);
    v.compared = v.compared ? null : (others.length > 1 ? others : v.lanes).slice(0, 2);
    v.fire("lanes");
  };
  const signed = seconds => (seconds > 0 ? "+" : "") + millis(seconds) + " s";
  const cell = item => element("td", ...(item ? [
    button(v.range(item), "", () => v.pick(item), "button.vt-time"), " ",
    element("bdi", cut(item.caption, 60))] : ["—"]));
  const drawPair = ([a, b, overlap]) => {
    const isPair = a && b;
    const texts = [isPair ? overlap.toFixed(2) : a ? "only in the first" : "only in the second",
      isPair ? signed(b.start - a.start) : "", isPair ? signed(b.end - a.end) : ""];
    const fits = [a, b].map(one => !one ? "—" : one.lane === v.truth ? "" : one.tiou.toFixed(2));
    if (isAnnotated(v)) texts.push(fits.join(" → "));
    return element(overlap > 0.999 ? "tr" : "tr.vt-differs", cell(a), cell(b),
      ...texts.map(text => element("td", text)));
  };
  v.when("lanes", () => {
    box.hidden = !v.compared;
    box.replaceChildren();
    if (!v.compared) return;
    const names = v.lanes.map((lane, i) => [i, lane.name]);
    const selects = ["first lane", "second lane"].map((label, side) =>
      choice(label, names, v.compared[side].number, i => {
        v.compared[side] = v.lanes[i];
        v.fire("lanes");
      }));
    const [first, second] = v.compared;
    const rows = pairs(first.items, second.items);
    const both = rows.filter(([a, b]) => a && b);
    const mean = both.reduce((sum, row) => sum + row[2], 0) / (both.length || 1);
    const [one, other] = v.compared.map(lane => cut(lane.answer || "none", 30));
    const summary = `answers ${one} and ${other}, ${both.length} pairs (mean tIoU `
      + `${mean.toFixed(2)}), ${first.items.length - both.length} only in the first, `
      + `${second.items.length - both.length} only in the second`;
    const heads = ["first", "second", "tIoU", "start", "end"];
    if (isAnnotated(v)) heads.push("tIoU with " + cut(v.truth.name, 20));
    const table = element("table",
      element("thead", element("tr", ...heads.map(text => element("th", text)))),
      element("tbody", ...rows.slice(0, 3 * LIST).map(drawPair))); // the counts name all
    box.append(selects[0], " with ", selects[1], element("p", summary),
      element("div.vt-wide", { tabIndex: 0, role: "region", "aria-label": "differences" }, table));
  });
  return box;
}

// == Export ==

const rowOf = ({ start, end, caption }) => ({ start, end, caption });
const currentLanes = v => v.lanes.map(({ items }, k) => {
  const lane = v.data.lanes[k];
  const trace = lane.trace.map(piece =>
    ({ ...piece, segment: items.findIndex(({ origin }) => origin === piece.segment) }));
  return { ...lane, trace, segments: items.map(rowOf) };
});

function toJson(v) {
  const { title, question, answer, meta } = v.data;
  const options = v.data.options.map(option => option.text);
  const lanes = currentLanes(v).map(({ trace, ...lane }) => lane);
  const all = { version: 2, title, question, options, answer, duration: v.duration, meta, lanes };
  return JSON.stringify(all, null, 2);
}

function toCsv(v) {
  const cell = text => {
    if (!/[",\r\n]/.test(text)) return text;
    return `"${text.replaceAll('"', '""')}"`;
  };
  const rows = v.lanes.flatMap(lane => lane.items.map(({ i, start, end, caption }) =>
    [lane.name, lane.kind, i + 1, start, end, caption]));
  const lines = [["lane", "kind", "number", "start", "end", "caption"], ...rows];
  return lines.map(line => line.map(text => cell(String(text ?? ""))).join(",") + "\r\n").join("");
}

const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };
const escaped = text => String(text ?? "").replace(/[&<>]/g, letter => ENTITIES[letter]);

function toVtt(v) {
  const line = text => escaped(text).replace(/\s+/g, " ").trim();
  const stamp = time => {
    const [hours, minutes] = hoursAndMinutes(millis(time));
    return [two(hours), two(minutes), millis(time % 60).toFixed(3).padStart(6, "0")].join(":");
  };
  const cues = v.lanes.flatMap(lane => lane.items).filter(item => item.right > item.left)
    .sort((a, b) => a.left - b.left)
    .map(item => `${line(item.name)}\n${stamp(item.left)} --> ${stamp(item.right)}\n`
      + `<v ${line(item.lane.name)}>${line(item.caption)}\n`);
  return ["WEBVTT\n", ...cues].join("\n");
}

// The text of this file: a widget's model holds it, a page tells it by `keepText`.
const own = { text: "" };
const MARK = "\n// == The page ==\n"; // where it ends in a page

function keepText(page) {
  const text = page.toString();
  own.text = text.slice(text.indexOf("\n") + 1, text.indexOf(MARK));
}

const scriptOf = v => own.text || (v.model.get("_code") || "").split("\nexport default ")[0];

// The video as it stands in a page of its own: its bytes, where this page has them.
async function videoData(v) {
  if (!v.file) return v.video && v.video.src.startsWith("data:") ? v.data.video : null;
  const reader = new FileReader();
  await new Promise(done => {
    reader.onloadend = done;
    reader.readAsDataURL(v.file);
  });
  return { src: reader.result, start: v.start };
}

// One page that holds all and may ask for nothing; it is drawn by this same file.
async function toHtml(v) {
  const video = await videoData(v);
  if (v.data.video && !video) v.say("The saved page has no video: it is a file beside this page.");
  const data = { ...v.data, lanes: currentLanes(v), video };
  const json = JSON.stringify(data).replace(/[<>&\u2028\u2029]/g, letter =>
    "\\u" + code(letter));
  const nonce = crypto.getRandomValues(new Uint8Array(16)).join("");
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 media-src data:; style-src 'unsafe-inline'; script-src 'nonce-${nonce}'; base-uri 'none';
 form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escaped(plain(data.title))}</title>
<style>body { margin: 16px auto; max-width: 1400px; padding: 0 10px }</style>
</head>
<body>
<div class="vt-host"></div>
<script nonce="${nonce}">(function page() {
${scriptOf(v)}${MARK}keepText(page);
mount(document.querySelector(".vt-host"), ${json});
})();<` + `/script>
</body>
</html>
`;
}

function drawExport(v) {
  const menu = element("details.vt-menu", element("summary.vt-button", "Export"));
  const name = cut(v.data.title, 60).replace(/[^\p{L}\p{N}]+/gu, "-") || "segments";
  let href = "";
  v.atEnd(() => URL.revokeObjectURL(href));
  const save = (kind, make) => async () => {
    menu.open = false;
    const blob = new Blob([await make(v)]);
    URL.revokeObjectURL(href);
    href = URL.createObjectURL(blob);
    const link = element("a", { href, download: name + "." + kind });
    menu.append(link);
    link.click();
    link.remove();
  };
  menu.append(element("div.vt-menu-list",
    button("JSON", "all lanes", save("json", toJson)),
    button("CSV", "a table", save("csv", toCsv)),
    button("WebVTT", "subtitles", save("vtt", toVtt))));
  if (scriptOf(v)) menu.lastChild.append(button("HTML", "this viewer", save("html", toHtml)));
  return menu;
}

// == The whole drawing ==

// What is at the playhead, in words; a screen reader hears it, but not while it plays.
function drawStatus(v) {
  const status = element("div.vt-status", { ariaHidden: "true" });
  const live = element("div.vt-live", { role: "status" });
  let due = 0;
  v.say = text => {
    write(status, text);
    if (!v.model.get("playing")) write(live, text);
  };
  v.when("time", () => {
    const now = performance.now();
    if (v.model.get("playing") && now < due) return;
    due = now + 250;
    const time = v.time();
    const k = v.frameAt(time);
    const frame = v.times.length
      ? `frame ${v.firstOf(k)} of ${v.seen} (shown at ${v.clock(v.times[k], true)})` : "no frames";
    const here = v.lanes.flatMap(lane => lane.items.filter(item => inside(item, time)));
    const names = here.map(item => item.said).slice(0, 20).join(", ") || "no segment";
    const picked = v.item() ? " · selected " + v.item().said : "";
    v.say(`${v.clock(time, true)}: ${frame} · inside ${names}${picked}`);
  });
  return element("div", status, live);
}

// Draw what `model` holds into a new shadow root in `host`; returns what takes all of it away.
function drawOnce(host, model) {
  // JupyterLab's own keys leave an element with this attribute alone.
  const shell = element("div.vt-shell", { "data-testid": "videothinker-viewer",
    "data-lm-suppress-shortcuts": "true" }, element("style", THEMES));
  const v = makeView(model, shell);
  addMoves(v);
  addEdits(v);
  addPlayer(v);
  v.prepare();
  const root = element("section.vt", { tabIndex: -1,
    "aria-label": "viewer: " + cut(v.data.title, 200) },
  drawHead(v),
  words("div.vt-question", v.data.question),
  drawOptions(v),
  element("div.vt-main", drawStage(v), drawTrace(v)),
  drawBar(v), drawHelp(v), drawBoard(v), drawStatus(v), drawDetail(v), drawCompare(v),
  element("div.vt-lists",
    drawList(v, () => v.shown),
    drawList(v, () => v.shown === v.truth ? null : v.truth)));
  addKeys(v, root);
  shell.attachShadow({ mode: "open" }).append(element("style", STYLE), root);
  host.replaceChildren(shell);
  loadPictures(v);
  v.fire("lanes", "time");

  const moved = () => {
    v.seek(v.time());
    v.fire("time");
  };
  const events = { time: moved, selected: moved, playing: v.run, loop: v.run,
    segments: () => v.editable && v.outside() };
  for (const [name, react] of Object.entries(events)) {
    const hear = () => v.own || react(); // else Python, or the page around, has set it
    model.on("change:" + name, hear);
    v.atEnd(() => model.off("change:" + name, hear));
  }
  if (model.get("playing")) v.run();
  return () => {
    v.end();
    shell.remove();
  };
}

// Draw, and draw again when the data change; returns what takes all of it away.
function draw(host, model) {
  let end = drawOnce(host, model);
  const again = () => {
    end();
    end = drawOnce(host, model);
  };
  const events = ["change:data", "change:video_bytes"];
  events.forEach(name => model.on(name, again));
  return () => {
    events.forEach(name => model.off(name, again));
    end();
  };
}

// == Without a kernel ==

// A dictionary in place of the widget's model; "event" hears what a widget would tell Python.
function standIn(data) {
  const lane = data.lanes.find(({ name }) => name === data.editable);
  const segments = lane ? lane.segments : [];
  const state = { data: { ...data }, time: 0, selected: "", playing: false, loop: false, segments };
  const heard = {};
  const fire = (name, value) => (heard[name] || []).forEach(react => react(value));
  return {
    get: key => state[key],
    set: (key, value) => {
      const isNew = state[key] !== value;
      state[key] = value;
      if (isNew) fire("change:" + key, value);
    },
    save_changes() {},
    send: content => fire("event", content),
    on: (name, react) => { heard[name] = [...(heard[name] || []), react]; },
    off: (name, react) => { heard[name] = (heard[name] || []).filter(one => one !== react); },
  };
}

const mounted = new WeakMap(); // host → what takes its drawing away

// Draw into `host` on a page without a kernel; returns the stand-in model, with `close`.
function mount(host, data) {
  if (mounted.has(host)) mounted.get(host)();
  const model = standIn(data);
  model.close = draw(host, model);
  mounted.set(host, model.close);
  return model;
}

export default { render: ({ model, el }) => draw(el, model), mount, tiou };
