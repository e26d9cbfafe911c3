// A list of records: filters, sorting, pages of a hundred, and below the row that was clicked the
// viewer with all lanes of the record, their figures, and what differs between two of them.
// Stands behind the functions of viewer.js, difference.js and rollouts.js. Where the records come
// from is a `source`: blocks of the page, the server that served it, or the kernel of a notebook.

const PAGE = 100; // rows that are drawn at a time, whatever the list holds
const PAUSE = 2000; // milliseconds between two looks at a log that grows
const LONGEST = 200; // characters of a text in the list

// A table that scrolls sideways where it does not fit: by keys, too, so it can have the focus.
function wide(label, table) {
  return element("div.vb-wide", { tabIndex: 0, role: "region", "aria-label": label }, table);
}

const thousands = number => number.toLocaleString("en");

// == Where records come from ==

// A page that holds everything: parsed block by block when it is first asked for.
function blockSource() {
  const parsed = {};
  const block = name => {
    parsed[name] ??= JSON.parse(document.getElementById(name).textContent);
    return parsed[name];
  };
  const detail = i => {
    const found = block("vb-details")[i];
    if (!found || found.clip < 0) return found;
    return { ...found, view: { ...found.view, frames: block("vb-clips")[found.clip] } };
  };
  let texts = null;
  const listed = i => block("vb-index").columns.flatMap(({ words }, k) =>
    (words ? [block("vb-index").rows[i][k]].flat().map(code => words[code]) : []));
  const find = words => {
    texts ??= block("vb-details").map((one, i) =>
      [...listed(i), one ? textOf(one.view) : ""].join("\n").toLowerCase());
    return new Set(texts.flatMap((text, i) => (text.includes(words) ? [i] : [])));
  };
  const later = (act, input) => Promise.resolve().then(() => act(input));
  return {
    index: () => Promise.resolve(block("vb-index")),
    detail: i => later(detail, i),
    find: words => later(find, words),
  };
}

function textOf(view) {
  const pieces = view.lanes.flatMap(lane => lane.trace.map(piece => piece.text));
  const options = view.options.map(option => option.text);
  return [view.title, view.question, ...options, ...Object.values(view.meta), ...pieces].join("\n");
}

// A page whose server, on this machine, reads the files: only what is looked at is sent.
function servedSource() {
  const ask = async path => {
    const reply = await fetch(path, { cache: "no-store" });
    const value = await reply.json();
    if (!reply.ok) throw new Error(value.error || reply.statusText);
    return value;
  };
  return {
    index: () => ask("data?since=-1"),
    more: since => ask("data?since=" + since),
    detail: i => ask("record?number=" + i),
    find: words => ask("find?words=" + encodeURIComponent(words)).then(list => new Set(list)),
  };
}

// A notebook: questions go to the kernel, which answers when it is idle. All views of a widget hear
// each answer, so the numbers of this one begin with a word of its own.
function kernelSource(model) {
  const waiting = new Map();
  const own = crypto.getRandomValues(new Uint32Array(2)).join("-");
  let count = 0;
  const ask = (what, value) => new Promise((done, fail) => {
    count += 1;
    const number = own + "-" + count;
    waiting.set(number, [done, fail]);
    model.send({ ask: what, value, number });
  });
  let onRefresh = () => {};
  const receive = message => {
    if (message.refresh) return onRefresh();
    const [done, fail] = waiting.get(message.number) || [];
    if (!waiting.delete(message.number)) return; // of another view of this widget
    if (message.error) fail(new Error(message.error));
    else done(message.value);
  };
  model.on("msg:custom", receive);
  return {
    index: () => ask("data", -1),
    more: since => ask("data", since),
    detail: i => ask("record", i),
    find: words => ask("find", words).then(list => new Set(list)),
    whenRefreshed: act => { onRefresh = act; },
    close: () => model.off("msg:custom", receive),
  };
}

// == Columns ==

// What the browser keeps of a column: its values in the order of the records, and for a filter
// the code of each value. A value that comes as a number into `words` is kept as that number.
class Column {
  constructor(told) {
    Object.assign(this, told);
    this.words = told.words ? [...told.words] : null;
    this.values = [];
    this.codes = [];
    this.labels = this.bins ? [...this.bins.map(bin => bin[1]), "not known"] : this.words;
  }

  add(value) {
    this.values.push(value);
    if (this.bins) this.codes.push(this.binOf(value));
  }

