// The curves of a GRPO run above its groups: how the rewards of a step are spread (step × reward),
// the means of the reward's parts, the lengths, and the groups that teach nothing. A click on a
// step shows its groups only.

const CHART = { width: 330, height: 150, left: 36, right: 8, top: 8, bottom: 20 };
const MOST_BINS = 60, LEVELS = 12;
// The name of SVG, no address that is asked; in pieces, since no file here holds an address.
const SVG = ["http", ["", "", "www.w3.org", "2000", "svg"].join("/")].join(":");
const COLOURS = 5; // in browser.css
const DASHES = ["", "7 3", "2 3", "9 3 2 3"]; // one less, so no pair comes twice in 20

function draw(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.map(child => (child instanceof Node ? child : plain(child))));
  return node;
}

const mean = values => values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
const known = values => values.filter(value => value !== null && value !== undefined);

// What the charts show of the records: steps put together into at most MOST_BINS bins.
function binsOf(records, numbers) {
  const { step, rewards, tokens } = records.by;
  const parts = records.columns.filter(column => column.curve);
  const steps = numbers.map(i => step.values[i]);
  let first = Infinity, last = -Infinity;
  for (const value of steps) {
    first = Math.min(first, value);
    last = Math.max(last, value);
  }
  if (first > last) return { bins: [], parts, first: 0, last: 0 };
  const size = Math.max(1, Math.ceil((last - first + 1) / MOST_BINS));
  const count = Math.ceil((last - first + 1) / size);
  const bins = Array.from({ length: count }, (_, k) => ({
    low: first + k * size, high: Math.min(last, first + (k + 1) * size - 1),
    rewards: [], tokens: [], alike: [], parts: parts.map(() => []),
  }));
  numbers.forEach((i, k) => {
    const bin = bins[Math.floor((steps[k] - first) / size)];
    const earned = known(rewards.values[i]);
    bin.rewards.push(...earned);
    bin.alike.push(earned.length < 2 || Math.max(...earned) - Math.min(...earned) < 1e-6 ? 1 : 0);
    bin.tokens.push(...known([tokens.values[i]]));
    parts.forEach((column, n) => bin.parts[n].push(...known([column.values[i]])));
  });
  return { bins, parts, first, last };
}

