// A list of any length: filtered and sorted as a whole, drawn one page at a time.

const PAGE_SIZE = 50;

function pagedList({ id, what, rows, columns = null, orders, filters = [], words, draw, size = PAGE_SIZE }) {
  // orders: [{name, by: row -> number or text, down}]; columns: [{title, order: name of an order, class}]
  let order = orders[0], flipped = false, page = 0, shown = rows;
  const haystacks = new Map();
  const haystack = (row) => {
    if (!haystacks.has(row)) haystacks.set(row, words(row).join("\n").toLowerCase());
    return haystacks.get(row);
  };
  const body = columns ? make("tbody") : make("div", { class: "cards" });
  const count = make("span", { class: "count", "aria-live": "polite" });
  const search = make("input", { type: "search", placeholder: "Search texts", "aria-label": `Search ${what}`, oninput: () => refresh() });
  const choice = make(
    "select", { "aria-label": "Order", onchange: () => sortBy(orders[choice.selectedIndex]) },
    orders.map((one) => make("option", {}, one.name)),
  );
  const heads = (columns || []).map((column) => head(column));

  function head({ title, order: name, class: kind }) {
    const own = orders.find((one) => one.name === name);
    const cell = make("th", { scope: "col", class: kind });
    if (own) cell.append(make("button", { type: "button", onclick: () => sortBy(own, order === own && !flipped) }, title));
    else cell.append(title);
    return { cell, own };
  }

  function sortBy(next, turned = false) {
    order = next;
    flipped = turned;
    refresh();
  }

  function compare(a, b) {
    const [x, y] = [order.by(a), order.by(b)];
    // what has no value comes last, whichever way
    if (x === null || y === null) return (x === null) - (y === null);
    const sign = (order.down ? -1 : 1) * (flipped ? -1 : 1);
    return sign * (x < y ? -1 : x > y ? 1 : 0);
  }

  function refresh() {
    const wanted = search.value.trim().toLowerCase();
    const tests = filters.map((filter) => filter.test()).filter((test) => test !== null);
    shown = rows.filter((row) => tests.every((test) => test(row)) && (!wanted || haystack(row).includes(wanted)));
    shown = shown.slice().sort(compare);
    choice.selectedIndex = orders.indexOf(order);
    for (const { cell, own } of heads) {
      if (own !== order) cell.removeAttribute("aria-sort");
      else cell.setAttribute("aria-sort", Boolean(order.down) !== flipped ? "descending" : "ascending");
    }
    turnTo(0);
  }

  const steps = [["\u00ab", "First page", () => 0], ["\u2039", "Page before", () => page - 1], ["\u203a", "Next page", () => page + 1],
    ["\u00bb", "Last page", () => last()]].map(([sign, label, target]) => ({
    target, button: make("button", { type: "button", "aria-label": label, onclick: () => turnTo(target()) }, sign),
  }));
  const last = () => Math.max(Math.ceil(shown.length / size) - 1, 0);

  function turnTo(next) {
    page = Math.min(Math.max(next, 0), last());
    const from = page * size;
    body.replaceChildren(...shown.slice(from, from + size).map(draw));
    const range = shown.length ? `${grouped(from + 1)}\u2013${grouped(Math.min(from + size, shown.length))} of ` : "";
    const all = shown.length === rows.length ? "" : ` (${grouped(rows.length)} in all)`;
    count.textContent = `${range}${grouped(shown.length)} ${what}${all}`;
    for (const { target, button } of steps) button.disabled = target() < 0 || target() > last() || target() === page;
  }

  filters.forEach((filter) => filter.element.addEventListener("input", refresh));
  const reset = make("button", { type: "button", onclick: () => {
    search.value = "";
    filters.forEach((filter) => filter.clear());
    sortBy(orders[0]);
  } }, "Reset");
  const controls = make("div", { class: "controls" }, search, ...filters.map((filter) => filter.element), choice, reset, count,
    make("span", { class: "pages" }, steps.map((step) => step.button)));
  const content = columns
    ? make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, heads.map((one) => one.cell))), body))
    : body;
  refresh();
  return { element: make("div", { id, class: "list" }, controls, content), refresh, shown: () => shown };
}

function choiceFilter(label, options, test) {
  // options: [[value, text]]; the first one lets everything through
  const element = make("select", { "aria-label": label }, options.map(([value, text]) => make("option", { value }, text)));
  return {
    element,
    test: () => (element.selectedIndex === 0 ? null : (row) => test(row, element.value)),
    clear: () => (element.selectedIndex = 0),
    choose: (value) => (element.value = value),
  };
}