  binOf(value) {
    if (value === null) return this.bins.length;
    return this.bins.findIndex(([end]) => end === null || value < end);
  }

  // The value by the chosen variant, as it was sent.
  raw(i, variant) {
    return this.varies ? this.values[i][variant] : this.values[i];
  }

  code(i, variant) {
    return this.bins ? this.codes[i] : this.raw(i, variant);
  }

  text(i, variant) {
    const value = this.raw(i, variant);
    if (value === null || value === undefined) return "–";
    if (this.type === "tags") return value.map(code => this.words[code]).join(", ");
    if (this.words) return this.words[value];
    if (typeof value !== "number") return String(value);
    if (this.type === "time") return clock(value, value, true);
    return (this.percent ? 100 * value : value).toFixed(this.digits || 0);
  }

  get isNumber() {
    return this.type === "number" || this.type === "time";
  }

  // What it sorts by; null for what is missing.
  keys(variant) {
    if (!this.words) return this.values.map((_, i) => this.raw(i, variant));
    const order = this.order || [...this.words].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
    const place = new Map(order.map((word, k) => [word, k]));
    const rank = this.words.map(word => place.get(word) ?? order.length);
    return this.values.map((_, i) => {
      const value = this.raw(i, variant);
      if (Array.isArray(value)) return value.length ? rank[value[0]] : null;
      return value === null || this.words[value] === "" ? null : rank[value];
    });
  }
}

// == The records ==

class Records {
  constructor(index) {
    Object.assign(this, index);
    this.columns = index.columns.map(told => new Column(told));
    this.by = Object.fromEntries(this.columns.map(column => [column.key, column]));
    this.count = 0;
    this.add(index.rows);
  }

  add(rows) {
    for (const row of rows) row.forEach((value, k) => this.columns[k].add(value));
    this.count += rows.length;
    this.order = null;
  }

  // What has been added since: rows, and the words that they are the first to use.
  addPart(part) {
    for (const [key, words] of Object.entries(part.words)) this.by[key].words.push(...words);
    this.add(part.rows);
  }

  // All records by a column; numbers as numbers, what is missing last, equals as they came.
  sorted({ sort, down, variant }) {
    const wanted = [sort, down, variant].join();
    if (this.order && this.sortedBy === wanted) return this.order;
    const keys = sort in this.by ? this.by[sort].keys(variant) : null;
    const order = Uint32Array.from({ length: this.count }, (_, i) => i);
    const missing = value => value === null || value === undefined;
    if (!keys && down) order.reverse();
    if (keys) {
      order.sort((i, j) => {
        const a = keys[i], b = keys[j];
        if (missing(a) || missing(b)) return missing(a) - missing(b) || i - j;
        const sign = a < b ? -1 : a > b ? 1 : 0;
        return (down ? -sign : sign) || i - j;
      });
    }
    this.order = order;
    this.sortedBy = wanted;
    return order;
  }

  // One pass over all records: which are shown, which would be without the ranges (for charts),
  // and how many each value of a filter would leave under the other filters.
  select(state) {
    const { filters, ranges, found, variant } = state;
    const facets = this.columns.filter(column => column.facet);
    const active = facets.filter(column => filters[column.key] !== undefined);
    const limits = Object.entries(ranges).map(([key, range]) => [this.by[key].values, ...range]);
    const counts = new Map(facets.map(column => [column, new Map()]));
    const shown = [], matching = [];
    const count = (column, i) => {
      const tally = counts.get(column), code = column.code(i, variant);
      for (const one of Array.isArray(code) ? code : [code]) {
        tally.set(one, (tally.get(one) || 0) + 1);
      }
    };
    for (const i of this.sorted(state)) {
      if (found && !found.has(i)) continue;
      let failed = null, more = false;
      for (const column of active) {
        const code = column.code(i, variant), wanted = filters[column.key];
        if (Array.isArray(code) ? code.includes(wanted) : code === wanted) continue;
        more = failed !== null;
        failed = column;
        if (more) break;
      }
      if (more) continue;
      if (!failed) matching.push(i);
      const isWithin = ([values, low, high]) =>
        values[i] !== null && values[i] >= low && values[i] <= high;
      if (!limits.every(isWithin)) continue;
      if (failed) count(failed, i);
      else {
        shown.push(i);
        for (const column of facets) count(column, i);
      }
    }
    return { shown, matching, counts };
  }
}

