// Before the first paint: what was chosen the last time. A classic script, so that nothing flashes.
"use strict";
try {
  const chosen = localStorage.getItem("meshnode.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // storage is forbidden: the system's theme it is
}
