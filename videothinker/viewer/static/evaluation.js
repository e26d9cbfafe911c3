// The records of an evaluation as a list: filters, sorting, pages of a hundred, and below the row
// that was clicked its viewer. Stands on a page behind the functions of viewer.js. What the list
// needs is parsed at once; replies, segments and pictures when they are first asked for.

const PAGE = 100;
const MARKS = {
  right: "✓", wrong: "✗", unread: "?", "cut off": "✂", refused: "∅", failed: "!", "not scored": "–",
};
const BINS = [[60, "under 1 min"], [180, "1 to 3 min"], [600, "3 to 10 min"],
  [1800, "10 to 30 min"], [3600, "30 to 60 min"], [Infinity, "over 1 h"]];

// == Data ==

const parsed = {};
function block(name) {
  if (!(name in parsed)) parsed[name] = JSON.parse(document.getElementById(name).textContent);
  return parsed[name];
}

const index = block("ev-index");
const runOf = record => index.runs[record.run];
const sampleOf = record => index.samples[record.sample];
const binOf = ({ duration }) =>
  duration == null ? "not known" : BINS.find(([end]) => duration < end)[1];

const state = { filters: {}, reading: 0, text: "", sort: "number", down: false, page: 0, open: -1 };
let shown = []; // numbers of the records that the list holds, in its order
let texts = null; // what the search looks at, made when it is first used

// A filter: its name, its words, and the values of a record.
const FACETS = [
  ["model", "model", record => [runOf(record).model]],
  ["benchmark", "benchmark", record => [runOf(record).benchmark]],
  ["column", "protocol", record => [runOf(record).column]],
  ["condition", "condition", record => [record.condition]],
  ["category", "category", record => record.category],
  ["duration", "length of the video", record => [binOf(record)]],
  ["outcome", "outcome", record => [record.outcomes[state.reading]]],
  ["rule", "letter found by", record => [record.rule || "not read"]],
  ["known", "known about the question", record => record.known.length ? record.known : ["nothing"]],
];
const ORDERS = { duration: [...BINS.map(bin => bin[1]), "not known"], outcome: Object.keys(MARKS) };

// Numbers sort as numbers, what is missing comes last.
const KEYS = {
  number: i => i,
  outcome: i => ORDERS.outcome.indexOf(index.records[i].outcomes[state.reading]),
  question: i => sampleOf(index.records[i]).question.toLowerCase(),
  answers: i => index.records[i].given[state.reading],
  category: i => index.records[i].category.join(", "),
  duration: i => index.records[i].duration,
  tokens: i => index.records[i].tokens,
  miou: i => index.records[i].miou,
  model: i => runOf(index.records[i]).model,
  benchmark: i => runOf(index.records[i]).benchmark,
  protocol: i => runOf(index.records[i]).column,
  condition: i => index.records[i].condition,
};

function textOf(i) {
  const sample = sampleOf(index.records[i]);
  const trace = block("ev-details")[i].trace.map(piece => piece.text);
  return [sample.id, sample.video, sample.question, ...sample.options.map(option => option[1]),
    index.records[i].error, ...trace].join("\n").toLowerCase();
}

// == Which records, in which order ==

// Pass once over all records; returns the counts of each filter's values under the other filters.
function select() {
  const counts = FACETS.map(() => new Map());
  const words = state.text.toLowerCase().trim();
  if (words && !texts) texts = index.records.map((_, i) => textOf(i));
  shown = [];
  index.records.forEach((record, i) => {
    if (words && !texts[i].includes(words)) return;
    const values = FACETS.map(facet => facet[2](record));
    const failed = FACETS.filter(([name], k) =>
      state.filters[name] && !values[k].includes(state.filters[name]));
    if (failed.length > 1) return;
    values.forEach((list, k) => {
      if (failed.length && failed[0] !== FACETS[k]) return;
      for (const value of list) counts[k].set(value, (counts[k].get(value) || 0) + 1);
    });
    if (!failed.length) shown.push(i);
  });
  const key = KEYS[state.sort];
  const missing = value => value == null || value === "";
  const keyed = shown.map(i => [key(i), i]);
  keyed.sort(([a, i], [b, j]) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b) || i - j;
    const order = a < b ? -1 : a > b ? 1 : 0;
    return (state.down ? -order : order) || i - j;
  });
  shown = keyed.map(pair => pair[1]);
  return counts;
}

// == Filters ==

const selects = {};

function labelled(words, control) {
  return element("label", "", words, control);
}

