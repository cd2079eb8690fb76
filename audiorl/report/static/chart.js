// Line charts as inline SVG; several lines differ by colour and by dash.

const WIDTH = 440, HEIGHT = 230, LEFT = 52, RIGHT = 10, TOP = 10, BOTTOM = 30;
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 2", "1 2", "12 4"];
const COLOURS = 7;

function look(place) {
  // the colours come again after seven lines, with other dashes
  const round = Math.floor(place / COLOURS);
  return { colour: `c${place % COLOURS}`, dashes: DASHES[(place + round) % DASHES.length] };
}

function niceTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough);
  const ticks = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) ticks.push(value);
  return ticks.map((value) => Number(value.toPrecision(12)));
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low === high) {
    const room = Math.abs(low) / 10 || 1;
    return [low - room, high + room];
  }
  return [low, high];
}

function nearest(points, step) {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < step) low = middle;
    else high = middle;
  }
  return Math.abs(points[low][0] - step) <= Math.abs(points[high][0] - step) ? points[low] : points[high];
}

function chart({ title, percent: inPercent, series }, stages = []) {
  // stages: [{name, step}] of a recipe, marked where they begin
  const text = (value) => (inPercent ? percent(value) : number(value));
  const known = series.flatMap((one) => one.points.filter((point) => point[1] !== null));
  if (!known.length) {
    return make("figure", {}, make("figcaption", {}, title), make("p", { class: "quiet" }, "no finite value was logged"));
  }
  const [left, right] = extent(known.map((point) => point[0]));
  let [low, high] = extent(known.map((point) => point[1]));
  const margin = (high - low) * 0.06;
  if (!(low >= 0 && low - margin < 0)) low -= margin;
  high += margin;
  const x = (step) => LEFT + ((step - left) / (right - left)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const picture = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title, tabindex: 0 });
  for (const tick of niceTicks(low, high, 4)) {
    picture.append(
      drawn("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }),
      drawn("text", { class: "tick", x: LEFT - 6, y: y(tick) + 3.5, "text-anchor": "end" }, text(tick)),
    );
  }
  for (const tick of niceTicks(left, right, 5).filter((value) => Number.isInteger(value))) {
    picture.append(drawn("text", { class: "tick", x: x(tick), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, grouped(tick)));
  }
  picture.append(drawn("text", { class: "tick", x: WIDTH - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, "step"));
  for (const { name, step } of stages.filter((one) => one.step >= left && one.step <= right)) {
    picture.append(drawn("line", { class: "stage", x1: x(step), x2: x(step), y1: TOP, y2: HEIGHT - BOTTOM }),
      drawn("text", { class: "tick", x: Math.min(x(step) + 3, WIDTH - RIGHT - 6 * name.length), y: TOP + 8 }, name));
  }
  series.forEach((one, place) => picture.append(...curve(one, place, x, y)));
  const cursor = drawn("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  picture.append(cursor);
  const values = series.map(() => make("b", {}));
  const keys = series.map((one, place) => key(one.name, place, values[place]));
  const tell = (step) =>
    series.forEach((one, place) => (values[place].textContent = text(nearest(one.points, step)[1])));
  tell(right);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const share = (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT);
    show(nearest(series[0].points, left + Math.min(Math.max(share, 0), 1) * (right - left)));
  });
  picture.addEventListener("keydown", (event) => {
    const points = series[0].points;
    const here = current ? points.indexOf(current) : points.length - 1;
    const next = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: points.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    show(points[Math.min(Math.max(next, 0), points.length - 1)]);
  });
  for (const end of ["pointerleave", "blur"]) picture.addEventListener(end, () => show(null));
  let current = null;
  const show = (point) => {
    current = point;
    cursor.setAttribute("visibility", point ? "visible" : "hidden");
    where.textContent = point ? `step ${grouped(point[0])}` : "last";
    if (point) for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(point[0]));
    tell(point ? point[0] : right);
  };
  const where = make("span", { class: "quiet", "aria-live": "polite" }, "last");
  return make("figure", {}, make("figcaption", {}, title, " ", where), picture, make("ul", { class: "keys" }, keys));
}

function curve(one, place, x, y) {
  let path = "", pen = "M";
  for (const [step, value] of one.points) {
    if (value === null) pen = "M";
    else {
      path += `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
    }
  }
  const { colour, dashes } = look(place);
  const drawing = [drawn("path", { class: `curve ${colour}`, d: path, "stroke-dasharray": dashes })];
  if (one.points.length <= 30) {
    for (const [step, value] of one.points) {
      if (value !== null) drawing.push(drawn("circle", { class: `dot ${colour}`, cx: x(step), cy: y(value), r: 2.4 }));
    }
  }
  return drawing;
}

function key(name, place, value) {
  const { colour, dashes } = look(place);
  const sample = drawn(
    "svg", { viewBox: "0 0 24 8", class: "sample", "aria-hidden": "true" },
    drawn("path", { class: `curve ${colour}`, d: "M0 4L24 4", "stroke-dasharray": dashes }),
  );
  return make("li", {}, sample, make("span", { class: "name" }, name), value);
}
