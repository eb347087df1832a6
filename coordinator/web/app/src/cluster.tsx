// The cluster: coordinators and workers.

import type { Worker } from "./api";
import { bytes, cellName, span, whole } from "./format";
import { Action, Events, Figure, jobLink, Link, Section, State, Table } from "./parts";
import { cluster, events } from "./state";

export function ClusterPage() {
  const c = cluster.value;
  if (c === null) return <p class="empty">Asking the coordinator …</p>;
  const leader = c.members.find((m) => m.id === c.leader);
  const answering = c.members.filter((m) => m.answers).length;
  const count = (state: string) => c.workers.filter((w) => w.state === state).length;
  return (
    <>
      <div class="title"><h1>Cluster</h1><code>{c.cluster}</code></div>
      <dl class="figures">
        <Figure label="Leader" note={leader?.address}>{c.leader === "" ? "none" : c.leader.slice(0, 8)}</Figure>
        <Figure label="Term">{whole(c.term)}</Figure>
        <Figure label="Applied index">{whole(c.applied_index)}</Figure>
        <Figure label="Coordinators" note={`${Math.floor(c.members.length / 2) + 1} needed`}>
          {answering} of {c.members.length}</Figure>
        <Figure label="Workers" note={count("silent") > 0 ? `${count("silent")} silent` : ""}>
          {count("connected")}</Figure>
        <Figure label="Spares">
          {c.workers.filter((w) => w.state === "connected" && w.cells.length === 0).length}</Figure>
      </dl>
      <Section title="Workers" id="workers">
        {c.workers.length === 0 ? (
          <p class="empty">None. Start one with <code>worker run --coordinator ADDR --data DIR</code></p>
        ) : (
          <Table label="Workers" heads={["Worker", "State", "Lease", "Cells", "Device", "Memory", "Host", ""]}>
            {byName(c.workers).map((w) => <WorkerRow key={w.id} worker={w} names={c.workers} />)}
          </Table>
        )}
      </Section>
      <Devices workers={c.workers} />
      <Section title="Coordinators" id="coordinators">
        <Table label="Coordinators" heads={["Node", "Role", "Address", "Heard of"]}>
          {c.members.map((m) => (
            <tr key={m.id}>
              <th scope="row"><code>{m.id}</code></th>
              <td><State state={m.role} /></td>
              <td>{m.address}</td>
              <td>{m.answers ? "now" : m.contacted ? `${span(m.silent_ms / 1000)} ago` : "never"}</td>
            </tr>
          ))}
        </Table>
      </Section>
      <Events id="events" events={events.value} />
    </>
  );
}

const byName = (all: Worker[]) =>
  [...all].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }) || a.id.localeCompare(b.id));

function WorkerRow({ worker: w, names }: { worker: Worker; names: Worker[] }) {
  const copies = w.buddies.map((id) => names.find((o) => o.id === id)?.name ?? id);
  return (
    <tr>
      <th scope="row">{w.name}<small><code>{w.id}</code></small></th>
      <td><State state={w.state} /> {w.draining && <State state={w.drained ? "drained" : "draining"} />}
        {w.note !== "" && <small class="note">{w.note}</small>}</td>
      <td>{w.state === "connected" ? <Lease left={w.lease_left_ms} /> : "–"}</td>
      <td>{w.cells.length === 0 ? <span class="none">{w.state === "gone" ? "–" : "spare"}</span>
        : w.cells.map((c) => (
          <Link key={c.job + cellName(c.cell)} class="tag" to={jobLink(c.job)}>{c.job}/{cellName(c.cell)}</Link>
        ))}
        {copies.length > 0 && <small>copies go to {copies.join(", else ")}</small>}</td>
      <td>{w.device?.model ?? "–"}{w.device !== null && w.device.threads > 0 && (
        <small>{w.device.name}, {w.device.threads} {w.device.threads === 1 ? "thread" : "threads"}</small>)}</td>
      <td>{w.device === null ? "–" : bytes(w.device.memory_bytes)}</td>
      <td>{w.host}<small>{w.address}</small></td>
      <td>{w.state !== "gone" && <Drain worker={w} />}</td>
    </tr>
  );
}

/** What GPUs say of themselves. */
function Devices({ workers }: { workers: Worker[] }) {
  const gpus = byName(workers).flatMap((w) =>
    w.health === null || w.state !== "connected" ? [] : [{ w, h: w.health }]);
  if (gpus.length === 0) return null;
  const of = (v: number | null, unit: string, digits = 0) => (v === null ? "–" : `${v.toFixed(digits)} ${unit}`);
  return (
    <Section title="GPUs" id="gpus">
      <Table label="GPUs" heads={["Worker", "GPU", "Temperature", "Busy", "Power", "Memory free", "ECC errors",
        "What to look at"]} right={[2, 3, 4, 5, 6]}>
        {gpus.map(({ w, h }) => (
          <tr key={w.id}>
            <th scope="row">{w.name}</th>
            <td>{w.device?.model}<small>{w.device?.name}</small></td>
            <td class="n">{of(h.celsius, "°C")}</td>
            <td class="n">{of(h.busy_percent, "%")}</td>
            <td class="n">{of(h.watts, "W")}{h.watts_limit !== null && <small>of {of(h.watts_limit, "W")}</small>}</td>
            <td class="n">{h.free_bytes === null ? "–" : bytes(h.free_bytes)}
              {w.device !== null && <small>of {bytes(w.device.memory_bytes)}</small>}</td>
            <td class="n" title="uncorrected, since the driver was loaded">{h.ecc_uncorrected ?? "–"}</td>
            <td>{h.warnings.length > 0 && <span class="late">{h.warnings.join("; ")}</span>}
              {h.slowed_by.length > 0 && <small>slowed down by {h.slowed_by.join(", ")}</small>}</td>
          </tr>
        ))}
      </Table>
    </Section>
  );
}

function Drain({ worker: w }: { worker: Worker }) {
  const path = `workers/${w.id}/drain`;
  if (w.draining) {
    return <Action path={path} body={{ undo: true }} verb="Let it have cells" title={`Undrain ${w.name}?`}
      text="Cells may be placed on it again.">Undrain …</Action>;
  }
  const text = w.cells.length === 0 ? "No cell will be placed on it."
    : "Its cells go elsewhere at the next step boundary, if there is room, and none come to it.";
  return <Action path={path} body={{}} verb="Drain" title={`Drain ${w.name}?`} text={text}>Drain …</Action>;
}

/** Leases are three seconds long. */
const lease = 3000;

function Lease({ left }: { left: number }) {
  return (
    <span class="lease"><meter min={0} max={lease} low={lease / 3} value={left}
      aria-label={`${(left / 1000).toFixed(1)} seconds left`} />{(left / 1000).toFixed(1)} s</span>
  );
}
