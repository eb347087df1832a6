package main

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// run is one training of a sample job, made shorter.
type run struct {
	name   string // of its directory, and of what it leaves
	job    string // scripts/jobs/JOB.yaml
	seed   int
	epochs int  // 0: as the job has it
	until  bool // until a quarter of the training images is wrong (figure 1)
	kill   bool // by SIGKILL, coordinator and workers, when it is half way
	two    bool // on two workers
}

// runs are all of them, in the order in which they are worth most.
func runs() (out []run) {
	out = append(out, run{name: "figure1-relu", job: "figure1-relu", seed: 2012, until: true},
		run{name: "figure1-tanh", job: "figure1-tanh", seed: 2012, until: true})
	for seed := 1; seed <= 3; seed++ {
		for _, job := range []string{"cifar10-4", "cifar10-4-lrn"} {
			out = append(out, run{name: fmt.Sprintf("%s-seed%d", job, seed), job: job, seed: seed, epochs: 8})
		}
	}
	return append(out, run{name: "cifar10", job: "cifar10", seed: 2012, epochs: 12},
		run{name: "fashion", job: "fashion", seed: 2012},
		run{name: "fullsize", job: "fullsize", seed: 2012, two: true},
		run{name: "fullsize-killed", job: "fullsize", seed: 2012, two: true, kill: true},
		run{name: "patches", job: "patches", seed: 2012, two: true},
		run{name: "patches-killed", job: "patches", seed: 2012, two: true, kill: true})
}

var (
	jobLine    = regexp.MustCompile(`(?m)^job: \S+`)
	seedLine   = regexp.MustCompile(`(?m)^seed: \d+`)
	epochsLine = regexp.MustCompile(`(?m)^  epochs: (\d+)`)
	packPath   = regexp.MustCompile(`\.\./\.\./\.data/packs/`)
	dropEpoch  = regexp.MustCompile(`\{epoch: (\d+), rate: `)
)

// text is a run's job file: the sample's under another name, with another seed, its packs elsewhere, and its schedule
// shortened in proportion. Every drop keeps an epoch.
func (r run) text(sample, packs string) (string, error) {
	m := epochsLine.FindStringSubmatch(sample)
	if r.epochs > 0 && m == nil {
		return "", fmt.Errorf("job %s has no epochs to shorten", r.job)
	}
	out := jobLine.ReplaceAllLiteralString(sample, "job: "+r.name)
	out = seedLine.ReplaceAllLiteralString(out, "seed: "+strconv.Itoa(r.seed))
	out = packPath.ReplaceAllLiteralString(out, strings.TrimSuffix(packs, "/")+"/")
	if r.epochs == 0 {
		return out, nil
	}
	whole, err := strconv.Atoi(m[1])
	if err != nil {
		return "", err
	}
	out = epochsLine.ReplaceAllLiteralString(out, "  epochs: "+strconv.Itoa(r.epochs))
	last, left := 1, len(dropEpoch.FindAllString(out, -1))
	return dropEpoch.ReplaceAllStringFunc(out, func(s string) string {
		n, err := strconv.Atoi(dropEpoch.FindStringSubmatch(s)[1])
		if err != nil {
			return s
		}
		left--
		last = max(last+1, min(1+int(math.Round(float64(n-1)*float64(r.epochs)/float64(whole))), r.epochs-left))
		return fmt.Sprintf("{epoch: %d, rate: ", last)
	}), nil
}
