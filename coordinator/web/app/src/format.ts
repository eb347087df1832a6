// How numbers and times are written, everywhere alike.

const group = new Intl.NumberFormat("en-US");

export const whole = (n: number) => group.format(n);

/** Three to four figures, whatever the size. */
export function figures(v: number | null | undefined): string {
  if (v === null || v === undefined || !Number.isFinite(v)) return "–";
  const a = Math.abs(v);
  if (a >= 1000) return group.format(Math.round(v));
  if (a >= 100) return v.toFixed(0);
  if (a >= 10) return v.toFixed(1);
  if (a >= 1) return v.toFixed(2);
  if (a >= 0.01) return v.toFixed(3);
  if (a >= 0.001) return v.toPrecision(2);
  return a === 0 ? "0" : v.toExponential(1);
}

export function loss(v: number | null | undefined): string {
  return v === null || v === undefined || v === 0 ? "–" : Math.abs(v) < 0.001 ? v.toExponential(1) : v.toFixed(4);
}

export const percent = (part: number, of: number) => `${((100 * part) / Math.max(of, 1)).toFixed(2)} %`;

export function bytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return `${i === 0 || n >= 100 ? n.toFixed(0) : n.toFixed(1)} ${units[i]}`;
}

export function span(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const s = Math.round(seconds);
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function clock(at: string | number | null): string {
  return at === null ? "–" : new Date(at).toLocaleTimeString("en-GB");
}

export function dated(at: string | null): string {
  if (at === null) return "–";
  const d = new Date(at);
  const day = d.toDateString() === new Date().toDateString() ? "" : `${d.toLocaleDateString("en-CA")} `;
  return day + d.toLocaleTimeString("en-GB");
}

export const cellName = (c: { replica: number; column: number }) => `r${c.replica}c${c.column}`;
