// The sections of the page, each from its part of the data; null where the run left nothing for it.

const UNITS = { word: "words", character: "characters", mixed: "words and characters", label: "labels" };
const CAUSES = { better: "fewer errors after", worse: "more errors after", same: "as many errors" };

function rateName(evaluation) {
  return { character: "CER", label: "Wrong labels" }[evaluation.unit] || "WER";
}

function interval(ends) {
  return ends ? `95 % interval ${percent(ends[0])} to ${percent(ends[1])}` : "too few clips for an interval";
}

// ---- summary ----

function tile(title, value, ...lines) {
  return make("div", { class: "tile" }, make("h3", {}, title), make("p", { class: "value" }, value),
    lines.flat().map((text) => make("p", { class: "quiet" }, text)));
}

function summarySection(data, evaluation) {
  const facts = Object.entries(data.facts).filter(([name]) => name !== "wer_normaliser").map(([name, value]) => [name.replaceAll("_", " "), String(value)]);
  if (evaluation) facts.push(["evaluated on", `${evaluation.dataset}, ${grouped(evaluation.clips.length)} clips`], ["normaliser", evaluation.normaliser]);
  if (evaluation && Object.keys(evaluation.decodings[0]).length && !unlike(evaluation).length) {
    const settings = Object.entries(evaluation.decodings[0]).map(([name, value]) => `${name} ${value}`).join(", ");
    facts.push([evaluation.names.length > 1 ? "decoding, the same for all" : "decoding", settings]);
  }
  const list = make("dl", { class: "facts" }, facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  const notes = data.notes.map((note) => make("p", { class: "note" }, note));
  return section("summary", "Summary", evaluation ? tiles(evaluation) : noEvaluation(), list, evaluation ? decodings(evaluation) : null, notes);
}

function noEvaluation() {
  return make("p", { class: "quiet" }, "No error rates before and after: the run measured none on held-out clips.");
}

function counts(one) {
  if (one.unit === "label") return `${grouped(one.substitutions)} of ${grouped(one.words)} labels`;
  const cer = one.unit === "character" || one.cer === null || one.cer === undefined ? "" : `; CER ${percent(one.cer)}`;
  return `${grouped(one.substitutions)} substituted, ${grouped(one.deletions)} deleted, ${grouped(one.insertions)} inserted in ` +
    `${grouped(one.words)} ${UNITS[one.unit]}${cer}`;
}

function points(value) {
  return signed((100 * value).toFixed(1));
}

function sureness(change) {
  const ends = change.interval;
  if (!ends) return interval(null);
  const chance = change.p_value < 0.001 ? "<\u00a00.001" : `=\u00a0${number(Number(change.p_value.toPrecision(2)))}`;
  return `95 % interval ${points(ends[0])} to ${points(ends[1])}, p\u00a0${chance}`;
}

function relative(change) {
  return `${percent(Math.abs(change.relative_gain), 0)} ${change.relative_gain >= 0 ? "fewer" : "more"} errors`;
}

function tiles(evaluation) {
  const { names, comparisons, summaries } = evaluation;
  const several = names.length > 2;
  const measured = summaries.map((one, place) => {
    const change = comparisons[place];
    const against = several && change ? `${points(change.difference)} points against ${names[0]}, ${sureness(change)}; ${relative(change)}` : [];
    const found = tile(`${rateName(evaluation)} ${names[place]}`, percent(one.wer), interval(one.interval), against, counts(one));
    if (names[place] !== evaluation.models[place]) found.children[0].after(make("p", { class: "model" }, evaluation.models[place]));
    return found;
  });
  if (names.length === 1) return make("div", { class: "tiles" }, measured);
  const change = comparisons[1];
  const difference = several || !change ? null : tile("Difference", `${points(change.difference)} points`, sureness(change), relative(change));
  return make("div", { class: "tiles" }, measured, difference, intervalPicture(evaluation));
}

function intervalPicture(evaluation) {
  const rates = evaluation.summaries.flatMap((one) => [one.wer, ...(one.interval || [])]);
  const high = Math.max(...rates) * 1.1 || 1;
  const names = evaluation.names.map((name) => (name.length > 14 ? `${name.slice(0, 6)}\u2026${name.slice(-7)}` : name));
  const left = 12 + 6.2 * Math.max(...names.map((name) => name.length)), bottom = 14 + 30 * names.length;
  const x = (rate) => left + (rate / high) * (206 - left);
  const picture = drawn("svg", { viewBox: `0 0 220 ${bottom + 22}`, role: "img", "aria-label": "Error rates with their intervals" });
  for (const tick of niceTicks(0, high, 3)) {
    picture.append(drawn("line", { class: "grid", x1: x(tick), x2: x(tick), y1: 6, y2: bottom }),
      drawn("text", { class: "tick", x: x(tick), y: bottom + 16, "text-anchor": "middle" }, percent(tick, 0)));
  }
  evaluation.summaries.forEach((one, place) => {
    const y = 24 + 30 * place;
    picture.append(drawn("text", { class: "tick", x: left - 10, y: y + 4, "text-anchor": "end" }, drawn("title", {}, evaluation.models[place]), names[place]));
    if (one.interval) {
      picture.append(drawn("line", { class: `whisker c${place % COLOURS}`, x1: x(one.interval[0]), x2: x(one.interval[1]), y1: y, y2: y }));
    }
    picture.append(drawn("circle", { class: `dot c${place % COLOURS}`, cx: x(one.wer), cy: y, r: 5 }));
  });
  return make("div", { class: "tile" }, picture);
}

const told = (decoding, name) => (name in decoding ? String(decoding[name]) : "\u2013");

function unlike({ decodings }) {
  // settings that are not the same for all models
  const settings = [...new Set(decodings.flatMap((one) => Object.keys(one)))];
  return settings.filter((name) => new Set(decodings.map((one) => told(one, name))).size > 1);
}

function decodings(evaluation) {
  // models that were decoded differently: one line for each setting, those that differ first
  const differing = unlike(evaluation);
  if (!differing.length) return null;
  const settings = [...new Set([...differing, ...evaluation.decodings.flatMap((one) => Object.keys(one))])];
  const rows = settings.map((name) => make("tr", { class: differing.includes(name) ? "differs" : null }, make("th", { scope: "row" }, name),
    evaluation.decodings.map((one) => make("td", {}, told(one, name)))));
  const titles = make("tr", {}, make("th", { scope: "col" }, "Decoding"), evaluation.names.map((name, place) => make("th", { scope: "col", title: evaluation.models[place] }, name)));
  return make("div", { id: "decoding" },
    make("p", { class: "note" }, `The models were decoded differently: ${differing.join(", ")}. A part of the difference may come from that.`),
    make("div", { class: "scroll" }, make("table", {}, make("thead", {}, titles), make("tbody", {}, rows))));
}

// ---- curves and checkpoints ----

function curvesSection(charts, stages) {
  if (!charts.length && !stages.length) return null;
  const begun = stages.filter((one) => one.step !== null);
  const drawing = (one) => chart(one, begun);
  const some = (first) => make("div", { class: "charts" }, first ? stageChart(stages) : null, charts.filter((one) => one.first === first).map(drawing));
  const others = charts.filter((one) => !one.first).length;
  const more = make("details", {}, make("summary", {}, `${others} more`));
  more.addEventListener("toggle", () => more.append(some(false)), { once: true });
  return section("curves", "Learning curves", some(true), others ? more : null);
}

function stageChart(stages) {
  // where a recipe began, and where each of its stages ended; a stage that was not kept is a hollow point off the line
  const measured = stages.filter((one) => one.after !== null);
  if (!measured.length) return null;
  const places = [{ name: "start", rate: measured[0].before, interval: null, kept: true, about: "" },
    ...measured.map((one) => ({ ...one, rate: one.after, about: `${number(Number(one.minutes.toPrecision(2)))} min${one.kept ? "" : ", higher and not kept"}` }))];
  const high = Math.max(...places.flatMap((one) => [one.rate, ...(one.interval || [])])) * 1.08 || 1;
  const x = (place) => LEFT + 24 + (place / Math.max(places.length - 1, 1)) * (WIDTH - LEFT - RIGHT - 56);
  const y = (rate) => HEIGHT - BOTTOM - (rate / high) * (HEIGHT - TOP - BOTTOM);
  const picture = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `WER by stage: ${places.map((one) => `${one.name} ${percent(one.rate)}`).join(", ")}` });
  for (const tick of niceTicks(0, high, 4)) {
    picture.append(drawn("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }),
      drawn("text", { class: "tick", x: LEFT - 6, y: y(tick) + 3.5, "text-anchor": "end" }, percent(tick)));
  }
  let last = 0, path = `M${x(0)} ${y(places[0].rate)}`;
  places.forEach((one, place) => {
    if (one.interval) picture.append(drawn("line", { class: "whisker c0", x1: x(place), x2: x(place), y1: y(one.interval[0]), y2: y(one.interval[1]) }));
    if (place && one.kept) path += `L${x(place)} ${y(one.rate)}`;
    else if (place) picture.append(drawn("line", { class: "curve c1", x1: x(last), x2: x(place), y1: y(places[last].rate), y2: y(one.rate), "stroke-dasharray": "3 4" }));
    picture.append(drawn("circle", { class: one.kept ? "dot c0" : "hollow c1", cx: x(place), cy: y(one.rate), r: 4.5 }),
      drawn("text", { class: "tick", x: x(place), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, place ? String(place) : "start"));
    if (one.kept) last = place;
  });
  picture.append(drawn("path", { class: "curve c0", d: path }), drawn("text", { class: "tick", x: WIDTH - RIGHT, y: HEIGHT - 2, "text-anchor": "end" }, "stage"));
  const keys = places.map((one, place) => make("li", {}, make("span", { class: "name" }, place ? `${place}: ${one.name}` : "start", one.about ? `, ${one.about}` : ""), make("b", {}, percent(one.rate))));
  return make("figure", { id: "stages" }, make("figcaption", {}, "Error rate by stage"), picture, make("ul", { class: "keys" }, keys));
}

function checkpointsSection(checkpoints) {
  if (!checkpoints.length) return null;
  const labels = checkpoints.some((one) => Object.keys(one.accuracy).length);
  const rows = checkpoints.map((one) => {
    const rates = Object.entries(labels ? one.accuracy : one.wer).map(([set, rate]) => `${set} ${percent(rate, 2)}`.trim()).join(", ");
    const name = one.best ? `${one.name} (best)` : one.name;
    const cells = one.step === null ? ["not whole: its trainer state cannot be read"] : [grouped(one.step), number(one.loss), number(one.eval_loss), rates || "\u2013"];
    return make("tr", {}, make("th", { scope: "row" }, name), cells.map((text) => make("td", { class: "figure" }, text)));
  });
  return section("checkpoints", "Checkpoints", table(["Checkpoint", "Step", "Loss", "Evaluation loss", labels ? "Accuracy" : "WER"], rows));
}

function table(titles, rows) {
  const head = titles.map((title, place) => make("th", { scope: "col", class: place ? "figure" : null }, title));
  return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows)));
}
