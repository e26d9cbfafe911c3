// Theme, contents on small screens, search, copy buttons. Pages are readable without any of it.
"use strict";
(() => {
  const ROOT = document.currentScript.dataset.root;
  const THEMES = ["auto", "light", "dark"];
  const page = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const part = (name) => byId(`site-${name}`);  // of the frame
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");

  // == Theme: the reader's preference, or what the switch was set to ==
  function storedTheme() {
    try {
      return THEMES.includes(localStorage.theme) ? localStorage.theme : "auto";
    } catch {  // storage is forbidden
      return "auto";
    }
  }

  let theme = storedTheme();

  function showTheme() {
    const dark = theme === "dark" || (theme === "auto" && prefersDark.matches);
    if (theme === "auto") delete page.dataset.theme;  // the style sheet follows the preference
    else page.dataset.theme = theme;
    page.dataset.jpThemeLight = String(!dark);  // for widgets, as JupyterLab tells them
    const button = part("theme");
    if (button) {
      button.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
      button.setAttribute("aria-label", `Theme: ${theme}. Change it`);
    }
  }

  function nextTheme() {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try {
      localStorage.theme = theme;
    } catch { /* it holds for this page */ }
    showTheme();
  }

  // == Contents on small screens ==
  function openParts(open) {
    part("parts").classList.toggle("open", open);
    part("menu").setAttribute("aria-expanded", String(open));
  }

  // == Search: the index is a script, so that it loads from a folder as well as from a server ==
  let loading = null;

  function loadIndex() {
    loading ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${ROOT}/search.js`;
      script.onload = () => resolve(window.searchIndex);
      script.onerror = reject;
      document.head.append(script);
    });
    return loading;
  }

  const words = (text) => text.toLowerCase().split(/[^\p{L}\p{N}_.]+/u).filter(Boolean);

  /** How well a section answers: every word has to be in it. */
  function rank(terms, title, heading, isName, text) {
    let score = 0;
    for (const term of terms) {
      if (heading === term) score += 100;
      else if (heading.startsWith(term)) score += 40;
      else if (heading.includes(term)) score += 20;
      else if (title.includes(term)) score += 12;
      else if (text.includes(term)) score += 2 + Math.min(text.split(term).length, 6) / 3;
      else return 0;
    }
    return score + (isName ? 3 : 0);
  }

  function search(index, query) {
    const terms = words(query);
    const found = [];
    if (!terms.length) return found;
    for (const [address, title, sections] of index) {
      for (const [anchor, heading, isName, text] of sections) {
        const name = heading || title;
        const chapter = title.toLowerCase();
        const score = rank(terms, chapter, name.toLowerCase(), isName, text.toLowerCase());
        const href = anchor ? `${address}#${encodeURIComponent(anchor)}` : address;
        if (score) found.push({ score: anchor ? score : score + 2, href, title, name, text });
      }
    }
    return found.sort((a, b) => b.score - a.score);
  }

  /** Some words around the first that was asked for, which is marked. */
  function snippet(text, terms) {
    const lower = text.toLowerCase();
    const places = terms.map((term) => lower.indexOf(term)).filter((place) => place >= 0);
    const at = places.length ? Math.min(...places) : 0;
    const start = at > 50 ? text.indexOf(" ", at - 50) + 1 : 0;
    const line = document.createElement("span");
    line.className = "snippet";
    const part = text.slice(start, start + 150);
    const term = terms.find((word) => lower.startsWith(word, at));
    const mark = document.createElement("mark");
    mark.textContent = part.slice(at - start, at - start + (term ? term.length : 0));
    const rest = part.slice(at - start + mark.textContent.length);
    line.append(start ? "… " : "", part.slice(0, at - start), mark, rest);
    return line;
  }

  function resultItem({ href, title, name, text }, terms) {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = `${ROOT}/${href}`;
    const where = document.createElement("span");
    where.className = "where";
    where.textContent = title;
    link.append(name, ...(name === title ? [] : [where]), snippet(text, terms));
    item.append(link);
    return item;
  }

  async function showResults() {
    const box = part("results");
    const query = part("query").value.trim();
    if (!query) {
      box.hidden = true;
      return;
    }
    const status = document.createElement("p");
    status.setAttribute("role", "status");
    try {
      const found = search(await loadIndex(), query);
      if (part("query").value.trim() !== query) return;  // typed on meanwhile
      const list = document.createElement("ul");
      list.append(...found.slice(0, 30).map((result) => resultItem(result, words(query))));
      status.textContent = found.length ? `${found.length} found` : `Nothing has all of: ${query}`;
      box.replaceChildren(status, list);
    } catch {
      status.textContent = "The search index could not be loaded.";
      box.replaceChildren(status);
    }
    box.hidden = false;
  }

  /** Arrow keys go through the results; Escape closes them. */
  function searchKeys(event) {
    const links = [...part("results").querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    if (event.key === "Escape") {
      part("results").hidden = true;
      part("query").focus();
    } else if (event.key === "ArrowDown" && links.length) {
      links[Math.min(at + 1, links.length - 1)].focus();
    } else if (event.key === "ArrowUp" && at >= 0) {
      (at ? links[at - 1] : part("query")).focus();
    } else if (event.key === "Enter" && at < 0 && links.length) {
      links[0].click();
    } else {
      return;
    }
    event.preventDefault();
  }

  function setUpSearch() {
    const box = document.querySelector(".search");
    part("query").addEventListener("focus", () => loadIndex().catch(() => {}));
    part("query").addEventListener("input", showResults);
    box.addEventListener("keydown", searchKeys);
    box.addEventListener("focusout", (event) => {
      if (event.relatedTarget && !box.contains(event.relatedTarget)) part("results").hidden = true;
    });
    document.addEventListener("click", (event) => {
      if (!box.contains(event.target)) part("results").hidden = true;
    });
    part("results").addEventListener("click", () => { part("results").hidden = true; });
    document.addEventListener("keydown", (event) => {
      const typing = event.target.closest?.("input, textarea, select, [contenteditable], .widget");
      if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      part("query").focus();
    });
  }

  // == Code: what scrolls can be reached with the keyboard, and everything can be copied ==
  function markScrolling(element) {
    const isWide = element.scrollWidth > element.clientWidth + 1;
    if (isWide) element.tabIndex = 0;
    else element.removeAttribute("tabindex");
    if (!isWide || !element.matches(".wide") || element.hasAttribute("role")) return;
    const names = [...element.querySelectorAll("th")].map((cell) => cell.textContent.trim());
    const label = names.length ? `table: ${names.filter(Boolean).join(", ")}` : "formula";
    element.setAttribute("role", "region");
    element.setAttribute("aria-label", label.slice(0, 200));
  }

  async function copy(button, text) {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      button.textContent = "not allowed";
    }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  }

  function setUpCode() {
    const sizes = new ResizeObserver((entries) => entries.forEach((e) => markScrolling(e.target)));
    for (const block of document.querySelectorAll("main pre, main .wide, main .widget")) {
      sizes.observe(block);
      if (!block.matches("main pre:is(.code, .shell):not(.signature)")) continue;
      const frame = document.createElement("div");
      frame.className = "copied";
      const button = document.createElement("button");
      button.className = "copy";
      button.type = "button";
      button.textContent = "copy";
      const source = block.textContent;
      button.addEventListener("click", () => copy(button, source));
      block.replaceWith(frame);
      frame.append(block, button);
    }
  }

  /** A link to something folded opens what it is in. */
  function openTarget() {
    const target = byId(decodeURIComponent(location.hash.slice(1)));
    const fold = target?.closest("details:not([open])");
    if (fold) {
      fold.open = true;
      target.scrollIntoView();
    }
  }

  showTheme();
  prefersDark.addEventListener("change", showTheme);
  document.addEventListener("DOMContentLoaded", () => {
    showTheme();
    part("theme").addEventListener("click", nextTheme);
    part("menu").addEventListener("click", () => {
      openParts(!part("parts").classList.contains("open"));
    });
    part("parts").addEventListener("keydown", (event) => {
      if (event.key === "Escape") openParts(false);
    });
    part("parts").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
    setUpSearch();
    setUpCode();
    openTarget();
    addEventListener("hashchange", openTarget);
  });
})();
