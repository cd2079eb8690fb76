// Reads the data and puts the sections on the page.

function themeButton() {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  return make("button", { type: "button", class: "theme", "aria-label": "Light or dark", title: "Light or dark", onclick: () => {
    root.dataset.theme = dark() ? "light" : "dark";
  } }, "\u25d0");
}

function datasetChoice(evaluations, chosen, change) {
  if (evaluations.length < 2) return null;
  const list = make("select", { "aria-label": "Data set", onchange: () => change(list.selectedIndex) },
    evaluations.map((one, place) => make("option", { selected: place === chosen }, one.dataset)));
  return make("label", { class: "dataset quiet" }, "Data set ", list);
}

function build(data, chosen = 0) {
  // chosen: of the data sets that were evaluated
  const evaluation = data.evaluations[chosen] || null;
  const clips = clipsSection(evaluation, data.title);
  const sections = [
    summarySection(data, evaluation),
    curvesSection(data.charts, data.stages),
    clips,
    errorsSection(evaluation, clips),
    pairsSection(data.pairs, data.facts),
    groupsSection(data.groups),
    checkpointsSection(data.checkpoints),
  ].filter((one) => one !== null);
  const links = sections.map((one) => make("a", { href: `#${one.id}` }, one.getAttribute("aria-label").split(":")[0]));
  document.getElementById("page").replaceChildren(
    make("header", {}, make("h1", {}, data.title), themeButton(), make("p", { class: "quiet" }, data.made),
      datasetChoice(data.evaluations, chosen, (place) => build(data, place)) || ""),
    make("nav", {}, links),
    ...sections,
  );
  document.documentElement.dataset.ready = "true";
}

build(JSON.parse(document.getElementById("data").textContent));
