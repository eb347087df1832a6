package main

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"colonnade/shard"
	"colonnade/shard/pack"
)

// wrong is a command line that cannot be done.
type wrong struct {
	name   string
	args   []string
	status int
	want   []string // parts of the one line, in order
}

// refused wants one line on standard error, in the words given, and nothing else anywhere.
func (w wrong) refused(t *testing.T) {
	t.Helper()
	r := command(w.args...)
	if r.status != w.status {
		t.Errorf("exit status %d, want %d", r.status, w.status)
	}
	if r.out != "" {
		t.Errorf("standard output is not empty:\n%s", r.out)
	}
	line, rest, _ := strings.Cut(r.err, "\n")
	if rest != "" || !strings.HasPrefix(line, "coordinator: ") || !strings.HasSuffix(r.err, "\n") {
		t.Errorf("not one line:\n%s", r.err)
	}
	if !strings.Contains(line, "; ") {
		t.Errorf("the line has no next step: %s", line)
	}
	at := 0
	for _, want := range w.want {
		i := strings.Index(line[at:], want)
		if i < 0 {
			t.Fatalf("the line lacks %q: %s", want, line)
		}
		at += i + len(want)
	}
	for _, raw := range []string{"rpc error", "desc =", "%!", "panic", "goroutine"} {
		if strings.Contains(line, raw) {
			t.Errorf("the line has %q: %s", raw, line)
		}
	}
}

// tree lists every file below a directory, for a test that nothing was left.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

// check runs all of them and wants that nothing is left.
func check(t *testing.T, dir string, all []wrong) {
	before := tree(t, dir)
	for _, w := range all {
		t.Run(w.name, w.refused)
	}
	if after := tree(t, dir); after != before {
		t.Errorf("files were\n%s\nand are\n%s", before, after)
	}
}

func words(s string) []string { return strings.Fields(s) }

func TestWrongCommandLines(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	job := writeJob(t, dir, "job.yaml")
	const usage, status = "; see: coordinator", exitUsage
	check(t, dir, []wrong{
		{"nothing", nil, status, []string{`expected one of "dev"`, usage, " --help"}},
		{"unknown command", words("jobs"), status, []string{"jobs", usage, " --help"}},
		{"half a command", words("job"), status, []string{"expected one of", usage, " job --help"}},
		{"unknown subcommand", words("job rest x"), status, []string{"rest", usage, " job --help"}},
		{"unknown flag", words("status --verbose"), status, []string{"--verbose", usage, " status --help"}},
		{"no job named", words("job watch"), status, []string{"<NAME>", usage, " job watch --help"}},
		{"too much", words("job show a b"), status, []string{"b", usage, " job show --help"}},
		{"no job file named", words("job submit"), status, []string{"no job file", "coordinator job submit JOB.yaml"}},
		{"no directory", words("start"), status, []string{"--data", usage, " start --help"}},
		{"step is no number", words("job resume j --step last"), status,
			[]string{"--step", "last", usage, " job resume --help"}},
		{"step is negative", words("job resume j --step=-1"), status, []string{"--step", "-1", usage,
			" job resume --help"}},
		{"verify step is no number", words("checkpoint verify j --step x"), status,
			[]string{"--step", usage, " checkpoint verify --help"}},
		{"timeout is no time", words("status --timeout soon"), status,
			[]string{"--timeout", "soon", usage, " status --help"}},
		{"no time at all", words("status --timeout 0s"), status, []string{"--timeout 0s", "; give"}},
		{"negative time", words("status --timeout=-5s"), status, []string{"--timeout -5s", "; give"}},
		{"address without port", words("status --coordinator localhost"), status,
			[]string{"--coordinator localhost", "port", "; give host:port"}},
		{"port is no number", words("status --coordinator localhost:http"), status,
			[]string{`"http" is no port`, "; give host:port"}},
		{"port out of range", words("status --coordinator localhost:70000"), status,
			[]string{`"70000" is no port`, "; give host:port"}},
		{"empty address", []string{"status", "--coordinator="}, status, []string{"--coordinator", "; give host:port"}},
		{"too many colons", words("status --coordinator 1:2:3"), status, []string{"too many colons", "; give host:port"}},
		{"no workers", words("dev --workers 0 " + job), status, []string{"--workers 0; start between 1 and 64"}},
		{"too many workers", words("dev --workers 65 " + job), status, []string{"--workers 65; start between 1 and 64"}},
		{"workers are no number", words("dev --workers two " + job), status,
			[]string{"--workers", "two", usage, " dev --help"}},
		{"no threads", words("dev --threads 0 " + job), status, []string{"--threads 0; give between 1 and", "leave it out"}},
		{"too many threads", words("dev --threads 5000 " + job), status, []string{"--threads 5000; give between 1 and"}},
		{"unknown carrier", words("dev --carrier pigeon " + job), status,
			[]string{"--carrier", "pigeon", usage, " dev --help"}},
		{"unknown log level", words("start --data d --log-level loud"), status,
			[]string{"--log-level", "loud", usage, " start --help"}},
		{"open to the network", words("start --data d --listen 0.0.0.0:0"), status,
			[]string{"--listen 0.0.0.0:0", "without encryption; use 127.0.0.1, or add --insecure"}},
		{"open by name", words("start --data d --listen example.org:0"), status,
			[]string{"--listen example.org:0", "; use 127.0.0.1"}},
		{"http open to the network", words("start --data d --listen 127.0.0.1:0 --http :0"), status,
			[]string{"--http :0", "; use 127.0.0.1"}},
		{"http open to the network without a token", words("start --data d --listen 127.0.0.1:0 --http :0 --insecure"),
			status, []string{"--http :0 can be reached by others", "; give a file"}},
		{"a token without http", words("start --data d --http none --http-token-file f"), status,
			[]string{"--http-token-file without --http", "; give --http"}},
		{"listen without port", words("start --data d --listen 127.0.0.1"), status,
			[]string{"--listen 127.0.0.1", "; give host:port"}},
		{"no columns", words("plan alexnet --columns 0"), status, []string{"--columns 0; use 1, 2 or 4"}},
		{"columns are no number", words("plan alexnet -k two"), status, []string{"--columns", "two", usage,
			" plan --help"}},
		{"negative channels", words("plan alexnet --channels=-1"), status, []string{"--channels -1; leave it out"}},
		{"negative classes", words("plan alexnet --classes=-1"), status, []string{"--classes -1; leave it out"}},
	})
}

