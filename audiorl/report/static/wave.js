// A clip as a picture, with the errors of each system where they are said; a click goes there.
// The page knows no times of words: an error's place is that of its letters in the transcript, over the parts of the
// clip that are not silent.

const WAVE = { width: 900, wave: 44, height: 128, rate: 16000, window: 512 };
const LEAD = 0.4; // seconds that are heard before an error
const QUIET_DB = 55; // below the loudest: white

function transform(real, imaginary) {
  // in place, radix 2
  const size = real.length;
  for (let i = 1, j = 0; i < size; i++) {
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [real[i], real[j]] = [real[j], real[i]];
  }
  for (let length = 2; length <= size; length <<= 1) {
    const half = length >> 1;
    for (let k = 0; k < half; k++) {
      const angle = (-2 * Math.PI * k) / length, cos = Math.cos(angle), sin = Math.sin(angle);
      for (let low = k; low < size; low += length) {
        const high = low + half;
        const r = real[high] * cos - imaginary[high] * sin, i = real[high] * sin + imaginary[high] * cos;
        real[high] = real[low] - r;
        imaginary[high] = imaginary[low] - i;
        real[low] += r;
        imaginary[low] += i;
      }
    }
  }
}

function spectrum(samples, middle) {
  // decibels of the bins up to half the rate, around a sample; high ones raised as speech falls off
  const size = WAVE.window, real = new Float64Array(size), imaginary = new Float64Array(size);
  for (let i = 0; i < size; i++) {
    const hann = 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size);
    const at = middle - size / 2 + i;
    real[i] = ((samples[at] || 0) - 0.97 * (samples[at - 1] || 0)) * hann;
  }
  transform(real, imaginary);
  return Array.from({ length: size / 2 }, (_, bin) => 10 * Math.log10(real[bin] ** 2 + imaginary[bin] ** 2 + 1e-12));
}

function paint(canvas, samples) {
  // black of more or less strength; the style sheet turns it white on a dark page
  const { width, height, wave } = WAVE;
  const context = canvas.getContext("2d");
  const per = samples.length / width;
  context.clearRect(0, 0, width, height);
  let peak = 1e-6;
  for (const value of samples) peak = Math.max(peak, Math.abs(value));
  const columns = [];
  for (let x = 0; x < width; x++) {
    let low = 0, high = 0;
    for (let i = Math.floor(x * per); i < (x + 1) * per; i++) {
      low = Math.min(low, samples[i] || 0);
      high = Math.max(high, samples[i] || 0);
    }
    const middle = wave / 2, scale = (middle - 2) / peak;
    context.fillRect(x, middle - high * scale, 1, Math.max((high - low) * scale, 1));
    columns.push(spectrum(samples, Math.round((x + 0.5) * per)));
  }
  const loudest = Math.max(...columns.map((column) => Math.max(...column)));
  const rows = height - wave, image = context.createImageData(width, rows);
  columns.forEach((column, x) => {
    for (let y = 0; y < rows; y++) {
      const bin = Math.floor(((rows - 1 - y) / rows) * column.length);
      image.data[4 * (y * width + x) + 3] = 255 * Math.max(0, 1 + (column[bin] - loudest) / QUIET_DB) ** 2;
    }
  });
  context.putImageData(image, 0, wave);
}

function speechClock(samples, seconds) {
  // from a share of the text to seconds: only frames of 20 ms that are not silent count
  if (!samples) return (share) => share * seconds;
  const size = WAVE.rate / 50, levels = [];
  for (let start = 0; start < samples.length; start += size) {
    let sum = 0;
    for (let i = start; i < Math.min(start + size, samples.length); i++) sum += samples[i] ** 2;
    levels.push(Math.sqrt(sum / size));
  }
  const loud = levels.slice().sort((a, b) => a - b)[Math.floor(0.95 * (levels.length - 1))];
  const spoken = [0];
  for (const level of levels) spoken.push(spoken[spoken.length - 1] + (level > 0.05 * loud ? 1 : 0));
  const all = spoken[spoken.length - 1];
  if (!all) return (share) => share * seconds;
  return (share, begins = false) => {
    // what begins after a pause begins at its end
    const frame = spoken.findIndex((count, at) => (begins && share < 1 ? spoken[at + 1] > share * all : count >= share * all));
    return Math.min((Math.max(frame, 0) * size) / WAVE.rate, seconds);
  };
}