function drawBar(bar) {
  for (const [name, words, valuesOf] of FACETS) {
    const values = [...new Set(index.records.flatMap(valuesOf))];
    if (name === "outcome") values.splice(0, Infinity, ...index.outcomes);
    else if (values.length < 2) continue;
    const order = ORDERS[name] || [...values].sort();
    values.sort((a, b) => order.indexOf(a) - order.indexOf(b));
    const select = element("select");
    select.name = name;
    for (const value of ["", ...values]) {
      const option = element("option", "", value || "all");
      option.value = value;
      select.append(option);
    }
    select.onchange = () => change(() => { state.filters[name] = select.value; });
    selects[name] = select;
    bar.append(labelled(words, select));
  }
  const reading = element("select");
  reading.name = "reading";
  index.readings.forEach((name, k) => {
    const option = element("option", "", name);
    option.value = k;
    reading.append(option);
  });
  reading.onchange = () => change(() => { state.reading = +reading.value; });
  const search = element("input");
  search.type = "search";
  search.name = "text";
  search.placeholder = "question, option, reply, id";
  let waiting = 0;
  search.oninput = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => change(() => { state.text = search.value; }), 120);
  };
  const clear = element("button", "", "clear");
  clear.type = "button";
  clear.onclick = () => change(() => {
    state.filters = {};
    state.text = search.value = "";
    for (const select of Object.values(selects)) select.value = "";
  });
  bar.append(labelled("judged by", reading), labelled("text", search), clear);
}

function showCounts(counts) {
  FACETS.forEach(([name], k) => {
    for (const option of selects[name] ? selects[name].options : []) {
      const count = counts[k].get(option.value) || 0;
      if (option.value) option.textContent = option.value + " (" + count + ")";
    }
  });
}

// == The list ==

const one = name => new Set(index.runs.map(run => run[name])).size < 2;
const oneCondition = new Set(index.records.map(record => record.condition)).size < 2;
const number = (value, digits) => value == null ? "–" : value.toFixed(digits);

// A column: its sort key, its head, the cell of record i, is it a number?
const COLUMNS = [
  ["number", "#", i => i + 1, true],
  ["outcome", "outcome", outcomeCell],
  ["question", "question", rowButton],
  ["answers", "given / right", i =>
    (index.records[i].given[state.reading] || "–") + " / " + sampleOf(index.records[i]).answer],
  ["category", "category", i => index.records[i].category.join(", ")],
  ["duration", "video, s", i => number(index.records[i].duration, 0), true],
  ["tokens", "tokens", i => index.records[i].tokens || "–", true],
  ["miou", "mIoU, %", i => {
    const { miou } = index.records[i];
    return miou == null ? "–" : number(100 * miou, 0);
  }, true],
  one("model") ? null : ["model", "model", i => runOf(index.records[i]).model],
  one("benchmark") ? null : ["benchmark", "benchmark", i => runOf(index.records[i]).benchmark],
  one("column") ? null : ["protocol", "protocol", i => runOf(index.records[i]).column],
  oneCondition ? null : ["condition", "condition", i => index.records[i].condition],
].filter(Boolean);

function outcomeCell(i) {
  const outcome = index.records[i].outcomes[state.reading];
  return element("span", "ev-outcome", element("b", "", MARKS[outcome]), outcome);
}

function rowButton(i) {
  const { id, question } = sampleOf(index.records[i]);
  const button = element("button", "ev-row", question || id);
  button.type = "button";
  button.title = id;
  button.dataset.record = i;
  button.setAttribute("aria-expanded", state.open === i);
  button.onclick = () => toggle(i);
  return button;
}

const head = element("tr");
const body = element("tbody");
const status = element("span", "ev-status");
status.setAttribute("aria-live", "polite");
const pagers = [];

function drawColumns() {
  for (const [key, name, , isNumber] of COLUMNS) {
    const button = element("button", "", name);
    button.type = "button";
    button.onclick = () => change(() => {
      state.down = state.sort === key && !state.down;
      state.sort = key;
    });
    const cell = element("th", isNumber ? "r" : "", button);
    cell.scope = "col";
    cell.dataset.key = key;
    head.append(cell);
  }
}

function drawRow(i) {
  const cells = COLUMNS.map(([, , cell, isNumber]) => element("td", isNumber ? "r" : "", cell(i)));
  return element("tr", state.open === i ? "ev-open" : "", ...cells);
}

