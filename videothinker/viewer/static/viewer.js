// The viewer of one answered question: frames on a time axis, segments in lanes, lists, the trace.
// The state is `time` (seconds) and `selected` ("predicted 1", "true 2", ""); it lives in `model`.
// Nothing is measured: everything stands in per cent. Texts enter by `append`: no markup is read.

// == Tools ==

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  node.className = className || "";
  node.append(...children);
  return node;
}

// A time in words: "6.5 s" in a clip of less than two minutes, else "1:02:03.5".
function clock(time, duration) {
  if (duration < 120) return time.toFixed(1) + " s";
  const two = number => String(number).padStart(2, "0");
  const tenths = Math.round(10 * time);
  const hours = Math.floor(tenths / 36000);
  const minutes = Math.floor(tenths / 600) % 60;
  const seconds = two(Math.floor(tenths / 10) % 60) + (tenths % 10 ? "." + tenths % 10 : "");
  return (hours ? hours + ":" + two(minutes) : minutes) + ":" + seconds;
}

// A range holds its start and not its end; a millionth of a second is to spare.
const inside = (segment, time) => segment.left <= time + 1e-6 && time < segment.right - 1e-6;
const nameOf = (lane, i) => lane + " " + (i + 1);

// What all parts of one drawing share: the data, the state, and `marks`, the elements that are
// on or off: [element, is it on at (time, selection)?, is it within the selection?].
function makeView(model) {
  const data = model.get("data");
  const view = { data, model, marks: [], update() {} };
  view.duration = data.duration;
  view.seen = data.frames.reduce((n, frame) => n + frame.count, 0);
  view.clock = time => clock(time, data.duration);
  view.range = ({ start, end }) => view.clock(start).replace(" s", "") + "–" + view.clock(end);
  view.at = time => 100 * time / data.duration + "%";
  view.frameAt = time => data.frames.reduce((k, frame, i) => frame.time <= time + 1e-6 ? i : k, 0);
  view.go = (time, selected) => {
    model.set("time", Math.min(Math.max(time, 0), data.duration));
    model.set("selected", selected || "");
    model.save_changes();
    view.update();
  };
  view.button = (className, tip, time, selected) => {
    const button = element("button", className);
    button.type = "button";
    button.title = tip;
    button.setAttribute("aria-label", tip);
    button.onclick = () => view.go(time, selected);
    return button;
  };
  view.markSegment = (node, lane, i) => {
    const segment = data[lane][i];
    const isSelected = selection => selection[0] === lane && selection[1] === i;
    const isOn = (time, selection) => selection ? isSelected(selection) : inside(segment, time);
    view.marks.push([node, isOn]);
  };
  return view;
}

// == Question and verdict ==

const VERDICTS = { right: "✓ right answer", wrong: "✗ wrong answer" };

function drawHead({ data, clock, duration, seen }) {
  const head = element("div", "vt-head", element("strong", "", data.title));
  if (data.verdict) {
    head.append(element("span", "vt-verdict", VERDICTS[data.verdict] || "— no answer"));
  }
  const meta = Object.entries(data.meta).map(entry => entry.join(": "));
  for (const fact of [clock(duration) + " long", seen + " frames seen", ...meta]) {
    head.append(element("span", "", fact));
  }
  return head;
}

function drawOptions({ data }) {
  const rightLabel = () => element("em", "vt-right", "right answer");
  const chosenLabel = () => element("em", "vt-chosen", "model’s answer");
  const options = element("ul", "vt-options");
  for (const option of data.options) {
    const item = element("li", "", option.text);
    if (option.right) item.append(rightLabel());
    if (option.chosen) item.append(chosenLabel());
    options.append(item);
  }
  if (!data.options.length && (data.answer || data.predicted_answer)) {
    options.append(element("li", "", data.predicted_answer || "none", chosenLabel()));
    options.append(element("li", "", data.answer || "not known", rightLabel()));
  }
  return options;
}

// == Frames on the axis ==