function rolloutPanel(host, records, state, change, setRange) {
  const place = element("div.vb-grid");
  const figures = element("details.vb-figures", element("summary", "the figures as a table"));
  host.replaceChildren(place, figures);
  let told = null;
  figures.ontoggle = () => { if (figures.open) drawFigures(); };

  function choose(bin) {
    const range = state.ranges.step;
    const same = range && range[0] === bin.low && range[1] === bin.high;
    change(() => setRange("step", same ? null : [bin.low, bin.high]));
  }

  function frame(title, words, low, high, marks, digits) {
    const { width, height, left, right, top, bottom } = CHART;
    const label = (text, x, y, anchor) =>
      draw("text", { x, y, "text-anchor": anchor, class: "vb-axis" }, text);
    const bottomLine = { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom };
    const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": title + ": " + words },
    label(high.toFixed(digits), left - 4, top + 8, "end"),
    label(low.toFixed(digits), left - 4, height - bottom, "end"),
    label("step " + told.first, left, height - 5, "start"),
    label(String(told.last), width - right, height - 5, "end"),
    draw("line", { ...bottomLine, class: "vb-base" }), ...marks, ...overlays());
    return element("figure", element("figcaption", title), picture);
  }

  const across = () => CHART.width - CHART.left - CHART.right;
  const upright = () => CHART.height - CHART.top - CHART.bottom;
  const xOf = k => CHART.left + across() * k / told.bins.length;
  const yOf = (value, low, high) =>
    CHART.height - CHART.bottom - upright() * (high > low ? (value - low) / (high - low) : 0.5);

  // A strip above each bin that says its figures and takes the click.
  function overlays() {
    const range = state.ranges.step;
    return told.bins.map((bin, k) => {
      const chosen = range && bin.low >= range[0] && bin.high <= range[1];
      const strip = draw("rect", { x: xOf(k), y: CHART.top, width: across() / told.bins.length,
        height: upright(), class: chosen ? "vb-strip vb-chosen" : "vb-strip" },
      draw("title", {}, sentence(bin)));
      strip.onclick = () => choose(bin);
      return strip;
    });
  }

  const span = bin =>
    (bin.low === bin.high ? "step " + bin.low : `steps ${bin.low} to ${bin.high}`);
  const figure = (value, digits) => (value === null ? "–" : value.toFixed(digits));

  function sentence(bin) {
    const parts = told.parts.map((part, k) => part.name + " " + figure(mean(bin.parts[k]), 3));
    return [span(bin) + ": " + bin.rewards.length + " completions",
      "reward " + figure(mean(bin.rewards), 3), ...parts,
      figure(mean(bin.tokens), 0) + " tokens"].join(", ");
  }

  function heatMap() {
    const { low, high } = ends(told.bins.flatMap(bin => bin.rewards));
    const level = value => (high > low
      ? Math.min(LEVELS - 1, Math.floor(LEVELS * (value - low) / (high - low))) : 0);
    const marks = [];
    const wide = across() / told.bins.length, tall = upright() / LEVELS;
    told.bins.forEach((bin, k) => {
      const counts = new Array(LEVELS).fill(0);
      for (const value of bin.rewards) counts[level(value)] += 1;
      counts.forEach((count, n) => {
        if (!count) return;
        marks.push(draw("rect", { x: xOf(k), y: CHART.height - CHART.bottom - (n + 1) * tall,
          width: wide, height: tall, class: "vb-cell",
          "fill-opacity": (0.12 + 0.88 * count / bin.rewards.length).toFixed(3) }));
      });
    });
    marks.push(...line(told.bins.map(bin => mean(bin.rewards)), low, high, "", "vb-mean"));
    return frame("rewards by step: the darker, the more completions; line: mean",
      describe("mean reward", bin => mean(bin.rewards), 3), low, high, marks, 2);
  }

  function line(values, low, high, dashes, className) {
    const points = values.flatMap((value, k) =>
      (value === null ? [] : [xOf(k + 0.5).toFixed(1) + "," + yOf(value, low, high).toFixed(1)]));
    if (points.length === 1) {
      const [cx, cy] = points[0].split(",");
      return [draw("circle", { cx, cy, r: 3, class: className + " vb-dot" })];
    }
    return [draw("polyline", { points: points.join(" "), class: className,
      "stroke-dasharray": dashes })];
  }

  function ends(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      if (value === null) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    return low > high ? { low: 0, high: 1 } : { low, high };
  }

  // From the first to the last value, in words, for who does not see the picture.
  function describe(name, of, digits) {
    const values = known(told.bins.map(of));
    if (!values.length) return "nothing yet";
    return name + " from " + values[0].toFixed(digits) + " to "
      + values[values.length - 1].toFixed(digits) + ` over steps ${told.first} to ${told.last}`;
  }

  function partCurves() {
    const curves = told.parts.map((part, n) => told.bins.map(bin => mean(bin.parts[n])));
    const { low, high } = ends([0, ...curves.flat()]);
    const marks = curves.flatMap((values, n) =>
      line(values, low, high, DASHES[n % DASHES.length], "vb-curve vb-colour" + n % COLOURS));
    const words = told.parts.map((part, n) =>
      describe(part.name, bin => mean(bin.parts[n]), 3)).join("; ");
    const chart = frame("parts of the reward, mean", words, low, high, marks, 2);
    const legend = told.parts.map((part, n) => {
      const sample = draw("line", { x1: 0, x2: 30, y1: 4, y2: 4,
        class: "vb-curve vb-colour" + n % COLOURS,
        "stroke-dasharray": DASHES[n % DASHES.length] });
      const value = figure(known(curves[n]).at(-1) ?? null, 2);
      const picture = draw("svg", { viewBox: "0 0 30 8", class: "vb-sample" }, sample);
      return element("span", picture, part.name + ", last: " + value);
    });
    chart.append(element("div.vb-legend", ...legend));
    return chart;
  }

  function oneCurve(title, of, digits, fromZero, percent) {
    const values = told.bins.map(of);
    const { low, high } = ends(fromZero ? [0, ...values] : values);
    const scale = percent ? 100 : 1;
    const words = describe(title, of, digits);
    const top = percent ? 1 : high;
    const marks = line(values, low, top, "", "vb-curve vb-colour0");
    const chart = frame(title, words, low * scale, top * scale, marks, digits);
    return chart;
  }

  function drawFigures() {
    const titles = ["step", "completions", "reward", ...told.parts.map(part => part.name), "tokens",
      "groups that earned the same, %"];
    const head = element("tr", ...titles.map(title => {
      const cell = element("th", title);
      cell.scope = "col";
      return cell;
    }));
    const rows = told.bins.map(bin => element("tr", ...[span(bin), String(bin.rewards.length),
      figure(mean(bin.rewards), 3), ...bin.parts.map(values => figure(mean(values), 3)),
      figure(mean(bin.tokens), 1), figure(bin.alike.length ? 100 * mean(bin.alike) : null, 0),
    ].map((text, k) => element(k ? "td.vb-r" : "td", text))));
    const table = element("table.vb-lanes", element("thead", head), element("tbody", ...rows));
    figures.replaceChildren(figures.firstChild, wide("figures by step", table));
  }

  function update(numbers) {
    told = binsOf(records, numbers);
    figures.hidden = !told.bins.length;
    if (!told.bins.length) {
      place.replaceChildren(element("p.vb-note", records.live
        ? "nothing is logged yet; the first step appears here by itself" : "no groups"));
      return;
    }
    const lengths = () =>
      oneCurve("length of completions, tokens", bin => mean(bin.tokens), 0, false);
    const hasLengths = told.bins.some(bin => bin.tokens.length); // TRL's own log has none
    place.replaceChildren(heatMap(), partCurves(), ...(hasLengths ? [lengths()] : []),
      oneCurve("groups in which all earned the same, %", bin => mean(bin.alike), 0, true, true));
    if (figures.open) drawFigures();
  }

  return { update };
}
