// Inside Airflow's frame, which is sandboxed, links that leave the console are followed by Airflow's own page:
// to Airflow in its place, to others in a new tab.
"use strict";

(() => {
  if (window.top === window) return;
  const home = document.documentElement.dataset.base;
  document.documentElement.classList.add("framed");
  // Airflow marks its theme, which may be another than the system's, by a class of its root.
  const airflow = window.parent.document.documentElement;
  const wear = () => {
    document.documentElement.dataset.theme = airflow.classList.contains("dark") ? "dark" : "light";
  };
  wear();
  new MutationObserver(wear).observe(airflow, { attributes: true, attributeFilter: ["class"] });
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element && event.target.closest("a[href]");
    if (!link) return;
    const ours = link.origin === location.origin;
    if (ours && link.pathname.startsWith(`${home}/`)) return;
    event.preventDefault();
    const outside = window.parent.document.createElement("a");
    outside.href = link.href;
    if (!ours) outside.target = "_blank";
    outside.rel = "noopener";
    window.parent.document.body.append(outside);
    outside.click();
    outside.remove();
  });
})();