function drawStrip(view) {
  const { data, duration, at, clock } = view;
  const [height, width] = data.shape;
  const drawn = data.frames.filter(frame => frame.src); // of many frames, some tens
  const pictures = drawn.length ? drawn : data.frames;
  const count = pictures.length;
  if (!count) {
    return element("div", "vt-track vt-strip", element("span", "vt-none", "no frames were shown"));
  }
  const end = Math.max(duration, pictures[count - 1].time);
  const next = i => i + 1 < count ? pictures[i + 1].time : end;
  const gaps = pictures.map((frame, i) => next(i) - frame.time); // seconds
  const typical = [...gaps].sort((a, b) => a - b)[count >> 1] || duration;
  const strip = element("div", "vt-track vt-strip" + (width <= 128 ? " vt-pixels" : ""));
  const ratio = Math.min(Math.max(duration / typical * width / height, 6), 24);
  if (drawn.length) strip.style.aspectRatio = ratio + "";
  const pictureAt = time => pictures.reduce((k, frame, i) => frame.time <= time + 1e-6 ? i : k, 0);
  pictures.forEach((frame, i) => {
    const times = frame.count > 1 ? ", shown to the model " + frame.count + " times" : "";
    const which = "frame " + (frame.index + 1) + " of " + view.seen;
    const tip = which + ", at " + clock(frame.time) + times;
    const button = view.button("vt-frame", tip, frame.time, "");
    if (frame.src) {
      const image = element("img");
      image.src = frame.src;
      image.alt = "";
      button.append(image);
    }
    button.style.left = at(frame.time);
    button.style.width = at(Math.max(gaps[i], 0.004 * duration));
    const isShown = time => pictureAt(time) === i;
    const isWithin = (time, selection) => {
      if (!selection) return false;
      const segment = data[selection[0]][selection[1]];
      return segment.left < frame.time + gaps[i] && frame.time < segment.right;
    };
    view.marks.push([button, isShown, isWithin]);
    strip.append(button);
  });
  return strip;
}

// == Lanes ==

function drawLane(view, lane) {
  const { data, duration, at } = view;
  const track = element("div", "vt-track");
  const rows = Math.max(1, ...data[lane].map(segment => segment.row + 1));
  track.style.height = 27 * rows - 3 + "px";
  if (!data[lane].length) {
    track.append(element("span", "vt-none", lane === "true" ? "none annotated" : "none named"));
  }
  data[lane].forEach((segment, i) => {
    const name = nameOf(lane, i);
    const flag = segment.flag ? ", " + segment.flag : "";
    const tip = name + ": " + view.range(segment) + flag + ". " + segment.caption;
    const bar = view.button("vt-seg vt-" + lane, tip, segment.left, name);
    const after = segment.left >= duration; // a mark of fixed width at the end
    bar.append((i + 1) + " " + (segment.flag ? "⚠ " : "") + (after ? "" : segment.caption));
    bar.style.left = after ? "calc(100% - 36px)" : at(segment.left);
    bar.style.width = after ? "36px" : at(segment.right - segment.left);
    bar.style.top = 27 * segment.row + "px";
    bar.dataset.segment = name;
    view.markSegment(bar, lane, i);
    track.append(bar);
  });
  return track;
}

// == The time axis ==

const TICK_STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];

function drawAxis(view) {
  const { duration, at, clock } = view;
  const axis = element("div", "vt-track vt-axis");
  axis.tabIndex = 0;
  axis.setAttribute("role", "slider");
  axis.setAttribute("aria-label", "time in seconds");
  axis.setAttribute("aria-valuemin", 0);
  axis.setAttribute("aria-valuemax", duration);
  const step = TICK_STEPS.find(s => duration / s <= 8.5) || 7200;
  for (let k = 0; k * step <= duration + 1e-6; k++) {
    const time = k * step;
    const words = duration < 120 ? +time.toFixed(1) + " s" : clock(time);
    const label = element("span", time > 0.96 * duration && k ? "vt-last" : "", words);
    label.classList.toggle("vt-odd", k % 2 === 1);
    const tick = element("i");
    tick.style.left = label.style.left = at(time);
    axis.append(tick, label);
  }
  const goToPointer = event => {
    const box = axis.getBoundingClientRect();
    view.go((event.clientX - box.left) / box.width * duration, "");
  };
  axis.onpointerdown = event => {
    axis.setPointerCapture(event.pointerId);
    goToPointer(event);
  };
  axis.onpointermove = event => {
    if (event.buttons) goToPointer(event);
  };
  axis.onkeydown = event => {
    if (press(view, event)) event.preventDefault();
  };
  return axis;
}

