// One job: how far, how well, where, and what happened.

import { useEffect, useState } from "preact/hooks";
import { get, jobPath, Refused } from "./api";
import { useAnswer } from "./answer";
import type { Job, Plan, Series, Setting } from "./api";
import { CellTable, groups, PhaseKey, Picture } from "./cells";
import { Checkpoints, Controls, useCheckpoints } from "./controls";
import { Evaluations, Tests } from "./tests";
import { Chart, ChartControls, Choice, logScale } from "./chart";
import type { Line } from "./chart";
import { axisOf, curve, evaluated, marksOf } from "./curves";
import { cellName, figures, loss, percent, whole } from "./format";
import { left } from "./jobs";
import { LogLines } from "./logs";
import { madeWay, workersOf } from "./queue";
import { ExamplesOf, KernelsOf } from "./pictures";
import { Events, Figure, jobLink, Link, Progress, Section, State, Table } from "./parts";
import { details, events, jobs, series, seriesVersion } from "./state";

export function JobPage({ name }: { name: string }) {
  const [missing, setMissing] = useState("");
  const job = details.value[name] ?? jobs.value?.find((j) => j.name === name);
  useEffect(() => {
    get<Job>(jobPath(name)).then((j) => {
      if (details.value[name] === undefined) details.value = { ...details.value, [name]: j };
    }, (e) => e instanceof Refused && e.code === 404 && setMissing(e.message));
  }, [name]);
  if (job === undefined) {
    return missing === "" ? <p class="empty">Asking the coordinator …</p>
      : <p class="empty">{missing} <Link to="/">All jobs</Link></p>;
  }
  return <Shown job={job} name={name} />;
}

function Shown({ job, name }: { job: Job; name: string }) {
  const checkpoints = useCheckpoints(job);
  return (
    <>
      <Head job={job} />
      <Curves job={job} />
      <Columns job={job} />
      <Speed job={job} />
      <KernelsOf job={job} checkpoints={checkpoints} />
      <Checkpoints job={job} all={checkpoints} />
      <Evaluations job={job} />
      <Tests job={name} />
      <ExamplesOf name={name} />
      <Config name={name} />
      <Events id="events" events={events.value.filter((e) => e.job === name || e.job === "")} />
      <LogLines job={name} />
    </>
  );
}

function Head({ job: j }: { job: Job }) {
  const e = j.evaluations.at(-1);
  return (
    <>
      <div class="title">
        <h1>{j.name}</h1><State state={j.state} />
        <span class="actions"><Controls job={j} /></span>
      </div>
      <p class="reason">{j.reason}</p>
      {j.preemptions > 0 && <p class="reason">{madeWay(j)}</p>}
      {j.parent !== null && (
        <p class="reason">forked from {j.parent.deleted ? j.parent.job
          : <Link to={jobLink(j.parent.job)}>{j.parent.job}</Link>}, step {whole(j.parent.step)}
          {j.parent.changes.length > 0 && `, with ${j.parent.changes.join("; ")}`}</p>)}
      <Progress job={j} />
      <dl class="figures">
        <Figure label="Step" note={`of ${whole(j.steps)}`}>{whole(j.step)}</Figure>
        <Figure label="Epoch" note={`of ${whole(j.epochs)}`}>
          {(j.step / Math.max(j.steps_per_epoch, 1)).toFixed(2)}</Figure>
        <Figure label="Training loss" note="nats">{loss(j.loss)}</Figure>
        <Figure label="Test error" note={e && `top-5 ${percent(e.top5_errors, e.images)}`}>
          {e === undefined ? "–" : percent(e.top1_errors, e.images)}</Figure>
        <Figure label="Images/s">{figures(j.images_per_second)}</Figure>
        <Figure label="Time left">{left(j)}</Figure>
        <Figure label="Checkpoint" note="newest usable">{whole(j.committed_step)}</Figure>
        <Figure label="Generation">{whole(j.generation)}</Figure>
        <Figure label="Priority" note={j.place > 0 ? `place ${j.place} in the queue` : `${workersOf(j)} workers`}>
          {j.priority}</Figure>
      </dl>
      {j.digest !== "" && <p class="digest">digest <code>{j.digest}</code></p>}
    </>
  );
}

function Curves({ job: j }: { job: Job }) {
  void seriesVersion.value;
  const of = series.get(j.name);
  const s = of?.get("loss");
  const marks = marksOf(j.name, events.value, s);
  const errors = [
    ...curve(of?.get("train_error"), "training, top-1", "--column-0", 100),
    ...curve(of?.get("train_top5_error"), "training, top-5", "--column-1", 100),
    evaluated(j, s, "test, top-1", "--column-0", (e) => (100 * e.top1_errors) / Math.max(e.images, 1), true),
    evaluated(j, s, "test, top-5", "--column-1", (e) => (100 * e.top5_errors) / Math.max(e.images, 1), true),
  ];
  return (
    <Section title="Curves" id="curves" aside={<ChartControls />}>
      <div class="charts">
        <Chart title="Loss" unit="nats" log={logScale.value} marks={marks} waiting="No step has been finished since this
          coordinator looks." lines={[...curve(s, "training", "--column-0"),
            evaluated(j, s, "test", "--column-1", (e) => e.loss, true)]} />
        <Chart title="Error" unit="%" log={logScale.value} marks={marks} lines={errors} zero={!logScale.value}
          waiting="The first evaluation is still to come." />
      </div>
    </Section>
  );
}

