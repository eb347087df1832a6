// The picture of a job's columns, as the paper's second figure has it, with what every cell does now.

import type { CellStatus, Job, Plan } from "./api";
import { bytes, cellName, span, whole } from "./format";
import { State, Table } from "./parts";

/** Inks of columns: the same everywhere. */
export const columnInk = (column: number) => `--column-${column % 4}`;

export const groups = ["data", "forward", "backward", "wait", "update", "checkpoint"];

/** Where a phase belongs; the same as the coordinator's groupOf. */
export function groupOf(phase: string): string {
  if (phase.includes("wait for")) return "wait";
  if (phase === "data" || phase === "input") return "data";
  if (phase === "snapshot" || phase.startsWith("checkpoint")) return "checkpoint";
  if (phase === "update" || phase === "guard") return "update";
  if (phase.endsWith(" gradient") || phase.endsWith(" weights") || phase.includes("reduce")) return "backward";
  return "forward";
}

const boxW = 74;
const boxH = 34;
const gap = 26;
const pitch = 76;

export function Picture({ plan, job }: { plan: Plan; job: Job }) {
  const layers = plan.layers.filter((l) => ["conv", "dense", "pool", "softmax"].includes(l.kind));
  const width = layers.length * (boxW + gap) + 70;
  const replicas = [...Array(plan.replicas).keys()];
  const perStep = job.batch / Math.max(plan.replicas, 1);
  const total = plan.layers.flatMap((l) => l.moves).reduce((n, m) => n + m.bytes * m.ways, 0) * perStep;
  return (
    <>
      {replicas.map((r) => (
        <div class="picture" key={r} tabIndex={0} role="region" aria-label={`Columns of replica ${r}`}>
          <svg width={width} height={plan.columns * pitch + 6} role="img"
            aria-label={`${plan.network} in ${plan.columns} columns; ${bytes(total)} cross between them every step`}>
            {[...Array(plan.columns).keys()].map((c) => (
              <Row key={c} plan={plan} layers={layers} job={job} replica={r} column={c} />
            ))}
            {layers.map((l, i) => <Crossing key={l.name} layer={l} x={56 + i * (boxW + gap)} images={perStep} />)}
          </svg>
        </div>
      ))}
      {plan.columns > 1 && (
        <p class="hint">{bytes(total)} cross between the columns of a replica every step, there and back; boxes that are
          filled are where a cell was when it was last heard.</p>
      )}
    </>
  );
}

function Row(p: { plan: Plan; layers: Plan["layers"]; job: Job; replica: number; column: number }) {
  const y = p.column * pitch + 20;
  const s = p.job.cells.find((c) => c.cell.replica === p.replica && c.cell.column === p.column);
  const running = p.job.state === "running" || p.job.state === "stopping";
  return (
    <g>
      <text x="0" y={y + boxH / 2 + 4} class="cell">{cellName({ replica: p.replica, column: p.column })}</text>
      {p.layers.map((l, i) => {
        const x = 56 + i * (boxW + gap);
        const [maps, h, w] = l.out[p.column] ?? [0, 0, 0];
        if (maps === 0) return null;
        const here = running && s !== undefined && s.phase.split(/[ /]/)[0] === l.name;
        return (
          <g key={l.name} style={{ color: `var(${columnInk(p.column)})` }}>
            {i > 0 && <line x1={x - gap} y1={y + boxH / 2} x2={x} y2={y + boxH / 2} class="own" />}
            <rect x={x} y={y} width={boxW} height={boxH} rx="4" class={here ? `box here ${groupOf(s.phase)}` : "box"} />
            <text x={x + boxW / 2} y={y + 14} class={here ? "name here" : "name"}>{l.name}</text>
            <text x={x + boxW / 2} y={y + 27} class={here ? "shape here" : "shape"}>
              {h * w === 1 ? maps : `${maps}×${h}×${w}`}</text>
          </g>
        );
      })}
    </g>
  );
}

function Crossing({ layer: l, x, images }: { layer: Plan["layers"][number]; x: number; images: number }) {
  if (l.moves.length === 0) return null;
  const at = (c: number) => c * pitch + 20 + boxH / 2;
  const sum = l.moves.reduce((n, m) => n + m.bytes * m.ways, 0) * images;
  return (
    <g class="crossing">
      {l.moves.map((m) => (
        <line key={`${m.from}-${m.to}`} x1={x - gap + 2} y1={at(m.from)} x2={x - 2} y2={at(m.to)} />
      ))}
      <text x={x - gap / 2} y={pitch - 1}>{bytes(sum)}</text>
    </g>
  );
}

/** A step's seconds by what is done in them, as one bar. */
export function PhaseBar({ status: s }: { status: CellStatus }) {
  const sums = new Map<string, number>();
  for (const [phase, seconds] of Object.entries(s.phase_seconds)) {
    sums.set(groupOf(phase), (sums.get(groupOf(phase)) ?? 0) + seconds);
  }
  const total = [...sums.values()].reduce((a, b) => a + b, 0);
  if (total === 0) return <span class="none">–</span>;
  const words = groups.map((g) => `${g} ${span(sums.get(g) ?? 0)}`).join(", ");
  return (
    <span class="phases" role="img" aria-label={`${span(total)} a step: ${words}`} title={words}>
      {groups.map((g) => <i key={g} class={g} style={{ width: `${(100 * (sums.get(g) ?? 0)) / total}%` }} />)}
    </span>
  );
}

export function CellTable({ job }: { job: Job }) {
  return (
    <Table label="Cells" heads={["Cell", "Worker", "Step", "Phase", "A step", "Working", "Carrier", "State lies in"]}
      right={[2, 5]}>
      {job.placement.map((p) => {
        const s = job.cells.find((c) => cellName(c.cell) === cellName(p.cell));
        const late = s !== undefined && s.usual_seconds > 0 && s.in_phase_seconds > Math.max(1, 4 * s.usual_seconds);
        return (
          <tr key={cellName(p.cell)}>
            <th scope="row"><i class="dot" style={{ background: `var(${columnInk(p.cell.column)})` }} />
              {cellName(p.cell)}</th>
            <td>{p.worker_name}</td>
            <td class="n">{s === undefined ? "–" : whole(s.step)}</td>
            <td class="phase">{s === undefined ? <State state="silent" /> : s.phase}
              {late && <b class="late"> for {span(s.in_phase_seconds)}</b>}</td>
            <td class="bar">{s !== undefined && <PhaseBar status={s} />}</td>
            <td class="n">{s === undefined || s.busy_seconds === 0 ? "–" : span(s.busy_seconds)}</td>
            <td>{s?.carrier || "–"}</td>
            <td>{s?.memory || "–"}</td>
          </tr>
        );
      })}
    </Table>
  );
}

export const PhaseKey = () => (
  <p class="phasekey">{groups.map((g) => <span key={g}><i class={g} />{g}</span>)}</p>
);

