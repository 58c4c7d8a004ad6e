"use strict";
// Plays the denoising of an answer. `shown` counts the steps that are done: 0 is all masked, `steps` all revealed.
for (const player of document.querySelectorAll(".player")) {
  const tokens = [...player.querySelectorAll("[data-step]")];
  const steps = Number(player.dataset.steps);
  const slider = player.querySelector("input");
  const speed = player.querySelector("select");
  const output = player.querySelector("output");
  const play = player.querySelector('[data-do="play"]');
  let shown = steps;
  let timer = null;

  function show(step) {
    shown = Math.min(Math.max(step, 0), steps);
    let revealed = 0;
    for (const token of tokens) {
      const own = Number(token.dataset.step) + 1;
      token.classList.toggle("masked", own > shown);
      token.classList.toggle("fresh", own === shown && timer !== null);
      if (own <= shown) revealed += 1;
    }
    const text = `step ${shown} of ${steps}, ${revealed} of ${tokens.length} tokens`;
    slider.value = shown;
    slider.setAttribute("aria-valuetext", text);
    output.textContent = text;
    player.dataset.shown = shown;
  }

  function pause() {
    clearTimeout(timer);
    timer = null;
    play.setAttribute("aria-label", "play");
    output.setAttribute("aria-live", "polite");
    player.dataset.state = "paused";
    show(shown);
  }

  function tick() {
    if (shown >= steps) return pause();
    show(shown + 1);
    timer = setTimeout(tick, Math.max(40, 5000 / steps) / Number(speed.value));
  }

  function start() {
    if (shown >= steps) show(0);
    play.setAttribute("aria-label", "pause");
    output.setAttribute("aria-live", "off"); // a screen reader would never catch up
    player.dataset.state = "playing";
    timer = setTimeout(tick, 200);
  }

  const actions = {
    first: () => show(0),
    back: () => show(shown - 1),
    play: () => (timer === null ? start() : pause()),
    forward: () => show(shown + 1),
    last: () => show(steps),
  };
  const keys = { Home: "first", ArrowLeft: "back", " ": "play", ArrowRight: "forward", End: "last" };

  function act(name) {
    if (name !== "play") pause();
    actions[name]();
  }

  player.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) act(button.dataset.do);
  });
  player.addEventListener("keydown", (event) => {
    const name = keys[event.key];
    const own = event.target.tagName; // a slider, a list and a button have keys of their own
    if (!name || event.altKey || event.ctrlKey || event.metaKey || own === "SELECT") return;
    if ((own === "INPUT" && name !== "play") || (own === "BUTTON" && name === "play")) return;
    event.preventDefault();
    act(name);
  });
  slider.addEventListener("input", () => {
    const wanted = Number(slider.value); // `pause` sets the slider back
    pause();
    show(wanted);
  });
  const details = player.closest("details");
  if (details) details.addEventListener("toggle", () => details.open || pause());

  player.querySelector(".controls").hidden = false;
  pause();
}