// Move as a key on the axis asks; returns false for a key that means nothing here.
function press(view, { key, shiftKey }) {
  const { data, model, duration, go } = view;
  const time = model.get("time");
  const k = view.frameAt(time);
  const turn = { "[": -1, "]": 1 }[key];
  if (turn && data.predicted.length + data.true.length) {
    const lanes = ["predicted", "true"];
    const order = lanes.flatMap(lane => data[lane].map((segment, i) => [lane, i]));
    const now = order.findIndex(([lane, i]) => nameOf(lane, i) === model.get("selected"));
    const first = turn > 0 ? 0 : order.length - 1;
    const [lane, i] = order[now < 0 ? first : (now + turn + order.length) % order.length];
    go(data[lane][i].left, nameOf(lane, i));
  } else if (key === "ArrowRight" || key === "ArrowUp") {
    const last = data.frames.length - 1;
    go(shiftKey || last < 0 ? time + 1 : data.frames[Math.min(k + 1, last)].time);
  } else if (key === "ArrowLeft" || key === "ArrowDown") {
    const back = data.frames.length && time > data.frames[k].time ? k : k - 1;
    go(shiftKey || !data.frames.length ? time - 1 : data.frames[Math.max(back, 0)].time);
  } else if (key === "PageUp" || key === "PageDown") {
    go(time + (key === "PageUp" ? duration : -duration) / 10);
  } else if (key === "Home" || key === "End") {
    go(key === "Home" ? 0 : duration);
  } else {
    return false;
  }
  return true;
}

// == The board and its cursor ==

function drawBoard(view) {
  const strip = drawStrip(view);
  const axis = drawAxis(view);
  const cursor = element("div", "vt-cursor");
  const board = element("div", "vt-board");
  const rows = {
    frames: strip,
    predicted: drawLane(view, "predicted"),
    true: drawLane(view, "true"),
    time: axis,
  };
  Object.entries(rows).forEach(([name, track], i) => {
    const label = element("div", "vt-name", name);
    label.style.gridRow = track.style.gridRow = i + 1;
    board.append(label, track);
  });
  board.append(element("div", "vt-over", cursor));
  return { board, strip, axis, cursor };
}

// == Lists ==

function drawList(view, lane, title, other) {
  const segments = view.data[lane];
  const list = element("ol", lane === "true" ? "vt-t" : "vt-p");
  segments.forEach((segment, i) => {
    const overlap = "tIoU " + segment.tiou.toFixed(2) + " with " + nameOf(other, segment.match);
    const fit = segment.match < 0 ? "overlaps no " + other + " segment" : overlap;
    const flag = segment.flag ? "⚠ " + segment.flag + " · " : "";
    const row = view.button("vt-row", "show " + nameOf(lane, i), segment.left, nameOf(lane, i));
    row.append(
      element("small", "", (i + 1) + ". "),
      element("b", "", view.range(segment)),
      " " + (segment.caption || "(no caption)") + " ",
      element("small", "", flag + fit),
    );
    row.removeAttribute("aria-label");
    view.markSegment(row, lane, i);
    list.append(element("li", "", row));
  });
  return element("div", "", element("h4", "", title + (segments.length ? "" : ": none")), list);
}

// == What the model wrote ==

function drawTrace(view) {
  const { data, marks } = view;
  const trace = element("div", "vt-trace", element("h4", "", "What the model wrote"));
  let block = null;
  for (const { tag, text, segment } of data.trace) {
    if (tag === "time" || !block || tag === "" || tag === "answer") {
      block = element("div", "vt-block vt-p");
      trace.append(block);
      if (segment >= 0) view.markSegment(block, "predicted", segment);
    }
    if (tag) block.append(element("span", "vt-tag", tag));
    if (tag === "time" && segment >= 0) {
      const start = data.predicted[segment].left;
      const time = view.button("vt-time", "show " + text, start, nameOf("predicted", segment));
      time.append(text);
      block.append(time);
    } else {
      block.append(element("span", tag ? "vt-" + tag : "", text));
    }
  }
  if (!data.trace.length) trace.append(element("div", "vt-none", "nothing"));
  return trace;
}

