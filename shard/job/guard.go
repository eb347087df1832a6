package job

import "math"

// Guard says what happens when a step goes wrong in any cell: its loss is no finite number or far above those before,
// or the weights it leads to are not finite. No cell applies such a step. Zero values stand for the defaults.
type Guard struct {
	Then   string  `yaml:"then,omitempty"`   // pause, skip, off
	Spike  float64 `yaml:"spike,omitempty"`  // how many times the usual loss is too much; .inf: nothing is
	Window int     `yaml:"window,omitempty"` // steps whose median is the usual loss; those before are not judged
	Floor  float64 `yaml:"floor,omitempty"`  // the usual loss is taken to be at least this
	Skips  int     `yaml:"skips,omitempty"`  // batches that are skipped in all before the job pauses instead
}

// What follows when a step has gone wrong.
const (
	GuardPause = "pause" // the job waits for an operator
	GuardSkip  = "skip"  // it goes back to the last checkpoint and does without the step's batch
	GuardOff   = "off"   // nothing is looked at but whether the loss is finite, and the job fails if it is not
)

// Defaults of the guard. A batch mean of three times what guessing costs is far from what a run that is well comes to.
const (
	defaultSpike  = 3
	defaultWindow = 50
	defaultSkips  = 10
	maxWindow     = 4096
	maxSkips      = 1000
)

// check says what is wrong with a guard.
func (g *Guard) check() error {
	if g == nil {
		return nil
	}
	switch {
	case g.Then != "" && g.Then != GuardPause && g.Then != GuardSkip && g.Then != GuardOff:
		return errorf("guard.then: %q; use pause, skip or off", g.Then)
	case g.Spike != 0 && !(g.Spike > 1):
		return errorf("guard.spike: %g; give how many times the usual loss is too much, above 1, or .inf", g.Spike)
	case g.Window < 0 || g.Window > maxWindow:
		return errorf("guard.window: %d; give steps, at most %d", g.Window, maxWindow)
	case !(g.Floor >= 0) || math.IsInf(g.Floor, 0):
		return errorf("guard.floor: %g; give a loss, or leave it out for that of guessing", g.Floor)
	case g.Skips < 0 || g.Skips > maxSkips:
		return errorf("guard.skips: %d; give how many batches may be skipped, at most %d", g.Skips, maxSkips)
	}
	return nil
}

// GuardRules is the guard of a resolved job, defaults filled in: the floor is the cross-entropy of guessing among the
// job's classes.
func (j *Job) GuardRules() Guard {
	var g Guard
	if j.Guard != nil {
		g = *j.Guard
	}
	if g.Then == "" {
		g.Then = GuardPause
	}
	if g.Spike == 0 {
		g.Spike = defaultSpike
	}
	if g.Window == 0 {
		g.Window = defaultWindow
	}
	if g.Floor == 0 {
		g.Floor = math.Log(float64(max(j.Classes, 2)))
	}
	if g.Skips == 0 {
		g.Skips = defaultSkips
	}
	if g.Then == GuardOff {
		g.Spike, g.Window = math.Inf(1), 0
	}
	return g
}
