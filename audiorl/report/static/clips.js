// The clips, with what each system made of them; filtered ones leave as rows for the next round.

const rate = (errors, clip) => errors / Math.max(clip.words, 1);

function comparison(evaluation) {
  // which two systems a change is between; of more than two the reader chooses
  const between = { from: 0, to: evaluation.names.length - 1 };
  const before = (clip) => clip.systems[between.from].errors;
  const after = (clip) => clip.systems[between.to].errors;
  const change = (clip) => after(clip) - before(clip);
  const outcome = (clip) => (change(clip) < 0 ? "better" : change(clip) > 0 ? "worse" : "same");
  return { between, before, after, change, outcome };
}

function clipOrders({ names }, { before, after, change }) {
  const title = (place) => (names.length === 1 ? "Most errors first" : `Most errors ${names.length > 2 ? "of " : ""}${names[place]}`);
  const each = names.map((_, place) => ({ name: title(place), by: (clip) => clip.systems[place].errors, down: true }));
  const rest = [
    { name: "Highest error rate first", by: (clip) => rate(after(clip), clip), down: true },
    { name: "Place in the data", by: (clip) => clip.place },
    { name: "Clip", by: (clip) => clip.id },
    { name: "Speaker", by: (clip) => clip.speaker },
    { name: "Longest first", by: (clip) => clip.seconds, down: true },
  ];
  if (names.length === 1) return [...each, ...rest];
  return [
    { name: "Most improved first", by: change },
    { name: "Most worsened first", by: change, down: true },
    { name: "Largest change first", by: (clip) => Math.abs(change(clip)), down: true },
    ...each, ...rest,
  ];
}

function clipFilters(evaluation, { after, outcome }) {
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
  filters.confusion = confusionFilter();
  return filters;
}

function confusionFilter() {
  // clips in which any system heard one thing for another; shown only while it is set
  let wanted = null;
  const element = make("button", { type: "button", class: "chip", hidden: true, onclick: () => {
    clear();
    element.dispatchEvent(new Event("input"));
  } });
  const is = (one) => one[0] !== "=" && one[1] === wanted.true && one[2] === wanted.said;
  function clear() {
    wanted = null;
    element.hidden = true;
  }
  return {
    element, clear,
    test: () => (wanted ? (clip) => clip.systems.some((system) => system.pieces.some(is)) : null),
    choose: (confusion) => {
      wanted = confusion;
      const text = `${confusion.true || "nothing"} \u2192 ${confusion.said || "nothing"}`;
      element.replaceChildren(text, " \u00d7");
      element.setAttribute("aria-label", `Only clips with ${text}; press to show all`);
      element.hidden = false;
    },
  };
}

// ---- rows for the next round ----

function rowOf(clip, texts) {
  const row = { id: clip.id, audio: clip.file };
  if (clip.channel !== undefined) row.channel = clip.channel;
  if (clip.segment !== undefined) {
    row.start = clip.segment[0] || 0;
    if (clip.segment[1] !== null) row.end = clip.segment[1];
  }
  return { ...row, ...texts, ...(clip.speaker ? { speaker: clip.speaker } : {}), ...(clip.language ? { language: clip.language } : {}) };
}

function exportForms(evaluation) {
  // [what it is called, clip -> row, or null for one that it has none for]
  const label = evaluation.unit === "label";
  return [
    ["rows", "rows with transcripts", (clip) => rowOf(clip, { text: clip.true, ...(label ? { label: clip.true } : {}) })],
    ...evaluation.names.map((name, place) => ["pairs", `pairs against ${name}`, (clip) =>
      clip.systems[place].errors ? rowOf(clip, { chosen: clip.true, rejected: clip.systems[place].said }) : null]),
  ];
}

