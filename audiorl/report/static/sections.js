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
    lines.map((text) => make("p", { class: "quiet" }, text)));
}

function summarySection(data) {
  const evaluation = data.evaluation;
  const facts = Object.entries(data.facts).filter(([name]) => name !== "wer_normaliser").map(([name, value]) => [name.replaceAll("_", " "), String(value)]);
  if (evaluation) {
    facts.push(["evaluated on", `${evaluation.dataset}, ${grouped(evaluation.clips.length)} clips`], ["normaliser", evaluation.normaliser]);
    const decoding = Object.entries(evaluation.decoding).map(([name, value]) => `${name} ${value}`);
    if (decoding.length) facts.push(["decoding", decoding.join(", ")]);
  }
  const table = make("dl", { class: "facts" }, facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  const notes = data.notes.map((note) => make("p", { class: "note" }, note));
  return section("summary", "Summary", evaluation ? tiles(evaluation) : noEvaluation(), table, notes);
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

function tiles(evaluation) {
  const name = rateName(evaluation);
  const measured = evaluation.summaries.map((one, place) =>
    tile(`${name} ${evaluation.names[place]}`, percent(one.wer), interval(one.interval), counts(one)));
  const change = evaluation.comparison;
  if (!change) return make("div", { class: "tiles" }, measured);
  const ends = change.interval;
  const points = (value) => signed((100 * value).toFixed(1));
  const sure = ends ? `95 % interval ${points(ends[0])} to ${points(ends[1])}, p\u00a0${change.p_value < 0.001 ? "<\u00a00.001" : `=\u00a0${number(Number(change.p_value.toPrecision(2)))}`}` : interval(null);
  const relative = `${percent(Math.abs(change.relative_gain), 0)} ${change.relative_gain >= 0 ? "fewer" : "more"} errors`;
  return make("div", { class: "tiles" }, measured,
    tile("Difference", `${points(change.difference)} points`, sure, relative), intervalPicture(evaluation));
}

function intervalPicture(evaluation) {
  const rates = evaluation.summaries.flatMap((one) => [one.wer, ...(one.interval || [])]);
  const high = Math.max(...rates) * 1.1 || 1;
  const x = (rate) => 56 + (rate / high) * 150;
  const picture = drawn("svg", { viewBox: "0 0 220 96", role: "img", "aria-label": "Error rates with their intervals" });
  for (const tick of niceTicks(0, high, 4)) {
    picture.append(drawn("line", { class: "grid", x1: x(tick), x2: x(tick), y1: 6, y2: 74 }),
      drawn("text", { class: "tick", x: x(tick), y: 90, "text-anchor": "middle" }, percent(tick, 0)));
  }
  evaluation.summaries.forEach((one, place) => {
    const y = 24 + 30 * place;
    picture.append(drawn("text", { class: "tick", x: 46, y: y + 4, "text-anchor": "end" }, evaluation.names[place]));
    if (one.interval) {
      picture.append(drawn("line", { class: `whisker c${place}`, x1: x(one.interval[0]), x2: x(one.interval[1]), y1: y, y2: y }));
    }
    picture.append(drawn("circle", { class: `dot c${place}`, cx: x(one.wer), cy: y, r: 5 }));
  });
  return make("div", { class: "tile" }, picture);
}

// ---- curves and checkpoints ----

function curvesSection(charts) {
  if (!charts.length) return null;
  const some = (first) => make("div", { class: "charts" }, charts.filter((one) => one.first === first).map(chart));
  const others = charts.filter((one) => !one.first).length;
  const more = make("details", {}, make("summary", {}, `${others} more`));
  more.addEventListener("toggle", () => more.append(some(false)), { once: true });
  return section("curves", "Learning curves", some(true), others ? more : null);
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

// ---- clips ----

const before = (clip) => clip.systems[0].errors;
const after = (clip) => clip.systems[clip.systems.length - 1].errors;
const change = (clip) => after(clip) - before(clip);
const rate = (errors, clip) => errors / Math.max(clip.words, 1);

function clipOrders(pair) {
  const single = [
    { name: "Most errors first", by: after, down: true },
    { name: "Highest error rate first", by: (clip) => rate(after(clip), clip), down: true },
    { name: "Place in the data", by: (clip) => clip.place },
    { name: "Clip", by: (clip) => clip.id },
    { name: "Speaker", by: (clip) => clip.speaker },
    { name: "Longest first", by: (clip) => clip.seconds, down: true },
  ];
  if (!pair) return single;
  return [
    { name: "Most improved first", by: change },
    { name: "Most worsened first", by: change, down: true },
    { name: "Largest change first", by: (clip) => Math.abs(change(clip)), down: true },
    { name: "Most errors before", by: before, down: true },
    { ...single[0], name: "Most errors after" },
    ...single.slice(1),
  ];
}

function outcome(clip) {
  return change(clip) < 0 ? "better" : change(clip) > 0 ? "worse" : "same";
}

function clipFilters(evaluation) {
  const pair = evaluation.names.length > 1;
  const options = [["", "All clips"], ...(pair ? Object.entries(CAUSES) : []), ["wrong", "with errors"], ["right", "without errors"]];
  const kinds = {
    wrong: (clip) => after(clip) > 0,
    right: (clip) => after(clip) === 0,
    ...Object.fromEntries(Object.keys(CAUSES).map((name) => [name, (clip) => outcome(clip) === name])),
  };
  const filters = { outcome: choiceFilter("Outcome", options, (clip, value) => kinds[value](clip)) };
  if (evaluation.parts.speaker.length > 1) {
    const speakers = evaluation.parts.speaker.map((one) => [one.value, one.value]);
    filters.speaker = choiceFilter("Speaker", [["", "All speakers"], ...speakers], (clip, value) => (clip.speaker || "unknown") === value);
  }
  return filters;
}

function errorCell(head, errors, clip) {
  return make("td", { class: "figure", "data-head": head }, `${errors} / ${clip.words}`, make("small", {}, percent(rate(errors, clip), 0)));
}

function clipRow(evaluation, clip) {
  const place = make("div", { class: "sound-place" });
  const pair = clip.systems.length > 1;
  const labels = pair ? ["before", "after"] : ["heard"];
  const lines = clip.systems.map((one, at) => line(labels[at], differences(one.pieces, evaluation.unit)));
  const said = clip.systems.map((one, at) => line(labels[at], plain(one.said)));
  const raw = make("details", {}, make("summary", {}, "as written"), line("transcript", plain(clip.true)), said);
  const about = [clip.where === clip.id ? null : clip.where, clip.speaker && `speaker ${clip.speaker}`, clip.language, seconds(clip.seconds)];
  const kind = outcome(clip);
  const sign = { better: "\u25bc", worse: "\u25b2", same: "=" }[kind];
  return make("tr", {},
    make("td", {}, player(clip.audio, clip.id, place)),
    make("td", { class: "clip" }, make("b", {}, clip.id), about.filter(Boolean).map((text) => make("small", {}, text))),
    make("td", { class: "texts" }, line("transcript", plain(clip.true)), lines, raw, place),
    pair ? errorCell("Before", before(clip), clip) : null,
    errorCell(pair ? "After" : "Errors", after(clip), clip),
    pair ? make("td", { class: `figure ${kind}`, title: CAUSES[kind], "data-head": "Change" }, change(clip) === 0 ? "0" : signed(String(change(clip))), make("small", {}, sign)) : null);
}

function clipsSection(evaluation) {
  if (!evaluation) return null;
  const pair = evaluation.names.length > 1;
  const filters = clipFilters(evaluation);
  const columns = [
    { title: "Audio" },
    { title: "Clip", order: "Clip" },
    { title: "Transcript and hypotheses" },
    ...(pair ? [{ title: "Before", order: "Most errors before", class: "figure" }] : []),
    { title: pair ? "After" : "Errors", order: pair ? "Most errors after" : "Most errors first", class: "figure" },
    ...(pair ? [{ title: "Change", order: "Most improved first", class: "figure" }] : []),
  ];
  const list = pagedList({
    id: "clip-list", what: "clips", rows: evaluation.clips, columns, orders: clipOrders(pair), filters: Object.values(filters),
    words: (clip) => [clip.id, clip.where, clip.speaker || "", clip.true, ...clip.systems.map((one) => one.said)],
    draw: (clip) => clipRow(evaluation, clip),
  });
  const found = section("clips", "Clips", legend(), list.element);
  found.showSpeaker = (speaker) => {
    filters.speaker.choose(speaker);
    list.refresh();
    found.scrollIntoView();
  };
  return found;
}

// ---- where the errors are ----

function bars(rates, high) {
  return make("div", { class: "bars" }, rates.map((value, place) => {
    const bar = make("span", { class: `bar c${place}` });
    bar.style.width = `${(100 * value) / high}%`;
    return bar;
  }));
}

function partTable(title, what, parts, names, unit, clicked) {
  if (!parts.length) return null;
  const high = Math.max(...parts.flatMap((one) => one.wer)) || 1;
  const rows = parts.map((one) => {
    const name = clicked ? make("button", { type: "button", class: "link", onclick: () => clicked(one.value) }, one.value) : one.value;
    return make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "figure" }, grouped(one.clips)),
      make("td", { class: "figure" }, grouped(one.words)), one.wer.map((value) => make("td", { class: "figure" }, percent(value))),
      make("td", {}, bars(one.wer, high)));
  });
  return make("div", {}, make("h3", {}, title), table([what, "Clips", unit, ...names, ""], rows));
}

