// Light or dark: as the system says until someone chooses.

import { signal } from "@preact/signals";

const key = "colonnade-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function now(): "light" | "dark" {
  const chosen = localStorage.getItem(key);
  if (chosen === "light" || chosen === "dark") return chosen;
  return system.matches ? "dark" : "light";
}

export const theme = signal(now());

function apply() {
  theme.value = now();
  document.documentElement.dataset["theme"] = theme.value;
}

system.addEventListener("change", apply);
apply();

export function switchTheme() {
  localStorage.setItem(key, theme.value === "dark" ? "light" : "dark");
  apply();
}
