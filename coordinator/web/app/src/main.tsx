// The dashboard: what is at which path, and the frame around it.

import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import "uplot/dist/uPlot.min.css";
import "./style.css";
import { get, setToken } from "./api";
import { ClusterPage } from "./cluster";
import { Compare } from "./compare";
import { clock } from "./format";
import { JobPage } from "./job";
import { Jobs } from "./jobs";
import { LogsPage } from "./logs";
import { Asker, Link, path } from "./parts";
import { cluster, follow, lastHeard, leaderless, link, needToken } from "./state";
import { switchTheme, theme } from "./theme";

interface Route { page: "jobs" | "job" | "cluster" | "compare" | "logs"; names: string[] }

function route(at: string): Route {
  const url = new URL(at, location.origin);
  const job = /^\/jobs\/([^/]+)$/.exec(url.pathname);
  if (job !== null) return { page: "job", names: [decodeURIComponent(job[1]!)] };
  if (url.pathname === "/cluster") return { page: "cluster", names: [] };
  if (url.pathname === "/logs") return { page: "logs", names: [] };
  if (url.pathname === "/compare") return { page: "compare", names: url.searchParams.getAll("job") };
  return { page: "jobs", names: [] };
}

function App() {
  const r = route(path.value);
  const key = `${r.page} ${r.names.join("\n")}`;
  useEffect(() => {
    follow(r.names);
    document.title = `${r.names.join(", ") || r.page} · Colonnade`;
  }, [key]);
  return (
    <>
      <a class="skip" href="#main">To the content</a>
      <header class="top">
        <Link to="/" class="brand"><Columns />Colonnade</Link>
        <nav aria-label="Pages">
          <Link to="/" current={r.page === "jobs"}>Jobs</Link>
          <Link to="/cluster" current={r.page === "cluster"}>Cluster</Link>
          <Link to="/logs" current={r.page === "logs"}>Logs</Link>
          <Link to="/compare" current={r.page === "compare"}>Compare</Link>
        </nav>
        <Health />
        <button type="button" class="plain" onClick={switchTheme}
          aria-label={`Switch to ${theme.value === "dark" ? "light" : "dark"} colours`}>
          {theme.value === "dark" ? "☀" : "☾"}</button>
      </header>
      <Stale />
      <main id="main" tabIndex={-1} class={link.value === "lost" || leaderless.value !== "" ? "stale" : ""}>
        {r.page === "job" && <JobPage key={r.names[0]} name={r.names[0]!} />}
        {r.page === "jobs" && <Jobs />}
        {r.page === "cluster" && <ClusterPage />}
        {r.page === "logs" && <LogsPage />}
        {r.page === "compare" && <Compare names={r.names} />}
      </main>
      <Asker />
      <Token />
    </>
  );
}

const Columns = () => (
  <svg width="16" height="16" viewBox="0 0 16 16" aria-hidden="true">
    <rect x="2" y="1" width="5" height="14" rx="1" class="c0" />
    <rect x="9" y="1" width="5" height="14" rx="1" class="c1" />
  </svg>
);

function Health() {
  const c = cluster.value;
  const well = link.value === "live" && leaderless.value === "";
  const words = link.value === "connecting" ? "connecting" : link.value === "lost" ? "not connected"
    : leaderless.value !== "" ? "no leader" : c === null ? "live" : `live · term ${c.term}`;
  return <span class={`health ${well ? "well" : "ill"}`} role="status"><i />{words}</span>;
}

/** Says when what is shown is no longer how things are. */
function Stale() {
  const [, tick] = useState(0);
  const lost = link.value === "lost";
  useEffect(() => {
    if (!lost) return;
    const timer = setInterval(() => tick((n) => n + 1), 1000);
    return () => clearInterval(timer);
  }, [lost]);
  if (!lost && leaderless.value === "") return null;
  const since = lastHeard.value === 0 ? "" : ` What you see is of ${clock(lastHeard.value)}.`;
  return (
    <p class="banner" role="alert">{lost ? `This coordinator does not answer; trying again.${since}`
      : `The cluster has no leader: ${leaderless.value}.${since}`} Training goes on without coordinators.</p>
  );
}

function Token() {
  const dialog = useRef<HTMLDialogElement>(null);
  const [text, setText] = useState("");
  const [wrong, setWrong] = useState(false);
  const needed = needToken.value;
  useEffect(() => {
    if (needed) dialog.current?.showModal();
  }, [needed]);
  if (!needed) return null;
  const send = async (e: Event) => {
    e.preventDefault();
    setToken(text.trim());
    try {
      await get("jobs");
      needToken.value = false;
      location.reload();
    } catch {
      setWrong(true);
    }
  };
  return (
    <dialog ref={dialog} aria-labelledby="token" onCancel={(e) => e.preventDefault()}>
      <h2 id="token">This coordinator asks for its token</h2>
      <p>It is in the file that the coordinator was started with: <code>--http-token-file</code>. It stays in this
        tab.</p>
      {wrong && <p role="alert" class="said">That is not it.</p>}
      <form onSubmit={send}>
        <input type="password" aria-label="Token" autoComplete="current-password" value={text}
          onInput={(e) => setText(e.currentTarget.value)} />
        <button type="submit" class="main">Open</button>
      </form>
    </dialog>
  );
}

render(<App />, document.getElementById("app")!);
