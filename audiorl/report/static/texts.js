// Differences between a transcript and a hypothesis: a colour and a mark in the text for each kind of error.

const MARKS = { S: "~", I: "+", D: MINUS };
const KINDS = { S: "substitution", I: "insertion", D: "deletion" };

function explain([kind, truth, said]) {
  return { S: `“${said}” for “${truth}”`, I: `“${said}” was not said`, D: `“${truth}” is missing` }[kind];
}

function piece([kind, truth, said]) {
  if (kind === "=") return truth;
  const mark = make("span", { class: "mark" }, MARKS[kind]);
  const shown = make("span", { class: `error ${KINDS[kind]}`, title: `${KINDS[kind]}: ${explain([kind, truth, said])}` }, mark);
  if (kind === "S") shown.append(said, make("s", {}, truth));
  else if (kind === "I") shown.append(said);
  else shown.append(make("s", {}, truth));
  return shown;
}

function differences(pieces, unit, jump = null) {
  // jump: called with the place of an error that was clicked
  const line = make("span", { class: "differences", dir: "auto" });
  const glue = unit === "character" ? "" : " ";
  pieces.forEach((one, place) => {
    const shown = piece(one);
    if (jump && one[0] !== "=") {
      shown.classList.add("jump");
      shown.addEventListener("click", () => jump(place));
    }
    line.append(place ? glue : "", shown);
  });
  if (!pieces.length) line.append(make("em", { class: "nothing" }, "nothing"));
  return line;
}

function legend() {
  const sample = [
    ["S", "cat", "hat"],
    ["I", "", "oh"],
    ["D", "very", ""],
  ].map((one) => make("span", {}, piece(one), ` ${KINDS[one[0]]}`));
  return make("p", { class: "legend" }, ...sample, make("span", {}, "struck out: what was truly said"));
}

function plain(text) {
  return text === "" ? make("em", { class: "nothing" }, "nothing") : make("span", { dir: "auto" }, text);
}

function line(label, content) {
  return make("div", { class: "line" }, make("span", { class: "label" }, label), content);
}