function errorShares(pieces) {
  // [{at, from, to}]: place among the pieces, and where it begins and ends in the transcript, from 0 to 1
  const letters = (one) => (one[0] === "I" ? 0 : one[1].length + 1);
  const all = Math.max(pieces.reduce((sum, one) => sum + letters(one), 0), 1);
  let passed = 0;
  return pieces.map((one, at) => {
    const from = passed / all;
    passed += letters(one);
    return { at, from, to: passed / all, one };
  }).filter(({ one }) => one[0] !== "=");
}

function waveView(element, lanes, audio, about) {
  // lanes: [{name, pieces}]; about: {id, seconds}. Returns the picture, and `jump(lane, place)`.
  const length = () => (Number.isFinite(element.duration) && element.duration > 0 ? element.duration : about.seconds);
  let clock = speechClock(null, length());
  const goTo = (time) => {
    element.currentTime = Math.max(0, Math.min(time, length()));
    element.play().catch(() => {});
  };
  const cursor = make("span", { class: "wave-cursor" });
  const canvas = make("canvas", { width: WAVE.width, height: WAVE.height, role: "img", "aria-label": `Waveform and spectrogram of ${about.id}` });
  const picture = make("div", { class: "wave-picture" }, canvas, cursor);
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    goTo(((event.clientX - box.left) / box.width) * length());
  });
  const drawnLanes = lanes.map((lane) => ({ ...lane, shares: errorShares(lane.pieces), element: make("div", { class: "lane" }) }));
  const seek = (one) => goTo(clock(one.from, true) - LEAD);
  const place = () => {
    for (const lane of drawnLanes) {
      lane.element.replaceChildren(...lane.shares.map((found) => {
        const from = clock(found.from, true), to = Math.max(clock(found.to), from);
        const mark = make("button", { type: "button", class: `at ${KINDS[found.one[0]]}`, title: `${explain(found.one)}, about ${seconds(from)}`,
          "aria-label": `${lane.name}: ${explain(found.one)}, about ${seconds(from)}; play from there`, onclick: () => seek(found) });
        mark.style.left = `${(100 * from) / length()}%`;
        mark.style.width = `${(100 * (to - from)) / length()}%`;
        return mark;
      }));
    }
  };
  const told = make("small", {});
  const bytes = audio.embedded === undefined ? null : soundBytes(audio.embedded);
  if (bytes) {
    new OfflineAudioContext(1, 1, WAVE.rate).decodeAudioData(bytes.buffer.slice(0)).then((decoded) => {
      const samples = decoded.getChannelData(0);
      paint(canvas, samples);
      clock = speechClock(samples, length());
      place();
      picture.dataset.drawn = "true";
    }, () => (told.textContent = "This browser cannot draw the clip. "));
  } else {
    picture.hidden = true;
    told.textContent = "Only clips inside this file are drawn (--audio_megabytes). ";
  }
  if (lanes.length) told.append("Errors stand where their letters are in the transcript, pauses left out: about right, not measured.");
  for (const event of ["timeupdate", "seeking", "loadedmetadata"]) {
    element.addEventListener(event, () => (cursor.style.left = `${(100 * element.currentTime) / length()}%`));
  }
  element.addEventListener("loadedmetadata", place);
  place();
  const rows = drawnLanes.map((lane) => make("div", { class: "lane-row" }, make("span", { class: "label" }, lane.name), lane.element));
  return {
    element: make("div", { class: "wave" }, make("div", { class: "lane-row" }, make("span", { class: "label" }), picture), rows, told),
    jump: (lane, at) => {
      const found = drawnLanes[lane].shares.find((one) => one.at === at);
      if (found) seek(found);
    },
  };
}
