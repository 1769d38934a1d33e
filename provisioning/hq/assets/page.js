// SPDX-License-Identifier: Apache-2.0
// Keeps the board live: HQ says that something changed, the page asks for the board anew.
"use strict";
(() => {
  const board = document.getElementById("board");
  const live = document.getElementById("live");
  const QUIET_MS = 200; // several changes at once are one redraw
  const IDLE_MS = 10000; // ages grow also when nothing happens
  let timer = 0;
  let drawing = false;
  let again = false;

  const say = (state, word) => {
    live.dataset.state = state;
    live.querySelector("span").textContent = word;
  };

  const draw = async () => {
    if (drawing) {
      again = true;
      return;
    }
    drawing = true;
    try {
      const answer = await fetch("/fragment", { cache: "no-store" });
      if (answer.status === 401) {
        location.assign("/login");
        return;
      }
      if (answer.ok) {
        // The server has escaped every foreign text in it.
        board.innerHTML = await answer.text();
      }
    } catch {
      say("lost", "HQ does not answer");
    } finally {
      drawing = false;
      if (again) {
        again = false;
        soon();
      }
    }
  };

  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(draw, QUIET_MS);
  };

  const stream = new EventSource("/live");
  stream.addEventListener("open", () => say("live", "live"));
  stream.addEventListener("error", () => say("lost", "reconnecting"));
  stream.addEventListener("changed", soon);
  setInterval(draw, IDLE_MS);
})();