func TestWrongNetworks(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("bad-key.yaml", "network: x\nlayres: []\n")
	write("bad-kind.yaml",
		"network: x\ninput: {channels: [1], height: 8, width: 8}\nlayers:\n  - {name: a, kind: convolution}\n")
	write("binary.yaml", "\x00\xff\xfe\x01")
	write("empty.yaml", "")
	write("large.yaml", strings.Repeat("# x\n", shard.MaxFile))
	if err := os.Mkdir("directory", 0o755); err != nil {
		t.Fatal(err)
	}
	check(t, dir, []wrong{
		{"unknown", words("plan alexnet-33"), exitFailure, []string{`no network "alexnet-33"`, "alexnet-32", "tiny"}},
		{"empty name", []string{"plan", ""}, exitFailure, []string{`no network ""`}},
		{"columns do not divide", words("plan alexnet -k 3"), exitFailure,
			[]string{`layer "conv`, "divide into 3 columns", "; use"}},
		{"too many columns", words("plan tiny -k 64"), exitFailure, []string{"columns", ";"}},
		{"channels", words("plan alexnet --channels 7"), exitFailure, []string{"not 7", ";"}},
		{"bad key", words("plan bad-key.yaml"), exitFailure, []string{"bad-key.yaml:2", "layres", ";"}},
		{"bad kind", words("plan bad-kind.yaml"), exitFailure, []string{"bad-kind.yaml:4", "convolution", ";"}},
		{"binary", words("plan binary.yaml"), exitFailure, []string{"binary.yaml", ";"}},
		{"empty", words("plan empty.yaml"), exitFailure, []string{"empty.yaml", "empty", ";"}},
		{"large", words("plan large.yaml"), exitFailure, []string{"large.yaml is larger than", "; name a network file"}},
		{"directory", words("plan directory"), exitFailure, []string{"directory is a directory; "}},
	})
}