function wordRow(one) {
  const heard = one.heard[one.heard.length - 1].map(([said, count]) => `${said || "nothing"} (${count})`).join(", ");
  return make("tr", {}, make("th", { scope: "row", dir: "auto" }, one.word), make("td", { class: "figure" }, grouped(one.count)),
    one.errors.map((count) => make("td", { class: "figure" }, grouped(count))),
    one.inserted.map((count) => make("td", { class: "figure" }, grouped(count))),
    make("td", { dir: "auto" }, heard || "\u2013"));
}

function wordList(evaluation) {
  const latest = evaluation.names.length - 1;
  const wrong = (one, place) => one.errors[place] + one.inserted[place];
  const pair = latest > 0;
  const orders = [
    { name: "Most errors first", by: (one) => wrong(one, latest), down: true },
    ...(pair ? [
      { name: "Most improved first", by: (one) => wrong(one, latest) - wrong(one, 0) },
      { name: "Most worsened first", by: (one) => wrong(one, latest) - wrong(one, 0), down: true },
      { name: "Most errors before", by: (one) => wrong(one, 0), down: true },
    ] : []),
    { name: "Most frequent first", by: (one) => one.count, down: true },
    { name: "Word", by: (one) => one.word },
  ];
  const each = (title) => evaluation.names.map((name) => ({ title: pair ? `${title} ${name}` : title, class: "figure" }));
  const unit = { character: "Character", label: "Label" }[evaluation.unit] || "Word";
  const columns = [{ title: unit, order: "Word" }, { title: "Occurs", order: "Most frequent first", class: "figure" },
    ...each("Missed"), ...each("Inserted"), { title: "Heard instead" }];
  const list = pagedList({ id: "word-list", what: `${unit.toLowerCase()}s`, rows: evaluation.words, columns, orders, size: 15,
    words: (one) => [one.word], draw: wordRow });
  const all = evaluation.all_words > evaluation.words.length
    ? make("p", { class: "quiet" }, `The ${grouped(evaluation.words.length)} with most errors, of ${grouped(evaluation.all_words)} with any.`)
    : null;
  return make("div", {}, make("h3", {}, `By ${unit.toLowerCase()}`), all, list.element);
}

function errorsSection(evaluation, clips) {
  if (!evaluation) return null;
  const names = evaluation.names.map((name) => (evaluation.names.length > 1 ? `${rateName(evaluation)} ${name}` : rateName(evaluation)));
  const { speaker, language, duration } = evaluation.parts;
  // parts of several languages may be counted in several units
  const unit = { character: "Characters", label: "Labels" }[evaluation.unit] || "Words";
  return section("errors", "Where the errors are",
    make("div", { class: "parts" },
      partTable("By speaker", "Speaker", speaker, names, unit, speaker.length > 1 ? clips.showSpeaker : null),
      partTable("By duration", "Duration", duration, names, unit, null),
      partTable("By language", "Language", language, names, unit, null)),
    wordList(evaluation));
}