function exporter(evaluation, title, shown) {
  // shown: () -> the filtered clips, on all pages, in their order
  const forms = exportForms(evaluation);
  const choice = make("select", { "aria-label": "What is saved" }, forms.map(([, name]) => make("option", {}, name)));
  const told = make("span", { class: "quiet", role: "status" });
  const save = () => {
    const [kind, , form] = forms[choice.selectedIndex];
    const clips = shown(), found = clips.filter((clip) => clip.file);
    const rows = found.map(form).filter((row) => row !== null);
    const right = found.length - rows.length, gone = clips.length - found.length;
    const left = [right ? `${grouped(right)} without an error` : "", gone ? `${grouped(gone)} whose audio lies in no file of its own` : ""].filter(Boolean);
    told.textContent = `${grouped(rows.length)} ${kind} saved` + (left.length ? `; left out: ${left.join(", ")}` : "");
    if (!rows.length) return;
    const address = URL.createObjectURL(new Blob(rows.map((row) => `${JSON.stringify(row)}\n`), { type: "application/x-ndjson" }));
    make("a", { href: address, download: `${title.replace(/[^\p{L}\p{N}._-]+/gu, "_")}-${kind}.jsonl` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  };
  return make("div", { class: "controls export" }, make("button", { type: "button", onclick: save }, "Save these clips as"), choice, told);
}

// ---- the list ----

function errorCell(head, errors, clip) {
  return make("td", { class: "figure", "data-head": head }, `${errors} / ${clip.words}`, make("small", {}, percent(rate(errors, clip), 0)));
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function systemHeads({ names }) {
  return names.length === 1 ? ["Errors"] : names.length === 2 ? names.map(capital) : names;
}

function clipRow(evaluation, { change, outcome }, clip) {
  const place = make("div", { class: "sound-place" });
  const several = clip.systems.length > 1;
  const labels = several ? evaluation.names : ["heard"];
  const lanes = clip.systems.map((one, at) => ({ name: labels[at], pieces: one.pieces }));
  const { button, jump } = clipPlayer(clip.audio, { id: clip.id, seconds: clip.seconds || 0 }, place, lanes);
  const lines = clip.systems.map((one, at) => line(labels[at], differences(one.pieces, evaluation.unit, jump && ((piece) => jump(at, piece)))));
  const said = clip.systems.map((one, at) => line(labels[at], plain(one.said)));
  const raw = make("details", {}, make("summary", {}, "as written"), line("transcript", plain(clip.true)), said);
  const about = [clip.where === clip.id ? null : clip.where, clip.speaker && `speaker ${clip.speaker}`, clip.language, seconds(clip.seconds)];
  const kind = several ? outcome(clip) : null;
  const heads = systemHeads(evaluation);
  return make("tr", {},
    make("td", {}, button),
    make("td", { class: "clip" }, make("b", {}, clip.id), about.filter(Boolean).map((text) => make("small", {}, text))),
    make("td", { class: "texts" }, line("transcript", plain(clip.true)), lines, raw, place),
    clip.systems.map((one, at) => errorCell(heads[at], one.errors, clip)),
    several ? make("td", { class: `figure ${kind}`, title: CAUSES[kind], "data-head": "Change" }, change(clip) === 0 ? "0" : signed(String(change(clip))),
      make("small", {}, { better: "\u25bc", worse: "\u25b2", same: "=" }[kind])) : null);
}

function betweenChoice({ names }, { between }, changed) {
  if (names.length < 3) return null;
  const choice = (end, label) => {
    const list = make("select", { "aria-label": label, onchange: () => {
      between[end] = list.selectedIndex;
      changed();
    } }, names.map((name, place) => make("option", { selected: place === between[end] }, name)));
    return list;
  };
  return make("div", { class: "controls between" }, make("span", { class: "quiet" }, "Changes are from"), choice("from", "Change from"),
    make("span", { class: "quiet" }, "to"), choice("to", "Change to"));
}

function clipsSection(evaluation, title) {
  if (!evaluation) return null;
  const compared = comparison(evaluation);
  const filters = clipFilters(evaluation, compared);
  const orders = clipOrders(evaluation, compared);
  const first = evaluation.names.length === 1 ? 0 : 3; // the orders by one system's errors
  const columns = [
    { title: "Audio" },
    { title: "Clip", order: "Clip" },
    { title: "Transcript and hypotheses" },
    ...systemHeads(evaluation).map((head, place) => ({ title: head, order: orders[first + place].name, class: "figure" })),
    ...(evaluation.names.length > 1 ? [{ title: "Change", order: "Most improved first", class: "figure" }] : []),
  ];
  const list = pagedList({
    id: "clip-list", what: "clips", rows: evaluation.clips, columns, orders, filters: Object.values(filters),
    words: (clip) => [clip.id, clip.where, clip.speaker || "", clip.true, ...clip.systems.map((one) => one.said)],
    draw: (clip) => clipRow(evaluation, compared, clip),
  });
  if (evaluation.names.length > 2) list.element.classList.add("many");
  const found = section("clips", "Clips", legend(), betweenChoice(evaluation, compared, list.refresh) || "", list.element, exporter(evaluation, title, list.shown));
  const show = (filter, value) => {
    filters[filter].choose(value);
    list.refresh();
    found.scrollIntoView();
  };
  found.showSpeaker = (speaker) => show("speaker", speaker);
  found.showConfusion = (confusion) => show("confusion", confusion);
  return found;
}
