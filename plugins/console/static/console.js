// Keeps a page fresh: fetches its fragment every few seconds and replaces the parts that changed.
"use strict";

(() => {
  const EVERY = 3000;
  const AFTER_A_FAULT = 10000;
  const place = document.querySelector("[data-fragment]");
  const notice = document.querySelector(".stale");
  if (!place) return;
  let seen = new Date();
  let timer = 0;

  const parts = (root) => new Map([...root.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
  const typed = (part) => [...part.querySelectorAll("input:not([type=hidden])")];
  const inUse = (part) => {
    const selection = document.getSelection();
    const selected = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
    return selected || typed(part).includes(document.activeElement) || part.querySelector("form[aria-busy]");
  };

  // What was opened, scrolled and focused by the reader stays so.
  const replace = (old, fresh) => {
    for (const details of old.querySelectorAll("details[open][id]")) {
      const same = fresh.querySelector(`#${CSS.escape(details.id)}`);
      if (same) same.open = true;
    }
    for (const input of typed(old)) {
      const same = input.id && fresh.querySelector(`#${CSS.escape(input.id)}`);
      if (same) [same.value, same.checked] = [input.value, input.checked];
    }
    const scrolled = [...old.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
    const focusable = "a, button, summary, .scroll";
    const focused = [...old.querySelectorAll(focusable)].indexOf(document.activeElement);
    old.replaceWith(fresh);
    fresh.querySelectorAll(".scroll").forEach((box, place) => { box.scrollLeft = scrolled[place] ?? 0; });
    if (focused >= 0) fresh.querySelectorAll(focusable)[focused]?.focus({ preventScroll: true });
  };

  // Compared as the server sent them: what the reader opened is no change.
  const sent = new Map([...parts(place)].map(([name, part]) => [name, part.outerHTML]));

  // A picture stays until the one that follows is there: it may take the server seconds to draw.
  const awaited = new Set();
  const replaceOnceDrawn = async (name, part) => {
    awaited.add(name);
    document.adoptNode(part); // from here on its images are fetched
    await Promise.allSettled([...part.querySelectorAll("img")].map((image) => image.decode()));
    const old = parts(place).get(name);
    if (awaited.delete(name) && old) replace(old, part);
  };

  const show = (html) => {
    const fresh = parts(new DOMParser().parseFromString(html, "text/html"));
    const old = parts(place);
    if ([...fresh.keys()].join() !== [...old.keys()].join()) {
      awaited.clear();
      place.replaceChildren(...fresh.values());
    } else {
      for (const [name, part] of fresh) {
        if (part.outerHTML === sent.get(name) || inUse(old.get(name)) || awaited.has(name)) fresh.delete(name);
      }
      for (const [name, part] of fresh) {
        sent.set(name, part.outerHTML);
        if (part.querySelector("img")) replaceOnceDrawn(name, part);
        else replace(old.get(name), part);
      }
      return;
    }
    for (const [name, part] of fresh) sent.set(name, part.outerHTML);
  };

  const say = (text) => {
    if (notice.textContent !== text) notice.textContent = text;
    notice.hidden = !text;
  };

  const refresh = async () => {
    clearTimeout(timer);
    let wait = EVERY;
    try {
      const answer = await fetch(place.dataset.fragment, { credentials: "same-origin" });
      if (answer.status === 401) {
        say("You are signed out of Airflow. Reload the page to sign in.");
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      show(await answer.text());
      seen = new Date();
      say("");
    } catch {
      say(`Not refreshed since ${seen.toLocaleTimeString()}: Airflow does not answer.`);
      wait = AFTER_A_FAULT;
    }
    later(wait);
  };

  const later = (wait) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (document.hidden) document.addEventListener("visibilitychange", refresh, { once: true });
      else refresh();
    }, wait);
  };

  // Forms are sent from here, so that the reader stays where they are; without this script they are sent as forms are.
  const told = document.querySelector(".said");
  const tell = (text, tone) => {
    told.textContent = text;
    told.className = `said ${tone}`;
    told.hidden = false;
    told.scrollIntoView({ block: "nearest" });
  };
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!told || form.method !== "post") return;
    event.preventDefault();
    if (form.hasAttribute("aria-busy")) return;
    form.setAttribute("aria-busy", "true");
    tell("Working…", "");
    try {
      // not `form.action`: a form may have a field of that name
      const answer = await fetch(form.getAttribute("action"), {
        method: "POST",
        credentials: "same-origin",
        headers: { Accept: "application/json" },
        body: new URLSearchParams(new FormData(form)),
      });
      const found = await answer.json();
      tell(found.said ?? found.detail, answer.ok ? "good" : "bad");
      if (answer.ok) {
        form.reset();
        form.closest("details")?.removeAttribute("open");
      }
    } catch {
      tell("Airflow does not answer: whether it was done shows in the story below.", "bad");
    }
    form.removeAttribute("aria-busy");
    refresh();
  });

  later(EVERY);
})();