// == The whole drawing ==

// The selection as [lane, index]; null if it names no segment.
function readSelection(data, selected) {
  const cut = selected.lastIndexOf(" ");
  const lane = selected.slice(0, cut);
  const i = +selected.slice(cut + 1) - 1;
  return selected && data[lane] && data[lane][i] ? [lane, i] : null;
}

// What the picture says at a moment, in words.
function describe({ data, clock, seen, frameAt }, time, selection, selected) {
  const frame = data.frames[frameAt(time)];
  const lanes = ["predicted", "true"];
  const namesHere = lane => data[lane].map((s, i) => inside(s, time) ? nameOf(lane, i) : "");
  const here = lanes.flatMap(namesHere).filter(Boolean);
  const which = frame
    ? "frame " + (frame.index + 1) + " of " + seen + " (shown at " + clock(frame.time) + ")"
    : "no frames";
  return clock(time) + ": " + which
    + (here.length ? " · inside " + here.join(", ") : " · inside no segment")
    + (selection ? " · selected " + selected : "");
}

// Draw what `model` holds into `host`; returns a function that takes the listeners off again.
function draw(host, model) {
  const view = makeView(model);
  const { board, strip, axis, cursor } = drawBoard(view);
  const status = element("div", "vt-status");
  status.setAttribute("aria-live", "polite");

  view.update = () => {
    const time = model.get("time");
    const selected = model.get("selected");
    const selection = readSelection(view.data, selected);
    cursor.style.left = view.at(Math.min(time, view.duration));
    cursor.dataset.time = time;
    const colour = selection && selection[0] === "true" ? "var(--true)" : "var(--pred)";
    strip.classList.toggle("vt-picked", !!selection);
    strip.style.setProperty("--mark", selection ? colour : "");
    for (const [node, isOn, isWithin] of view.marks) {
      node.classList.toggle("on", !!isOn(time, selection));
      if (isWithin) node.classList.toggle("in", !!isWithin(time, selection));
    }
    status.textContent = describe(view, time, selection, selected);
    axis.setAttribute("aria-valuenow", time.toFixed(2));
    axis.setAttribute("aria-valuetext", view.clock(time));
  };

  const root = element("section", "vt",
    drawHead(view),
    element("div", "vt-question", view.data.question),
    drawOptions(view),
    element("div", "vt-box", board),
    status,
    element("div", "vt-lists",
      drawList(view, "predicted", "Predicted segments (hatched)", "true"),
      drawList(view, "true", "True segments (solid)", "predicted")),
    drawTrace(view));
  root.setAttribute("aria-label", "trace viewer: " + view.data.title);
  root.dataset.testid = "videothinker-viewer";
  host.replaceChildren(root);

  const events = ["change:time", "change:selected"];
  const update = () => view.update();
  events.forEach(name => model.on(name, update));
  update();
  return () => events.forEach(name => model.off(name, update));
}

// == Without a kernel ==

// Draw into `host` on a saved page: a dictionary stands in for the widget's model, nobody listens.
function mount(host, data) {
  const state = { data, time: 0, selected: "" };
  const model = {
    get: key => state[key],
    set: (key, value) => { state[key] = value; },
    save_changes() {},
    on() {},
    off() {},
  };
  draw(host, model);
}

// Draw into the hosts of this name that are still empty. Where the script stands says nothing:
// VS Code and the classic notebook run the scripts of an output elsewhere.
function mountNamed(name, data) {
  const script = document.currentScript;
  const root = script ? script.getRootNode() : document;
  for (const host of root.querySelectorAll('.vt-host[data-view="' + name + '"]')) {
    host.removeAttribute("data-view");
    mount(host, data);
  }
}

export default { render: ({ model, el }) => draw(el, model), mount };