// == The browser ==

// Draw the records of a source into an element; returns what ends it.
function browse(host, source, inPage) {
  const state = {
    filters: {}, ranges: {}, found: null, words: "", sort: "", down: false, variant: 0, page: 0,
    open: -1, paused: false,
  };
  let records = null, panel = null, detail = null;
  let shown = []; // numbers of the records that the list holds, in its order
  let timer = 0, failures = 0, ended = false;
  const selects = {}, pagers = [];
  const status = element("span.vb-status");
  status.setAttribute("role", "status");
  const live = element("span.vb-live");
  const bar = element("div.vb-bar");
  bar.setAttribute("role", "search");
  const charts = element("div.vb-charts");
  const head = element("tr"), body = element("tbody");
  const table = element("table.vb-list", element("thead", head), body);
  const root = element("div.vb", charts, bar, pager(), wide("the list", table), pager());
  host.replaceChildren(root);

  // == Filters ==

  function change(act) {
    act();
    state.page = 0;
    update();
  }

  function labelled(words, ...controls) {
    return element("label", words, ...controls);
  }

  function drawBar() {
    bar.replaceChildren();
    for (const column of records.columns) {
      if (column.facet) bar.append(drawFacet(column));
      if (column.range) bar.append(drawRange(column));
    }
    if (records.variants) {
      const select = element("select");
      select.name = "variant";
      records.variants.values.forEach((name, k) => select.append(option(k, name)));
      select.value = state.variant;
      select.onchange = () => change(() => {
        state.variant = +select.value;
        records.order = null;
      });
      bar.append(labelled(records.variants.name, select));
    }
    const search = element("input");
    search.type = "search";
    search.name = "text";
    search.placeholder = "question, option, reply, id";
    search.value = state.words;
    let waiting = 0;
    search.oninput = () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => look(search.value), 120);
    };
    bar.append(labelled("text", search), button("clear", "", () => change(clear), "button"));
  }

  function option(value, words) {
    const node = element("option", cut(words, LONGEST));
    node.value = value;
    return node;
  }

  function drawFacet(column) {
    const select = element("select");
    select.name = column.key;
    select.onchange = () => change(() => {
      if (select.value === "") delete state.filters[column.key];
      else state.filters[column.key] = +select.value;
    });
    selects[column.key] = select;
    return labelled(column.name, select);
  }

  function drawRange(column) {
    const ends = ["from", "to"].map((word, k) => {
      const input = element("input.vb-number");
      input.type = "number";
      input.name = column.key + "-" + word;
      input.placeholder = word;
      input.setAttribute("aria-label", column.name + " " + word);
      input.onchange = () => change(() => {
        const range = state.ranges[column.key] || [-Infinity, Infinity];
        range[k] = input.value === "" ? [-Infinity, Infinity][k] : +input.value;
        setRange(column.key, range);
      });
      return input;
    });
    selects[column.key + "-range"] = ends;
    return element("span.vb-range", column.name, element("span", ...ends));
  }

  function setRange(key, range) {
    const isAll = !range || (range[0] === -Infinity && range[1] === Infinity);
    if (isAll) delete state.ranges[key];
    else state.ranges[key] = range;
    selects[key + "-range"].forEach((input, k) => {
      const end = isAll ? Infinity : range[k];
      input.value = Number.isFinite(end) ? end : "";
    });
  }

  function clear() {
    state.filters = {};
    state.found = null;
    state.words = "";
    bar.querySelector("input[name=text]").value = "";
    for (const key of Object.keys(state.ranges)) setRange(key, null);
  }

  // The choices of each filter with their counts; a filter with one choice only is not shown.
  function showCounts(counts) {
    for (const [column, tally] of counts) {
      const select = selects[column.key];
      const chosen = state.filters[column.key];
      const labels = column.labels;
      const order = column.order || column.bins ? labels : [...labels].sort();
      const place = new Map((column.order || order).map((label, k) => [label, k]));
      const codes = labels.map((_, code) => code);
      codes.sort((a, b) => (place.get(labels[a]) ?? 1e9) - (place.get(labels[b]) ?? 1e9));
      const used = codes.filter(code => !column.bins || tally.get(code) || code === chosen);
      select.replaceChildren(option("", "all"));
      for (const code of used) {
        const words = (labels[code] || "none") + " (" + thousands(tally.get(code) || 0) + ")";
        select.append(option(code, words));
      }
      select.value = chosen === undefined ? "" : chosen;
      select.parentElement.hidden = used.length < 2 && chosen === undefined;
    }
  }

  async function look(words) {
    state.words = words.trim().toLowerCase();
    const asked = state.words;
    const found = asked ? await source.find(asked).catch(report) : null;
    if (asked === state.words) change(() => { state.found = found || null; });
  }

  // == The list ==

  function pager() {
    const back = button("← previous", "", () => turn(-1), "button");
    const on = button("next →", "", () => turn(1), "button");
    const words = element("span");
    const told = pagers.length ? [] : [status, live];
    pagers.push({ back, on, words });
    return element("div.vb-pager", ...told, back, words, on);
  }

  const listed = () => records.columns.filter(column => column.list);

  function drawHead() {
    head.replaceChildren();
    for (const column of [{ key: "", name: "#", isNumber: true }, ...listed()]) {
      const sort = () => change(() => {
        state.down = state.sort === column.key && !state.down;
        state.sort = column.key;
      });
      const kind = column.isNumber ? "th.vb-r" : "th";
      const cell = element(kind, button(column.name, "", sort, "button"));
      cell.scope = "col";
      cell.dataset.key = column.key || "number";
      head.append(cell);
    }
  }

  function drawCell(column, i) {
    if (column.type === "spark") return sparkOf(column, i);
    const text = cut(column.text(i, state.variant), LONGEST);
    if (column.marks) {
      return element("span.vb-outcome", element("b", column.marks[text] || ""), text);
    }
    if (!column.opens) return text;
    const opener = button(text, cut(nameOf(i), LONGEST), () => toggle(i), "button.vb-row");
    opener.dataset.record = i;
    opener.setAttribute("aria-expanded", state.open === i);
    return opener;
  }

  const nameOf = i => (records.names ? records.by[records.names].text(i, 0) : "");

  // The values of a group as one line of bars, lowest to highest, in the range of all records.
  function sparkOf(column, i) {
    const values = column.values[i].filter(value => value !== null);
    const { low, high } = extent(column);
    const bars = [...values].sort((a, b) => a - b).map(value =>
      "▁▂▃▄▅▆▇█"[high > low ? Math.round(7 * (value - low) / (high - low)) : 3]);
    const node = element("span.vb-spark", bars.join(""));
    node.setAttribute("role", "img");
    const ends = values.length ? Math.min(...values) + " to " + Math.max(...values) : "none";
    node.setAttribute("aria-label", values.length + " values, " + ends);
    return node;
  }

  function extent(column) {
    if (column.extentOf !== records.count) {
      let low = Infinity, high = -Infinity;
      for (const list of column.values) {
        for (const value of list) {
          if (value === null) continue;
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
      }
      Object.assign(column, { low, high, extentOf: records.count });
    }
    return column;
  }

  function drawRow(i) {
    const cells = [element("td.vb-r", String(i + 1))];
    for (const column of listed()) {
      cells.push(element(column.isNumber ? "td.vb-r" : "td", drawCell(column, i)));
    }
    return element(state.open === i ? "tr.vb-open" : "tr", ...cells);
  }

  const lastPage = () => Math.max(0, Math.ceil(shown.length / PAGE) - 1);

  // Draw the rows of a page again; the focus, and a viewer that is open, stay as they are.
  function drawPage() {
    const focused = root.getRootNode().activeElement;
    const kept = focused && focused.dataset && body.contains(focused) && focused.dataset.record;
    state.page = Math.min(state.page, lastPage());
    const rows = [];
    for (const i of shown.slice(state.page * PAGE, (state.page + 1) * PAGE)) {
      rows.push(drawRow(i));
      if (state.open === i) rows.push(detailRow(i));
    }
    const same = detail && rows.includes(detail.row) && body.contains(detail.row);
    if (same) exchangeAround(rows);
    else body.replaceChildren(...rows);
    if (detail && !rows.includes(detail.row)) closeDetail();
    for (const cell of head.children) {
      const isKey = cell.dataset.key === (state.sort || "number");
      cell.setAttribute("aria-sort", isKey ? (state.down ? "descending" : "ascending") : "none");
    }
    for (const { back, on, words } of pagers) {
      back.disabled = state.page === 0;
      on.disabled = state.page >= lastPage();
      words.textContent = "page " + (state.page + 1) + " of " + (lastPage() + 1);
    }
    if (kept && buttonOf(kept)) buttonOf(kept).focus({ preventScroll: true });
  }

  // Put other rows around the open viewer, which is not moved: moving would end what it plays.
  function exchangeAround(rows) {
    for (const row of [...body.children]) if (row !== detail.row) row.remove();
    const at = rows.indexOf(detail.row);
    detail.row.before(...rows.slice(0, at));
    detail.row.after(...rows.slice(at + 1));
  }

  function drawStatus() {
    const counts = thousands(shown.length) + " of " + thousands(records.count);
    const told = [counts + " " + records.plural];
    const { share, mean } = records.status || {};
    if (share && shown.length) {
      const column = records.by[share[0]], code = column.words.indexOf(share[1]);
      const n = shown.filter(i => column.raw(i, state.variant) === code).length;
      told.push((100 * n / shown.length).toFixed(1) + " % " + share[1]);
    }
    if (mean && shown.length) {
      const values = shown.map(i => records.by[mean[0]].values[i]).filter(value => value !== null);
      const sum = values.reduce((total, value) => total + value, 0);
      if (values.length) told.push(mean[1] + " " + (sum / values.length).toFixed(3));
    }
    const words = told.join(", ");
    if (status.textContent !== words) status.textContent = words;
  }

  function turn(step) {
    state.page = Math.min(Math.max(state.page + step, 0), lastPage());
    drawPage();
  }

  function update() {
    const selected = records.select(state);
    shown = selected.shown;
    showCounts(selected.counts);
    drawStatus();
    if (panel) panel.update(selected.matching);
    drawPage();
  }

  // == One record ==

  const buttonOf = i => body.querySelector('[data-record="' + i + '"]');

  function detailRow(i) {
    if (detail && detail.number === i) return detail.row;
    closeDetail();
    const place = element("div.vb-inner", element("p.vb-note", "…"));
    const cell = element("td", place);
    cell.colSpan = listed().length + 1;
    const own = { number: i, row: element("tr.vb-detail", cell), close: null };
    detail = own;
    source.detail(i).then(told => {
      if (detail === own) own.close = drawDetail(place, told);
    }).catch(error => {
      const words = String(error.message || error);
      if (detail === own) place.replaceChildren(element("p.vb-note", words));
    });
    return own.row;
  }

  function closeDetail() {
    if (detail && detail.close) detail.close();
    detail = null;
  }

  function drawDetail(place, told) {
    if (!told) {
      place.replaceChildren(element("p.vb-note", "The replies of this one are not on this page; "
        + "videothinker view, without --out, shows them all."));
      return null;
    }
    const viewer = element("div.vb-viewer");
    const parts = [viewer];
    const lanes = told.view.lanes.filter(lane => lane.kind === "predicted");
    if (told.note) parts.unshift(element("p.vb-note", told.note));
    if (lanes.length > 1) {
      const called = lanes.map((lane, k) =>
        lane.name + (told.called && told.called[k] ? ", " + told.called[k] : ""));
      parts.push(laneTable(lanes, called), drawDifference(lanes, called, told.compare));
    }
    place.replaceChildren(...parts);
    const mounted = mount(viewer, told.view);
    return () => {
      if (mounted && mounted.close) mounted.close();
    };
  }

  // The figures of a group: one row per lane, one column per fact.
  function laneTable(lanes, called) {
    const names = [...new Set(lanes.flatMap(lane => Object.keys(lane.facts)))];
    const titles = [records.lane || "lane", "answer", "verdict", ...names];
    const header = element("tr", ...titles.map(name => {
      const cell = element("th", name);
      cell.scope = "col";
      return cell;
    }));
    const rows = lanes.map((lane, k) => {
      const facts = names.map(name => element("td.vb-r", lane.facts[name] ?? "–"));
      const first = element("th", called[k]);
      first.scope = "row";
      const verdict = element("td", lane.verdict || "–");
      return element("tr", first, element("td", lane.answer ?? "none"), verdict, ...facts);
    });
    const lines = element("table.vb-lanes", element("thead", header), element("tbody", ...rows));
    return wide("figures of each " + titles[0], lines);
  }

  function toggle(i) {
    state.open = state.open === i ? -1 : i;
    if (inPage) {
      try {
        history.replaceState(null, "", state.open < 0 ? "#" : "#record-" + (i + 1));
      } catch {
        // a page inside another may not change its address
      }
    }
    drawPage();
    buttonOf(i).focus();
  }

  // Show the record that the address names, on whichever page of the list it is.
  function openAddressed() {
    const match = inPage && /^#record-(\d+)$/.exec(location.hash);
    const place = match ? shown.indexOf(match[1] - 1) : -1;
    if (place < 0) return;
    open(place);
    buttonOf(state.open).scrollIntoView();
  }

  function open(place) {
    state.page = Math.floor(place / PAGE);
    state.open = shown[place];
    drawPage();
  }

  // Arrows go from row to row, also over the end of a page; Escape closes.
  table.onkeydown = event => {
    if (event.key === "Escape" && state.open >= 0 && !event.defaultPrevented) {
      event.preventDefault();
      return toggle(state.open);
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
  };

  // == A log that grows ==

  function report(error) {
    live.textContent = String(error.message || error);
  }

  async function poll() {
    clearTimeout(timer);
    if (ended) return;
    try {
      if (!state.paused && !document.hidden) await fetchMore();
      failures = 0;
    } catch (error) {
      failures += 1;
      const isSilent = error instanceof TypeError; // what fetch throws when nobody is there
      if (!isSilent) report(error); // the log cannot be read now; it may again
      else if (failures > 2) return report("nothing answers any more; the list stays as it is");
    }
    if (records.live) timer = setTimeout(poll, PAUSE);
    else live.replaceChildren();
  }

  async function fetchMore() {
    const part = await source.more(records.count);
    const isAnother = part.version !== records.version;
    if (isAnother) start(await source.index());
    else if (part.rows.length) records.addPart(part);
    if (isAnother || part.rows.length) {
      const asked = state.words, found = asked ? await source.find(asked) : null;
      if (asked === state.words) state.found = found;
      update();
    }
    records.live = part.live;
    showLive();
  }

  function showLive() {
    if (!records.live) return live.replaceChildren();
    const pause = () => {
      state.paused = !state.paused;
      showLive();
    };
    if (!live.querySelector("button")) {
      live.replaceChildren(element("span"), button("", "", pause, "button"));
    }
    live.firstChild.textContent = state.paused ? "❚❚ paused" : "● live";
    live.lastChild.textContent = state.paused ? "go on" : "pause";
  }

  // Show an index from its beginning. What is open is drawn anew, if its number still means it.
  function start(index) {
    const was = state.open < 0 ? "" : nameOf(state.open);
    closeDetail();
    records = new Records(index);
    if (state.open >= records.count || (state.open >= 0 && nameOf(state.open) !== was)) {
      state.open = -1;
    }
    state.filters = {};
    state.ranges = {};
    state.found = null;
    drawHead();
    drawBar();
    charts.replaceChildren();
    if (records.charts === "rollouts") {
      panel = rolloutPanel(charts, records, state, change, setRange);
    }
    update();
  }

  // A notebook or an editor says by a mark whether it is dark; else the system does.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  function showTheme() {
    const page = document.body.dataset.jpThemeLight;
    const marks = document.body.className + " " + document.documentElement.getAttribute("theme");
    const isDark = page ? page === "false" : /vscode-light|quarto-light/.test(marks) ? false
      : /vscode-dark|vscode-high-contrast|quarto-dark| dark$/.test(marks) || dark.matches;
    root.classList.toggle("vb-dark", isDark);
  }
  const themes = new MutationObserver(showTheme); // a host changes its theme while the page is open
  for (const node of [document.documentElement, document.body]) {
    themes.observe(node, { attributeFilter: ["class", "theme", "data-jp-theme-light"] });
  }
  dark.addEventListener("change", showTheme);
  addEventListener("hashchange", openAddressed); // an address typed into the open page
  showTheme();

  source.index().then(index => {
    if (ended) return;
    start(index);
    if (index.opened && shown.length) open(0);
    openAddressed();
    showLive();
    if (source.more) timer = setTimeout(poll, PAUSE);
    if (source.whenRefreshed) source.whenRefreshed(() => fetchMore().catch(report));
  }).catch(report);

  return () => {
    ended = true;
    clearTimeout(timer);
    dark.removeEventListener("change", showTheme);
    removeEventListener("hashchange", openAddressed);
    themes.disconnect();
    closeDetail();
    if (source.close) source.close();
    host.replaceChildren();
  };
}
