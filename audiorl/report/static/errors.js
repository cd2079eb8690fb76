// Where the errors are: by part of the data, by what was heard for what, by word.

function partTable(title, what, parts, names, unit, clicked) {
  if (!parts.length) return null;
  const high = Math.max(...parts.flatMap((one) => one.wer)) || 1;
  const rows = parts.map((one) => {
    const name = clicked ? make("button", { type: "button", class: "link", onclick: () => clicked(one.value) }, one.value) : one.value;
    const about = make("small", {}, `${grouped(one.clips)} clips, ${grouped(one.words)} ${unit}`);
    return make("tr", {}, make("th", { scope: "row" }, name, about), one.wer.map((value, place) => rateCell(value, place, high)));
  });
  return make("div", {}, make("h3", {}, title), table([what, ...names], rows));
}

function rateCell(value, place, high) {
  // the bar lies under its number, in a track as wide as the cell
  const bar = make("span", { class: `bar c${place % COLOURS}` });
  bar.style.width = `${(100 * (value || 0)) / high}%`;
  return make("td", { class: "figure" }, percent(value), make("span", { class: "track" }, bar));
}

function confusionList(evaluation, clips) {
  if (!evaluation.confusions.length) return null;
  const { names } = evaluation;
  const at = names.length - 1;
  const nothing = () => make("em", { class: "nothing" }, "nothing");
  const columns = [{ title: "Said", order: "Said" }, { title: "Heard", order: "Heard" },
    ...systemHeads(evaluation).map((head, place) => ({ title: names.length > 1 ? head : "Times", order: orderOf(place), class: "figure" }))];
  function orderOf(place) {
    return place === at ? "Most frequent first" : `Most frequent ${names[place]}`;
  }
  const orders = [
    { name: orderOf(at), by: (one) => one.counts[at], down: true },
    ...names.slice(0, at).map((_, place) => ({ name: orderOf(place), by: (one) => one.counts[place], down: true })),
    ...(at ? [{ name: "Most improved first", by: (one) => one.counts[at] - one.counts[0] },
      { name: "Most worsened first", by: (one) => one.counts[at] - one.counts[0], down: true }] : []),
    { name: "Said", by: (one) => one.true }, { name: "Heard", by: (one) => one.said },
  ];
  const list = pagedList({ id: "confusion-list", what: "confusions", rows: evaluation.confusions, columns, orders, size: 15,
    words: (one) => [one.true, one.said],
    draw: (one) => make("tr", {},
      make("th", { scope: "row", dir: "auto" }, make("button", { type: "button", class: "link", title: "Show the clips in which this was heard", onclick: () => clips.showConfusion(one) }, one.true || nothing())),
      make("td", { dir: "auto" }, one.said || nothing()), one.counts.map((count) => make("td", { class: "figure" }, grouped(count)))) });
  return make("div", {}, make("h3", {}, "What was heard for what"),
    make("p", { class: "quiet" }, `A click on what was said shows the clips.${firstOf(evaluation.confusions, evaluation.all_confusions, "most frequent")}`), list.element);
}

function firstOf(rows, all, which) {
  return all > rows.length ? ` These are the ${grouped(rows.length)} ${which}, of ${grouped(all)}.` : "";
}

function wordRow(one) {
  const heard = one.heard[one.heard.length - 1].map(([said, count]) => `${said || "nothing"} (${count})`).join(", ");
  const each = (counts) => make("td", { class: "figure" }, counts.map(grouped).join(" \u2192 "));
  return make("tr", {}, make("th", { scope: "row", dir: "auto" }, one.word), make("td", { class: "figure" }, grouped(one.count)),
    each(one.errors), each(one.inserted), make("td", { dir: "auto" }, heard || "\u2013"));
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
      { name: `Most errors ${evaluation.names.length > 2 ? "of " : ""}${evaluation.names[0]}`, by: (one) => wrong(one, 0), down: true },
    ] : []),
    { name: "Most frequent first", by: (one) => one.count, down: true },
    { name: "Word", by: (one) => one.word },
  ];
  const unit = { character: "Character", label: "Label" }[evaluation.unit] || "Word";
  const columns = [{ title: unit, order: "Word" }, { title: "Occurs", order: "Most frequent first", class: "figure" },
    { title: "Missed", class: "figure" }, { title: "Inserted", class: "figure" }, { title: "Heard instead" }];
  const list = pagedList({ id: "word-list", what: `${unit.toLowerCase()}s`, rows: evaluation.words, columns, orders, size: 15,
    words: (one) => [one.word], draw: wordRow });
  const order = pair ? `Numbers are those of ${evaluation.names.join(", ")}; what was heard instead is of ${evaluation.names[latest]}.` : "";
  const first = firstOf(evaluation.words, evaluation.all_words, "with most errors");
  return make("div", {}, make("h3", {}, `By ${unit.toLowerCase()}`), make("p", { class: "quiet" }, `${order}${first}`), list.element);
}

function errorsSection(evaluation, clips) {
  if (!evaluation) return null;
  const names = evaluation.names.map((name) => (evaluation.names.length > 1 ? `${rateName(evaluation)} ${name}` : rateName(evaluation)));
  const { speaker, language, duration } = evaluation.parts;
  // parts of several languages may be counted in several units
  const unit = { character: "characters", label: "labels" }[evaluation.unit] || "words";
  return section("errors", "Where the errors are",
    make("div", { class: "parts" },
      partTable("By speaker", "Speaker", speaker, names, unit, speaker.length > 1 ? clips.showSpeaker : null),
      partTable("By duration", "Duration", duration, names, unit, null),
      partTable("By language", "Language", language, names, unit, null)),
    confusionList(evaluation, clips),
    wordList(evaluation));
}
