// Reads the data and puts the sections on the page.

function themeButton() {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  return make("button", { type: "button", class: "theme", "aria-label": "Light or dark", title: "Light or dark", onclick: () => {
    root.dataset.theme = dark() ? "light" : "dark";
  } }, "\u25d0");
}

function build(data) {
  const clips = clipsSection(data.evaluation);
  const sections = [
    summarySection(data),
    curvesSection(data.charts),
    clips,
    errorsSection(data.evaluation, clips),
    pairsSection(data.pairs, data.facts),
    groupsSection(data.groups),
    checkpointsSection(data.checkpoints),
  ].filter((one) => one !== null);
  const links = sections.map((one) => make("a", { href: `#${one.id}` }, one.getAttribute("aria-label").split(":")[0]));
  document.getElementById("page").replaceChildren(
    make("header", {}, make("h1", {}, data.title), themeButton(), make("p", { class: "quiet" }, data.made)),
    make("nav", {}, links),
    ...sections,
  );
  document.documentElement.dataset.ready = "true";
}

build(JSON.parse(document.getElementById("data").textContent));