function drawPage() {
  const from = state.page * PAGE;
  body.replaceChildren();
  for (const i of shown.slice(from, from + PAGE)) {
    body.append(drawRow(i));
    if (state.open === i) body.append(drawDetail(i));
  }
  for (const cell of head.children) {
    const direction = state.down ? "descending" : "ascending";
    cell.setAttribute("aria-sort", cell.dataset.key === state.sort ? direction : "none");
  }
  const last = Math.max(0, Math.ceil(shown.length / PAGE) - 1);
  for (const { back, on, words } of pagers) {
    back.disabled = state.page === 0;
    on.disabled = state.page >= last;
    words.textContent = "page " + (state.page + 1) + " of " + (last + 1);
  }
}

function drawStatus() {
  const right = shown.filter(i => index.records[i].outcomes[state.reading] === "right").length;
  const share = shown.length ? ", " + (100 * right / shown.length).toFixed(1) + " % right" : "";
  status.textContent = shown.length.toLocaleString("en") + " of "
    + index.records.length.toLocaleString("en") + " records" + share;
}

function turn(step) {
  const last = Math.max(0, Math.ceil(shown.length / PAGE) - 1);
  state.page = Math.min(Math.max(state.page + step, 0), last);
  drawPage();
}

function drawPager() {
  const back = element("button", "", "← previous");
  const on = element("button", "", "next →");
  back.type = on.type = "button";
  back.onclick = () => turn(-1);
  on.onclick = () => turn(1);
  const words = element("span");
  pagers.push({ back, on, words });
  return element("div", "ev-pager", ...(pagers.length === 1 ? [status] : []), back, words, on);
}

function update() {
  showCounts(select());
  drawStatus();
  drawPage();
}

function change(act) {
  act();
  state.page = 0;
  update();
}

// == One record ==

// The frames the model saw: with pictures where the page has them, else their times.
function framesOf(detail) {
  if (detail.clip >= 0) return block("ev-clips")[detail.clip];
  const frames = [];
  detail.times.forEach((time, k) => {
    const before = frames[frames.length - 1];
    if (before && before.time === time) before.count += 1;
    else frames.push({ time, index: k, count: 1 });
  });
  return { frames, shape: [9, 16] };
}

function viewOf(i) {
  const record = index.records[i];
  const sample = sampleOf(record);
  const detail = block("ev-details")[i];
  const given = record.given[0];
  const option = ([letter, text]) =>
    ({ text, right: letter === sample.answer, chosen: letter === given });
  const verdict = { right: "right", wrong: "wrong" }[record.outcomes[0]] || "none";
  return {
    title: sample.id, question: sample.question, options: sample.options.map(option), verdict,
    answer: sample.answer, predicted_answer: given, duration: detail.duration, meta: detail.meta,
    predicted: detail.predicted, true: detail.true, trace: detail.trace, ...framesOf(detail),
  };
}

function drawDetail(i) {
  const cell = element("td");
  cell.colSpan = COLUMNS.length;
  mount(cell, viewOf(i));
  return element("tr", "ev-detail", cell);
}

const buttonOf = i => body.querySelector('[data-record="' + i + '"]');

function toggle(i) {
  state.open = state.open === i ? -1 : i;
  try {
    history.replaceState(null, "", state.open < 0 ? "#" : "#record-" + (i + 1));
  } catch {
    // a page inside another may not change its address
  }
  drawPage();
  buttonOf(i).focus();
}

// Show the record that the address names, on whichever page of the list it is.
function openAddressed() {
  const match = /^#record-(\d+)$/.exec(location.hash);
  const i = match ? match[1] - 1 : -1;
  const place = shown.indexOf(i);
  if (place < 0) return;
  state.page = Math.floor(place / PAGE);
  state.open = i;
  drawPage();
  buttonOf(i).scrollIntoView();
}

// Arrows go from row to row, also over the end of a page; Escape closes.
function pressRow(event) {
  if (event.key === "Escape" && state.open >= 0) {
    const i = state.open;
    toggle(i);
    return event.preventDefault();
  }
  const i = event.target.dataset ? event.target.dataset.record : undefined;
  const step = { ArrowDown: 1, ArrowUp: -1, PageDown: PAGE, PageUp: -PAGE }[event.key];
  if (i === undefined || !step) return;
  event.preventDefault();
  const place = Math.min(Math.max(shown.indexOf(+i) + step, 0), shown.length - 1);
  const page = Math.floor(place / PAGE);
  if (page !== state.page) {
    state.page = page;
    drawPage();
  }
  buttonOf(shown[place]).focus();
}

// == The whole list ==

const list = document.getElementById("ev-list");
const bar = element("div", "ev-bar");
bar.setAttribute("role", "search");
drawBar(bar);
drawColumns();
const table = element("table", "ev-list", element("thead", "", head), body);
table.onkeydown = pressRow;
list.replaceChildren(bar, drawPager(), element("div", "wide", table), drawPager());
update();
openAddressed();
