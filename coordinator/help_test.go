package main

import (
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"colonnade/checkpoint/cli"
	"colonnade/checkpoint/cli/clitest"
	"colonnade/proto/clusterpb"
)

// Every command says what it is for, shows an example that it understands, and fits into 80 columns.
func TestEveryCommandHasAnExample(t *testing.T) {
	t.Setenv("COLUMNS", "80")
	_, tree := commandTree(t)
	all := clitest.Commands(tree)
	if len(all) < 30 {
		t.Fatalf("only %d commands", len(all))
	}
	for path, n := range all {
		example := examples[path]
		if n.Help == "" || example == "" {
			t.Errorf("coordinator %s has no help or no example: add one to examples", path)
			continue
		}
		r := command(append(strings.Fields(path), "--help")...)
		if r.status != 0 || !strings.Contains(strings.Join(strings.Fields(r.out), " "), "Example: coordinator "+example) {
			t.Errorf("coordinator %s --help shows no example:\n%s", path, r.out)
		}
		for line := range strings.Lines(r.out) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
				t.Errorf("coordinator %s --help: %d columns: %s", path, n, line)
			}
		}
		line, _, _ := strings.Cut(example, " > ") // where the shell takes over
		if _, err := tree.Parse(strings.Fields(line)); err != nil {
			t.Errorf("coordinator %s is no command line: %v", line, err)
		}
	}
	for path := range examples {
		if all[path] == nil {
			t.Errorf("there is an example of %q, which is no command", path)
		}
	}
}

func TestCompletions(t *testing.T) {
	for line, want := range map[string]string{
		"j":                            "job",
		"job s":                        "show stop submit",
		"job submit --s":               "--set",
		"checkpoint ":                  "delete digest export fork import list now pin unpin verify",
		"completion ":                  "bash fish zsh",
		"start --log-level ":           "debug error info warn",
		"start --data x --log-level w": "warn",
		"job show ":                    "",
	} {
		out := succeeds(t, append([]string{"complete"}, strings.Split(line, " ")...)...)
		if got := strings.Join(strings.Fields(out), " "); got != want {
			t.Errorf("%q goes on with %q, want %q", line, got, want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script := succeeds(t, "completion", shell)
		if program, err := exec.LookPath(shell); err == nil {
			check := exec.Command(program, "-n")
			check.Stdin = strings.NewReader(script)
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("%s does not take its script: %v: %s", shell, err, out)
			}
		}
	}
}

// Bash itself completes a line by the script.
func TestBashCompletes(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	script := succeeds(t, "completion", "bash") + "\ncoordinator() { [ \"$1\" = complete ] && printf '%s\\n' \"$@\"; }\n" +
		"COMP_WORDS=(coordinator job s); COMP_CWORD=2; _coordinator; printf '%s,' \"${COMPREPLY[@]}\"\n"
	out, err := exec.Command(bash, "-c", script).CombinedOutput()
	if err != nil || string(out) != "complete,job,s," {
		t.Errorf("bash completes by %q, %v", out, err)
	}
}

// What is to be typed next names the program as it was called, where it is a command of ours.
func TestHintsNameTheProgram(t *testing.T) {
	var errs lockedBuffer
	con := console{out: &errs, err: &errs, now: time.Now, program: "bin/coordinator"}
	run(words("job show x --coordinator "+nobody(t)), con)
	run(words("job submit"), con)
	run(words("job nothing"), con)
	for _, want := range []string{"start one with: bin/coordinator start", "give one: bin/coordinator job submit JOB.yaml",
		"see: bin/coordinator job --help", "no coordinator answers"} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("nothing says %q:\n%s", want, errs.String())
		}
	}
	tree, err := newParser(con, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	line := "see: coordinator job list, /usr/bin/coordinator job list, the coordinator is away, my-coordinator start"
	if got := con.named().Hint(line, tree); got != strings.Replace(line, "see: ", "see: bin/", 1) {
		t.Errorf("%s", got)
	}
	if got := cli.Called("/no/such/program"); got != "/no/such/program" {
		t.Errorf("a program that is not on the path is called %s", got)
	}
}

func TestSparklines(t *testing.T) {
	for want, all := range map[string][]float64{"": {1}, "▁▁": {3, 3}, "█▄▁": {2, 1.5, 1}, "▁█": {0, 1e300}} {
		if got := sparkline(all); got != want {
			t.Errorf("%v is drawn as %q, want %q", all, got, want)
		}
	}
}

// On a terminal no line of status is wider than it.
func TestStatusFits(t *testing.T) {
	long := strings.Repeat("x", 100)
	s := &clusterpb.StatusReply{Cluster: "c", Leader: "n", Workers: []*clusterpb.Worker{{Id: "0123456789abcdef", Name: "w",
		State: "connected", Device: &clusterpb.Device{Model: long}}}, Jobs: []*clusterpb.Job{{Name: "j", Reason: long}}}
	for _, terminal := range []bool{true, false} {
		var out lockedBuffer
		con := console{out: &out, terminal: terminal}
		if err := con.clipped(func(out io.Writer) error { return showStatus(out, s) }); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); terminal && n > 80 {
				t.Errorf("%d columns: %s", n, line)
			}
		}
		if strings.Contains(out.String(), long) == terminal || !strings.Contains(out.String(), "01234567  w") {
			t.Errorf("terminal %t:\n%s", terminal, out.String())
		}
	}
}

// TestVersion: it is a line, and no command is needed.
func TestVersion(t *testing.T) {
	if got := succeeds(t, "--version"); got != cli.Version()+"\n" {
		t.Errorf("prints %q", got)
	}
}
