// The messages of the API, as far as the page reads them: see ../../API.md and proto/clusterpb/cluster.proto.

export interface Cell { replica: number; column: number }

export interface CellStatus {
  cell: Cell; step: number; phase: string; kind: string; images_per_second: number; loss: number | null;
  phase_seconds: Record<string, number>; carrier: string; memory: string;
  in_phase_seconds: number; usual_seconds: number; waits_for: Cell[]; busy_seconds: number;
}

export interface Placement { cell: Cell; worker: string; worker_name: string; address: string }

export interface Evaluation {
  step: number; epoch: number; images: number; top1_errors: number; top5_errors: number;
  loss: number | null; train_loss: number | null; rate: number;
}

export interface Veto {
  cell: Cell | null; step: number; cause: string; loss: number; limit: number; outcome: string; at: string | null;
}

export interface Job {
  name: string; state: string; reason: string; generation: number; step: number; steps: number;
  committed_step: number; placement: Placement[]; cells: CellStatus[]; evaluations: Evaluation[]; vetoes: Veto[];
  digest: string; submitted: string | null; ended: string | null; epochs: number; steps_per_epoch: number;
  batch: number; loss: number | null; images_per_second: number; numerics: string;
  parent: { job: string; step: number; changes: string[]; deleted: boolean } | null;
  priority: number; place: number; max_workers: number; min_workers: number; preemptions: number; preempted_by: string;
}

/** What a GPU says of itself; null: it does not. */
export interface Health {
  celsius: number | null; watts: number | null; watts_limit: number | null; busy_percent: number | null;
  free_bytes: number | null; ecc_uncorrected: number | null; slowed_by: string[]; warnings: string[];
}

export interface Worker {
  id: string; name: string; host: string; address: string; state: string; lease_left_ms: number; note: string;
  device: { name: string; model: string; numerics: string; memory_bytes: number; threads: number } | null;
  cells: { job: string; cell: Cell }[]; draining: boolean; drained: boolean; buddies: string[];
  health: Health | null;
}

export interface Member {
  id: string; address: string; role: string; contacted: boolean; silent_ms: number; answers: boolean;
}

export interface Cluster {
  cluster: string; node: string; leader: string; term: number; applied_index: number; version: string;
  workers: Worker[]; members: Member[];
}

export interface LogEvent { index: number; at: string | null; kind: string; job: string; worker: string; text: string }

export interface Kernels {
  step: number; low: number; high: number;
  columns: { column: number; kernels: number; side: number; width: number; height: number; png: string }[];
}

export interface Exemplar {
  sample: number; label: number; name: string; png: string;
  best?: { class: number; name: string; probability: number }[];
}

export interface Examples {
  model: string; predictions: Exemplar[]; similar: { of: Exemplar; nearest: Exemplar[] }[];
}

/** What coordinator evaluate has had tested. */
export interface Tested {
  id: number; models: { job: string; step: number; has_step: boolean }[]; state: string; reason: string;
  pack: { path: string } | null; views: number; parts: number; done: number; requested: string | null;
  sum: { images: number; loss: number; top1_errors: number; top5_errors: number } | null;
}

export interface LogLine {
  at: string | null; level: string; text: string; job: string; cell: string; step: number; left_out: number;
  worker: string; worker_name: string; sequence: number;
}

export interface Checkpoint {
  step: number; generation: number; files: { cell: Cell; worker: string; bytes: number; path: string }[];
  committed: string | null; bad: string; digest: string; pinned: boolean;
}

export interface Series {
  name: string; step: number[]; time: number[]; mean: number[]; min: number[]; max: number[];
}

export interface Plan {
  network: string; columns: number; replicas: number;
  layers: {
    name: string; kind: string; out: [number, number, number][];
    moves: { from: number; to: number; bytes: number; ways: number }[];
  }[];
}

export interface Setting { key: string; value: string }

const tokenKey = "colonnade-token";

export function token(): string {
  return sessionStorage.getItem(tokenKey) ?? "";
}

export function setToken(text: string) {
  sessionStorage.setItem(tokenKey, text);
}

export function headers(): Record<string, string> {
  return token() === "" ? {} : { Authorization: `Bearer ${token()}` };
}

/** An answer that is not the one asked for, in the coordinator's words. */
export class Refused extends Error {
  constructor(readonly code: number, readonly reason: string, text: string) {
    super(text);
  }
}

async function answer<T>(response: Response): Promise<T> {
  if (response.ok) return (await response.json()) as T;
  const body = (await response.json().catch(() => null)) as { error?: { reason: string; text: string } } | null;
  const text = body?.error?.text ?? `the answer is ${response.status}`;
  throw new Refused(response.status, body?.error?.reason ?? "", text);
}

export async function get<T>(path: string): Promise<T> {
  return answer<T>(await fetch(`/api/v1/${path}`, { headers: headers() }));
}

export async function post(path: string, body: object): Promise<void> {
  await answer(await fetch(`/api/v1/${path}`, {
    method: "POST",
    headers: { ...headers(), "Content-Type": "application/json", "X-Colonnade-Action": "1" },
    body: JSON.stringify(body),
  }));
}

/** Has the browser save what a call answers. */
export async function save(path: string, name: string): Promise<void> {
  const response = await fetch(`/api/v1/${path}`, { headers: headers() });
  if (!response.ok) await answer(response);
  const url = URL.createObjectURL(await response.blob());
  const a = document.createElement("a");
  a.href = url;
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

export const jobPath = (job: string) => `jobs/${encodeURIComponent(job)}`;
