// One button for each clip; the browser's own player appears when it is pressed, and one clip plays at a time.

const soundAddresses = new Map();
let playing = null;

function soundBytes(embedded) {
  return Uint8Array.from(atob(document.getElementById(`audio-${embedded}`).textContent), (letter) => letter.charCodeAt(0));
}

function soundAddress(audio) {
  if (audio.link) return audio.link;
  if (!soundAddresses.has(audio.embedded)) {
    const kind = document.getElementById(`audio-${audio.embedded}`).dataset.kind;
    soundAddresses.set(audio.embedded, URL.createObjectURL(new Blob([soundBytes(audio.embedded)], { type: kind })));
  }
  return soundAddresses.get(audio.embedded);
}

const SIGNS = { play: "M5 3L13 8L5 13Z", pause: "M4 3H7V13H4ZM9 3H12V13H9Z" };

function sign(name) {
  // drawn, because fonts lack one or the other
  return drawn("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, drawn("path", { d: SIGNS[name] }));
}

function player(audio, about, place, lanes = []) {
  // about: {id, seconds}; place: where the controls appear; lanes: see waveView
  return clipPlayer(audio, about, place, lanes).button;
}

function clipPlayer(audio, about, place, lanes) {
  // the button, and `jump(lane, place)`, which plays the clip from an error; null where nothing can be played
  if (audio && audio.place !== undefined) {
    // a storage address, or one that is no address of the web: shown, never followed
    return { button: make("span", { class: "no-sound", title: audio.place }, "not linked"), jump: null };
  }
  if (!audio || (audio.link === undefined && audio.embedded === undefined)) {
    return { button: make("span", { class: "no-sound", title: "The run did not keep this clip's audio" }, "no audio"), jump: null };
  }
  if (audio.link && /^https?:/i.test(audio.link)) {
    // nothing is fetched by the page itself
    return { button: make("a", { class: "sound", href: audio.link, rel: "noreferrer", title: audio.link }, "open"), jump: null };
  }
  let element = null, wave = null;
  const button = make("button", { class: "sound", type: "button", "aria-label": `Play ${about.id}` }, sign("play"));
  const show = (on) => {
    button.replaceChildren(sign(on ? "pause" : "play"));
    button.setAttribute("aria-label", `${on ? "Pause" : "Play"} ${about.id}`);
  };
  const start = () => {
    element = make("audio", { controls: true, preload: "auto", src: soundAddress(audio) });
    element.addEventListener("play", () => {
      if (playing && playing !== element) playing.pause();
      playing = element;
      show(true);
    });
    for (const end of ["pause", "ended"]) element.addEventListener(end, () => show(false));
    element.addEventListener("error", () => {
      place.replaceChildren(make("p", { class: "sound-fault" }, `Cannot be played: ${audio.link || "embedded clip"}`));
      element = null;
      show(false);
    });
    wave = waveView(element, lanes, audio, about);
    place.replaceChildren(wave.element, element);
  };
  button.addEventListener("click", () => {
    if (!element) start();
    // a refused play() is told by the "error" event, or interrupted by the next click
    if (element.paused) element.play().catch(() => show(false));
    else element.pause();
  });
  const jump = (lane, at) => {
    if (!element) start();
    wave.jump(lane, at);
  };
  return { button, jump };
}
