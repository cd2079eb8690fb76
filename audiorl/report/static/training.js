// What a model was trained on: pairs, and groups of sampled hypotheses with their rewards.

function card(row, title, about, lines) {
  const place = make("div", { class: "sound-place" });
  return make("article", { class: "card" }, player(row.audio, { id: row.where, seconds: row.seconds }, place),
    make("div", { class: "texts" }, make("p", { class: "about" }, make("b", {}, title), about.filter(Boolean).map((text) => make("small", {}, text))), lines, place));
}

function pairsSection(pairs, facts) {
  if (!pairs.length) return null;
  const list = pagedList({
    id: "pair-list", what: "pairs", rows: pairs, size: 20,
    orders: [
      { name: "As trained on", by: () => 0 },
      { name: "Most differences first", by: (pair) => pair.errors, down: true },
      { name: "Fewest differences first", by: (pair) => pair.errors },
      { name: "Longest first", by: (pair) => pair.seconds, down: true },
    ],
    words: (pair) => [pair.where, pair.chosen, pair.rejected],
    draw: (pair) => card(pair, pair.where, [seconds(pair.seconds)],
      [line("chosen", plain(pair.chosen)), line("rejected", differences(pair.pieces, pair.unit))]),
  });
  const all = facts.pairs > pairs.length ? `The first ${grouped(pairs.length)} of ${grouped(facts.pairs)} pairs. ` : "";
  return section("pairs", "Pairs: chosen against rejected",
    make("p", { class: "quiet" }, `${all}Colours show what the rejected transcript does to the chosen one.`), list.element);
}

function spread(group) {
  const rewards = group.hypotheses.map((one) => one.reward).filter((reward) => reward !== null);
  return rewards.length ? Math.max(...rewards) - Math.min(...rewards) : null;
}

function meanReward(group) {
  const rewards = group.hypotheses.map((one) => one.reward).filter((reward) => reward !== null);
  return rewards.length ? rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length : null;
}

function keptCount(group) {
  // null where all hypotheses are learnt from, and none is chosen
  const judged = group.hypotheses.filter((one) => one.kept !== undefined);
  return judged.length ? judged.filter((one) => one.kept).length : null;
}

function rewardLine(one, unit) {
  const parts = Object.entries(one.rewards).map(([name, value]) => `${name} ${value === null ? "abstained" : number(value)}`);
  return make("div", { class: "line" },
    make("span", { class: "label reward", title: parts.join("\n") }, one.reward === null ? "no reward" : number(one.reward)),
    make("div", {}, one.kept ? make("b", { class: "kept-mark" }, "\u2713 kept ") : null,
      differences(one.pieces, unit), parts.length > 1 ? make("small", {}, parts.join(" \u00b7 ")) : null));
}

function groupsSection(groups) {
  if (!groups.length) return null;
  const choices = [["", "All groups"], ["some", "something kept"], ["none", "nothing kept"]];
  const chosen = groups.some((group) => keptCount(group) !== null);
  const list = pagedList({
    id: "group-list", what: "groups", rows: groups, size: 10,
    filters: chosen ? [choiceFilter("Kept", choices, (group, value) => (keptCount(group) > 0) === (value === "some"))] : [],
    orders: [
      { name: "Last step first", by: (group) => group.step, down: true },
      { name: "First step first", by: (group) => group.step },
      { name: "Widest spread of rewards first", by: spread, down: true },
      { name: "Lowest mean reward first", by: meanReward },
    ],
    words: (group) => [group.where, group.true, ...group.hypotheses.map((one) => one.text)],
    draw: (group) => card(group, group.where, [`step ${grouped(group.step)}`, seconds(group.seconds), `mean reward ${number(meanReward(group))}`, keptCount(group) !== null && `${keptCount(group)} of ${group.hypotheses.length} kept`],
      [line("transcript", plain(group.true)), ...group.hypotheses.map((one) => rewardLine(one, group.unit))]),
  });
  return section("groups", "Groups: what was sampled for a clip, with rewards", list.element);
}
