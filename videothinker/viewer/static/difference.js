// What differs between two replies: their blocks aligned in time, their words compared. A word
// that only one of them has is marked with a sign and a line, so that colour is not needed.

const MOST_WORDS = 400; // compared word by word; longer texts are shown as they are

// == Blocks ==

// The blocks of a lane, the text before the first and after the last, and the answer.
function blocksOf(lane) {
  const blocks = [];
  const parts = { opening: [], conclusion: [], answer: "" };
  for (const { tag, text, segment } of lane.trace) {
    if (tag === "time") {
      const times = segment >= 0 ? lane.segments[segment] : null;
      blocks.push({ time: text, start: times?.start, end: times?.end, caption: "", think: "" });
    } else if (tag === "answer") {
      parts.answer = text;
    } else if (tag && blocks.length) {
      const block = blocks[blocks.length - 1];
      block[tag] = block[tag] ? block[tag] + " " + text : text;
    } else {
      (blocks.length ? parts.conclusion : parts.opening).push(text);
    }
  }
  return { ...parts, blocks };
}

const wordsOf = text => text.split(/\s+/).filter(Boolean);

// How well two blocks go together: their times count most, then the words of their captions.
function likeness(a, b) {
  const first = new Set(wordsOf(a.caption)), second = new Set(wordsOf(b.caption));
  const common = [...first].filter(word => second.has(word)).length;
  const all = first.size + second.size - common;
  return tiou(a, b) + (all ? 0.6 * common / all : 0);
}

// Pairs [a, b] in order, null where a block has no partner: the alignment of the greatest likeness.
function aligned(first, second) {
  const n = first.length, m = second.length;
  const best = Array.from({ length: n + 1 }, () => new Float64Array(m + 1));
  const gain = (i, j) => Math.max(0, likeness(first[i], second[j]) - 0.25);
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      best[i][j] = Math.max(best[i + 1][j], best[i][j + 1], gain(i, j) + best[i + 1][j + 1]);
    }
  }
  const pairs = [];
  let i = 0, j = 0;
  while (i < n || j < m) {
    const pays = i < n && j < m && gain(i, j) > 0
      && best[i][j] === gain(i, j) + best[i + 1][j + 1];
    if (pays) pairs.push([first[i++], second[j++]]);
    else if (i < n && (j >= m || best[i][j] === best[i + 1][j])) pairs.push([first[i++], null]);
    else pairs.push([null, second[j++]]);
  }
  return pairs;
}

// == Words ==

// The longest common words of two texts; returns for each text its runs [text, isOnlyHere].
function compareWords(a, b) {
  const first = wordsOf(a), second = wordsOf(b);
  const n = first.length, m = second.length;
  if (a === b || n > MOST_WORDS || m > MOST_WORDS) return [[[a, false]], [[b, false]]];
  const length = Array.from({ length: n + 1 }, () => new Uint16Array(m + 1));
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      length[i][j] = first[i] === second[j] ? length[i + 1][j + 1] + 1
        : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const runs = [[], []];
  const put = (side, word, only) => {
    const last = runs[side][runs[side].length - 1];
    if (last && last[1] === only) last[0] += " " + word;
    else runs[side].push([word, only]);
  };
  let i = 0, j = 0;
  while (i < n || j < m) {
    if (i < n && j < m && first[i] === second[j]) {
      put(0, first[i++], false);
      put(1, second[j++], false);
    } else if (i < n && (j >= m || length[i + 1][j] >= length[i][j + 1])) put(0, first[i++], true);
    else put(1, second[j++], true);
  }
  return runs;
}

function runsOf(runs, side) {
  const node = element("span");
  runs.forEach(([text, only], k) => {
    if (k) node.append(" ");
    node.append(only ? element(side ? "del" : "ins", (side ? "−" : "+") + text) : text);
  });
  return node;
}

// == The section ==

function drawDifference(lanes, called, chosen) {
  const selects = [0, 1].map(side => {
    const select = element("select");
    select.name = side ? "compare-with" : "compare";
    lanes.forEach((_, k) => {
      const node = element("option", called[k]);
      node.value = k;
      select.append(node);
    });
    select.value = chosen ? chosen[side] : side;
    return select;
  });
  const place = element("div");
  const draw = () => place.replaceChildren(
    ...differenceOf(...selects.map(({ value }) => lanes[value]),
      selects.map(({ value }) => called[value])));
  for (const select of selects) select.onchange = draw;
  const title = element("div.vb-pick", element("strong", "What differs between"),
    element("label", element("span.vb-hidden", "one"), selects[0]), "and",
    element("label", element("span.vb-hidden", "the other"), selects[1]));
  draw();
  const section = element("section.vb-difference", title, place);
  section.setAttribute("aria-label", "what differs between two of them");
  return section;
}

function differenceOf(a, b, called) {
  const one = blocksOf(a), other = blocksOf(b);
  const pairs = aligned(one.blocks, other.blocks);
  const names = element("tr", ...["", ...called].map(name => {
    const cell = element("th", name);
    cell.scope = "col";
    return cell;
  }));
  const rows = [];
  const add = (label, note, left, right) => {
    const head = element("th", label, note ? element("small", note) : null);
    head.scope = "row";
    rows.push(element("tr", head, element("td", ...left), element("td", ...right)));
  };
  const texts = (left, right) => {
    const runs = compareWords(left || "", right || "");
    return runs.map((side, k) => (side.length && side[0][0] ? [runsOf(side, k)] : ["–"]));
  };
  if (one.opening.length || other.opening.length) {
    add("opening", "", ...texts(one.opening.join(" "), other.opening.join(" ")));
  }
  pairs.forEach(([left, right], k) => {
    const note = left && right ? noteOf(left, right) : "only in " + (left ? a : b).name;
    add("block " + (k + 1), note, ...blockCells(left, right));
  });
  add("conclusion", "", ...texts(one.conclusion.join(" "), other.conclusion.join(" ")));
  const verdict = lane => (lane.answer ?? "none") + (lane.verdict ? " (" + lane.verdict + ")" : "");
  add("answer", a.answer === b.answer ? "the same" : "", [verdict(a)], [verdict(b)]);
  const common = pairs.filter(([left, right]) => left && right);
  const close = common.filter(([left, right]) => tiou(left, right) >= 0.5).length;
  const told = close + " of " + pairs.length + " blocks agree in time (IoU 0.5 or better), "
    + (pairs.length - common.length) + " stand on one side only. "
    + "+ marks words that only the left one has, − those that only the right one has.";
  const table = element("table.vb-two", element("thead", names), element("tbody", ...rows));
  return [element("p.vb-note", told), wide("both, side by side", table)];
}

function noteOf(left, right) {
  if (left.start === undefined || right.start === undefined) return "";
  if (left.start === right.start && left.end === right.end) return "same times";
  const shift = right.start - left.start;
  const words = shift ? ", starts " + Math.abs(shift).toFixed(1) + " s "
    + (shift > 0 ? "later" : "earlier") + " on the right" : "";
  return "tIoU " + tiou(left, right).toFixed(2) + words;
}

function blockCells(left, right) {
  const cells = [[], []];
  for (const part of ["time", "caption", "think"]) {
    const runs = left && right ? compareWords(left[part], right[part])
      : [left, right].map(block => (block ? [[block[part], true]] : []));
    runs.forEach((side, k) => {
      if (side.length && side[0][0]) cells[k].push(element("div.vb-" + part, runsOf(side, k)));
    });
  }
  return cells.map(cell => (cell.length ? cell : ["–"]));
}
