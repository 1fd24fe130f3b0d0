// SPDX-License-Identifier: MPL-2.0
"use strict";

// Before anything is painted: what was chosen last time.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is switched off: the system's theme it is.
}