function Columns({ job: j }: { job: Job }) {
  const plan = useAnswer<Plan>(`${jobPath(j.name)}/plan`);
  return (
    <Section title="Columns" id="columns">
      {plan !== null && <Picture plan={plan} job={j} />}
      {j.placement.length > 0 ? <><CellTable job={j} /><PhaseKey /></>
        : <p class="empty">No cell is placed: {j.reason}</p>}
    </Section>
  );
}

const phaseInk: Record<string, string> = { data: "--p-data", forward: "--p-forward", backward: "--p-backward",
  wait: "--p-wait", update: "--p-update", checkpoint: "--p-checkpoint" };

/** The seconds of a step, one kind of phase on top of the other: drawn from the top, so that each covers the next. */
function stacked(of: Map<string, Series> | undefined, cell: string): Line[] {
  const first = of?.get(`seconds/${cell}/forward`);
  if (of === undefined || first === undefined) return [];
  const { xs, at } = axisOf(first);
  const sums = new Array<number>(xs.length).fill(0);
  const lines: Line[] = [];
  for (const g of groups) {
    const s = of.get(`seconds/${cell}/${g}`);
    const own = at.map((i) => 1000 * (s?.mean[i] ?? 0));
    own.forEach((v, k) => (sums[k]! += v));
    lines.push({ label: g, ink: phaseInk[g]!, xs, ys: [...sums], own, fill: true, width: 0.5 });
  }
  return lines.reverse();
}

function Speed({ job: j }: { job: Job }) {
  void seriesVersion.value;
  const cells = j.placement.map((p) => cellName(p.cell));
  const [chosen, choose] = useState("");
  const cell = cells.includes(chosen) ? chosen : (cells[0] ?? "r0c0");
  const of = series.get(j.name);
  const column = Number(/c(\d+)$/.exec(cell)?.[1] ?? 0);
  return (
    <Section title="Speed" id="speed" aside={cells.length > 1 && <Choice label="Cell" options={cells} value={cell}
      choose={choose} />}>
      <div class="charts">
        <Chart title="Throughput" unit="images/s" zero lines={curve(of?.get("images_per_second"), "images/s", "--good")}
          marks={marksOf(j.name, events.value, of?.get("loss"))} />
        <Chart title={`Time of a step, cell ${cell}`} unit={`ms, column ${column}`} zero
          lines={stacked(of, cell)} waiting="No step has been measured yet." />
      </div>
    </Section>
  );
}

function Config({ name }: { name: string }) {
  const [other, setOther] = useState("");
  const mine = useAnswer<{ config: Setting[] }>(`${jobPath(name)}/config`);
  const others = (jobs.value ?? []).map((j) => j.name).filter((n) => n !== name);
  return (
    <Section title="Configuration" id="config" aside={others.length > 0 && (
      <label>difference to <select value={other} onChange={(e) => setOther(e.currentTarget.value)}>
        <option value="">no other job</option>
        {others.map((n) => <option key={n}>{n}</option>)}
      </select></label>)}>
      {mine !== null && (other === "" ? <Settings all={mine.config} /> : <Difference names={[name, other]} />)}
    </Section>
  );
}

function Settings({ all }: { all: Setting[] }) {
  return (
    <dl class="settings" tabIndex={0} aria-label="Effective configuration">
      {all.map((s) => <div key={s.key}><dt>{s.key}</dt><dd>{s.value}</dd></div>)}
    </dl>
  );
}

/** Keys in which jobs differ, and no others. */
export function Difference({ names }: { names: string[] }) {
  const [configs, setConfigs] = useState<Setting[][] | null>(null);
  useEffect(() => {
    let current = true;
    Promise.all(names.map((n) => get<{ config: Setting[] }>(`${jobPath(n)}/config`)))
      .then((all) => current && setConfigs(all.map((a) => a.config)), () => undefined);
    return () => {
      current = false;
    };
  }, [names.join("\n")]);
  if (configs === null || configs.length !== names.length) return null;
  const maps = configs.map((c) => new Map(c.map((s) => [s.key, s.value])));
  const keys = [...new Set(configs.flatMap((c) => c.map((s) => s.key)))];
  const differ = keys.filter((k) => new Set(maps.map((m) => m.get(k))).size > 1);
  return (
    <Table label="Settings that differ" heads={["Setting", ...names]}>
      {differ.map((k) => (
        <tr key={k}><th scope="row"><code>{k}</code></th>{maps.map((m, i) => <td key={i}>{m.get(k) ?? "–"}</td>)}</tr>
      ))}
    </Table>
  );
}

