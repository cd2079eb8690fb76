// One button for each clip; the browser's own player appears when it is pressed, and one clip plays at a time.

const soundAddresses = new Map();
let playing = null;

function soundAddress(audio) {
  if (audio.link) return audio.link;
  if (!soundAddresses.has(audio.embedded)) {
    const block = document.getElementById(`audio-${audio.embedded}`);
    const bytes = Uint8Array.from(atob(block.textContent), (letter) => letter.charCodeAt(0));
    soundAddresses.set(audio.embedded, URL.createObjectURL(new Blob([bytes], { type: block.dataset.kind })));
  }
  return soundAddresses.get(audio.embedded);
}

const SIGNS = { play: "M5 3L13 8L5 13Z", pause: "M4 3H7V13H4ZM9 3H12V13H9Z" };

function sign(name) {
  // drawn, because fonts lack one or the other
  return drawn("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, drawn("path", { d: SIGNS[name] }));
}

function player(audio, name, place) {
  // place: where the controls appear
  if (audio && audio.place !== undefined) {
    // a storage address, or one that is no address of the web: shown, never followed
    return make("span", { class: "no-sound", title: audio.place }, "not linked");
  }
  if (!audio || (audio.link === undefined && audio.embedded === undefined)) {
    return make("span", { class: "no-sound", title: "The run did not keep this clip's audio" }, "no audio");
  }
  if (audio.link && /^https?:/i.test(audio.link)) {
    // nothing is fetched by the page itself
    return make("a", { class: "sound", href: audio.link, rel: "noreferrer", title: audio.link }, "open");
  }
  let element = null;
  const button = make("button", { class: "sound", type: "button", "aria-label": `Play ${name}` }, sign("play"));
  const show = (on) => {
    button.replaceChildren(sign(on ? "pause" : "play"));
    button.setAttribute("aria-label", `${on ? "Pause" : "Play"} ${name}`);
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
    place.replaceChildren(element);
  };
  button.addEventListener("click", () => {
    if (!element) start();
    // a refused play() is told by the "error" event, or interrupted by the next click
    if (element.paused) element.play().catch(() => show(false));
    else element.pause();
  });
  return button;
}
