// Jobs side by side: their curves over one axis, and in what they differ.

import { Chart, ChartControls, logScale } from "./chart";
import { curve, evaluated } from "./curves";
import { figures, loss, percent, whole } from "./format";
import { Difference } from "./job";
import { go, jobLink, Link, Section, State, Table } from "./parts";
import { details, jobs, series, seriesVersion } from "./state";

const inks = ["--column-0", "--column-1", "--column-2", "--column-3", "--bad", "--violet"];

export function Compare({ names }: { names: string[] }) {
  void seriesVersion.value;
  const all = jobs.value ?? [];
  const set = (chosen: string[]) => go(`/compare?${new URLSearchParams(chosen.map((n) => ["job", n]))}`);
  const shown = names.flatMap((n) => details.value[n] ?? all.find((j) => j.name === n) ?? []);
  const inkOf = (name: string) => inks[names.indexOf(name) % inks.length]!;
  const measured = (name: string, times = 1) =>
    shown.flatMap((j) => curve(series.get(j.name)?.get(name), j.name, inkOf(j.name), times));
  return (
    <>
      <h1>Compare</h1>
      <fieldset class="chooser"><legend>Jobs to compare</legend>
        {all.map((j) => (
          <label key={j.name}><input type="checkbox" checked={names.includes(j.name)} onChange={(e) =>
            set(e.currentTarget.checked ? [...names, j.name] : names.filter((n) => n !== j.name))} />
            {names.includes(j.name) && <i class="dot" style={{ background: `var(${inkOf(j.name)})` }} />}
            {j.name}</label>
        ))}
      </fieldset>
      {shown.length === 0 ? <p class="empty">Choose two jobs or more.</p> : (
        <>
          <Section title="Curves" id="curves" aside={<ChartControls />}>
            <div class="charts">
              <Chart title="Training loss" unit="nats" log={logScale.value}
                lines={measured("loss")} />
              <Chart title="Test error" unit="%, top-1" log={logScale.value} zero={!logScale.value}
                waiting="None of them has been evaluated yet." lines={shown.map((j) => evaluated(j,
                  series.get(j.name)?.get("loss"), j.name, inkOf(j.name),
                  (e) => (100 * e.top1_errors) / Math.max(e.images, 1)))} />
              <Chart title="Training error" unit="%, top-1" log={logScale.value} zero={!logScale.value}
                lines={measured("train_error", 100)} />
              <Chart title="Throughput" unit="images/s" zero
                lines={measured("images_per_second")} />
            </div>
          </Section>
          <Section title="Now" id="now">
            <Table label="Jobs now" heads={["Job", "State", "Step", "Loss", "Test error", "Images/s"]}
              right={[2, 3, 4, 5]}>
              {shown.map((j) => {
                const e = j.evaluations.at(-1);
                return (
                  <tr key={j.name}>
                    <th scope="row"><i class="dot" style={{ background: `var(${inkOf(j.name)})` }} />
                      <Link to={jobLink(j.name)}>{j.name}</Link></th>
                    <td><State state={j.state} /></td><td class="n">{whole(j.step)}</td>
                    <td class="n">{loss(j.loss)}</td>
                    <td class="n">{e === undefined ? "–" : percent(e.top1_errors, e.images)}</td>
                    <td class="n">{figures(j.images_per_second)}</td>
                  </tr>
                );
              })}
            </Table>
          </Section>
          {shown.length > 1 && <Section title="Settings that differ" id="difference">
            <Difference names={shown.map((j) => j.name)} /></Section>}
        </>
      )}
    </>
  );
}