func TestWrongJobFiles(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Mkdir("directory", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"empty.yaml": "", "syntax.yaml": "job: [j\n", "binary.yaml": "\x7fELF\x00",
		"large.yaml": strings.Repeat("# x\n", shard.MaxFile), "text.pack": "not a pack at all", "cut.pack": "",
		"two.yaml": "job: a\n---\njob: b\n"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	writePack(t, "colour.pack", pack.Header{Images: 40, Channels: 3, Height: 12, Width: 12})
	job := func(name string, lines ...string) { writeJob(t, dir, name, lines...) }
	job("bad-key.yaml", "netwrok: tiny")
	job("bad-type.yaml", "recipe: {batch: two, steps: 1, rate: 0.1}")
	job("replicas.yaml", "replicas: 3")
	job("network.yaml", "network: resnet")
	job("columns.yaml", "columns: 3")
	job("name.yaml", "job: a/b")
	job("no-pack.yaml", "data: {train: none.pack}")
	job("not-pack.yaml", "data: {train: text.pack}")
	job("cut-pack.yaml", "data: {train: cut.pack}")
	job("directory-pack.yaml", "data: {train: directory}")
	job("test-pack.yaml", "data: {train: train.pack, test: none.pack}")
	job("other-test.yaml", "data: {train: train.pack, test: colour.pack}")
	job("batch.yaml", "recipe: {batch: 41, steps: 1, rate: 0.1}")
	job("no-end.yaml", "recipe: {batch: 4, rate: 0.1}")
	job("rate.yaml", "recipe: {batch: 4, steps: 1, rate: -1}")
	files := []wrong{
		{"missing", words("none.yaml"), 0, []string{"no job file none.yaml; see scripts/jobs"}},
		{"below a file", words("empty.yaml/job.yaml"), 0, []string{"empty.yaml/job.yaml", "; see scripts/jobs"}},
		{"directory", words("directory"), 0, []string{"directory is a directory; "}},
		{"empty", words("empty.yaml"), 0, []string{"empty.yaml", "; see scripts/jobs"}},
		{"syntax", words("syntax.yaml"), 0, []string{"syntax.yaml:", "; see scripts/jobs"}},
		{"binary", words("binary.yaml"), 0, []string{"binary.yaml", "; see scripts/jobs"}},
		{"large", words("large.yaml"), 0, []string{"large.yaml is larger", "; see scripts/jobs"}},
		{"two documents", words("two.yaml"), 0, []string{"two.yaml", "more than one", ";"}},
		{"bad key", words("bad-key.yaml"), 0, []string{`bad-key.yaml:5: unknown key "netwrok"; see scripts/jobs`}},
		{"bad type", words("bad-type.yaml"), 0, []string{"bad-type.yaml:4: \"two\" is no whole number; see scripts/jobs"}},
		{"replicas", words("replicas.yaml"), 0, []string{"recipe.batch: 4 does not divide among 3 replicas; use 6"}},
		{"unknown network", words("network.yaml"), 0, []string{`no network "resnet"`}},
		{"columns do not divide", words("columns.yaml"), 0, []string{"columns.yaml", "divide into 3 columns", "; use"}},
		{"name", words("name.yaml"), 0, []string{`"a/b" is no name; use`}},
		{"no pack", words("no-pack.yaml"), 0,
			[]string{"data.train", "no pack at", "none.pack; make one with: worker data pack"}},
		{"not a pack", words("not-pack.yaml"), 0, []string{"data.train", "text.pack", "; make one with: worker data pack"}},
		{"truncated pack", words("cut-pack.yaml"), 0, []string{"data.train", "cut.pack", ";"}},
		{"pack is a directory", words("directory-pack.yaml"), 0, []string{"data.train", "directory", ";"}},
		{"no test pack", words("test-pack.yaml"), 0, []string{"data.test", "no pack at", "; make one with"}},
		{"test pack of other images", words("other-test.yaml"), 0, []string{"data.test", "; pack both the same way"}},
		{"batch", words("batch.yaml"), 0, []string{"recipe.batch: 41", "; use a smaller batch"}},
		{"no end", words("no-end.yaml"), 0, []string{"recipe: epochs 0 and steps 0; give one of them"}},
		{"rate", words("rate.yaml"), 0, []string{"recipe.rate: -1", ";"}},
	}
	for _, verb := range [][]string{{"job", "submit"}, {"dev"}} {
		var all []wrong
		for _, w := range files {
			w.args, w.status = append(append([]string(nil), verb...), w.args...), exitFailure
			all = append(all, w)
		}
		t.Run(strings.Join(verb, " "), func(t *testing.T) { check(t, dir, all) })
	}
}

// nobody is an address at which nothing listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestNobodyAnswers(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	job := writeJob(t, dir, "job.yaml")
	address := nobody(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var all []wrong
	for _, c := range []string{"status", "job list", "queue", "job priority j 5", "job show j", "job watch j",
		"job stop j", "job resume j", "job submit " + job,
		"checkpoint list j", "checkpoint verify j", "checkpoint digest j"} {
		for _, flag := range []string{"", " --json"} {
			all = append(all, wrong{c + flag, words(c + flag + " --coordinator " + address), exitFailure,
				[]string{"no coordinator answers at " + address + "; start one with: coordinator start"}})
		}
	}
	all = append(all, wrong{"silence", words("status --timeout 200ms --coordinator " + silent.Addr().String()),
		exitFailure,
		[]string{"; "}})
	check(t, dir, all)
}

func TestWrongStarts(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c := startCluster(t)
	if err := os.WriteFile("file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	free := " --listen 127.0.0.1:0 --http none"
	check(t, dir, []wrong{
		{"port in use", words("start --data d --listen " + c.address), exitFailure,
			[]string{"--listen " + c.address + ": the port is in use; stop what uses it, or choose another --listen"}},
		{"http port in use", words("start --data d --listen 127.0.0.1:0 --http " + c.address), exitFailure,
			[]string{"--http " + c.address, "in use; stop what uses it"}},
		{"address of another machine", words("start --data d --insecure --listen 203.0.113.1:0"), exitFailure,
			[]string{"--listen 203.0.113.1:0", "; choose another --listen"}},
		{"directory in use", words("start --data " + c.node.cfg.directory + free), exitFailure,
			[]string{"data directory is in use", "; stop it or choose another --data"}},
		{"directory is a file", words("start --data file" + free), exitFailure,
			[]string{"data directory", "; choose another --data"}},
		{"directory below a file", words("start --data file/d" + free), exitFailure,
			[]string{"data directory", "; choose another --data"}},
		{"directory cannot be made", words("start --data /proc/d" + free), exitFailure,
			[]string{"data directory", "; choose another --data"}},
	})
}

func TestWrongRequests(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c := startCluster(t)
	succeeds(t, "job", "submit", writeJob(t, dir, "waits.yaml", "job: waits"))
	c.attach("finish", "a")
	c.attach("finish", "b")
	done := writeJob(t, dir, "done.yaml", "job: done")
	succeeds(t, "job", "watch", "waits") // it runs first
	succeeds(t, "job", "submit", done)
	succeeds(t, "job", "watch", "done")
	other := writeJob(t, dir, "other.yaml", "job: done", "seed: 9")
	var all []wrong
	for _, cmd := range []string{"job show", "job watch", "job stop", "job resume", "checkpoint list",
		"checkpoint verify", "checkpoint digest"} {
		all = append(all, wrong{cmd + " of no job", words(cmd + " none"), exitFailure, []string{"none",
			"; see: coordinator job list"}},
			wrong{cmd + " of nothing", append(words(cmd), ""), exitFailure,
				[]string{"names no job; see: coordinator job list"}})
	}
	check(t, dir, append(all,
		wrong{"resume a done job", words("job resume done"), exitFailure,
			[]string{"job done is done, there is nothing to resume; see: coordinator job show done"}},
		wrong{"priority of a done job", words("job priority done 5"), exitFailure,
			[]string{"job done is done, it does not wait for workers any more; see: coordinator queue"}},
		wrong{"submit again", words("job submit " + done), exitFailure,
			[]string{"job done exists already and is done; go on with it by submitting with --resume"}},
		wrong{"submit another as the same", words("job submit " + other), exitFailure,
			[]string{"job done exists and is another one", "; give this one another name"}},
		wrong{"resume another as the same", words("job submit --resume " + other), exitFailure,
			[]string{"job done exists and is another one", "; give this one another name"}},
		wrong{"digest of no step", words("checkpoint digest done --step 7"), exitFailure,
			[]string{"no checkpoint of step 7; see: coordinator checkpoint list done"}},
		wrong{"verify no step", words("checkpoint verify done --step 7"), exitFailure,
			[]string{"no checkpoint of step 7; see: coordinator checkpoint list done"}},
	))
}

func TestRequestsOfAJobThatWaits(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	startCluster(t)
	succeeds(t, "job", "submit", writeJob(t, dir, "job.yaml"))
	check(t, dir, []wrong{
		{"resume what waits", words("job resume j"), exitFailure,
			[]string{"job j is queued already; follow it with: coordinator job watch j"}},
		{"digest of nothing", words("checkpoint digest j"), exitFailure,
			[]string{"no checkpoint yet; see: coordinator job show j"}},
		{"verify nothing", words("checkpoint verify j"), exitFailure,
			[]string{"no checkpoint yet; see: coordinator job show j"}},
	})
	succeeds(t, "job", "stop", "j")
	check(t, dir, []wrong{
		{"resume from no step", words("job resume j --step 7"), exitFailure,
			[]string{"job j, step 7: no such checkpoint; see: coordinator checkpoint list j"}},
	})
}

func TestWrongDev(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c := startCluster(t)
	job := writeJob(t, dir, "job.yaml")
	if err := os.WriteFile("file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	check(t, dir, []wrong{
		{"no worker program", words("dev --program none " + job), exitFailure,
			[]string{"no worker program", "none", "; build it with: go build -o"}},
		{"worker program is no program", words("dev --program file " + job), exitFailure,
			[]string{"no worker program", "; build it with: go build -o"}},
		{"directory is a file", words("dev --data file --program " + self + " " + job), exitFailure,
			[]string{"data directory", "; choose another --data"}},
	})
	wrong{"directory in use", words("dev --program " + self + " --data " + c.node.cfg.directory + " " + job),
		exitFailure,
		[]string{"data directory is in use", "; stop it or choose another --data"}}.refused(t)
}
