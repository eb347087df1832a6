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
	rate   string // "": as the job has it
	epochs int    // 0: as the job has it
	until  bool   // until a quarter of the training images is wrong (figure 1)
	kill   bool   // by SIGKILL, coordinator and workers, when it is half way
	two    bool   // on two workers
}

// figure1Runs are the jobs of figure 1, each at several rates: the paper chose either's for the fastest training. At
// the job's own rate a run goes on until a quarter of the images is wrong, which took it that many epochs; others get
// no more. Rates go on to where training is slower again.
var figure1Runs = []struct {
	job    string
	epochs int
	rates  []string
}{
	{"figure1-relu", 14, []string{"0.00025", "0.0005", ownRate, "0.002"}},
	{"figure1-tanh", 21, []string{"0.00025", "0.0005", ownRate, "0.002", "0.004", "0.008"}},
}

// ownRate is the rate of the jobs of figure 1.
const ownRate = "0.001"

// runs are all of them, in the order in which they are worth most.
func runs() (out []run) {
	for _, f := range figure1Runs {
		for _, rate := range f.rates {
			r := run{name: f.job + "-" + rate, job: f.job, seed: 2012, rate: rate, epochs: f.epochs, until: true}
			if rate == ownRate {
				r.name, r.epochs = f.job, 0
			}
			out = append(out, r)
		}
	}
	for seed := 1; seed <= 3; seed++ {
		for _, job := range []string{"cifar10-4", "cifar10-4-lrn"} {
			out = append(out, run{name: fmt.Sprintf("%s-seed%d", job, seed), job: job, seed: seed})
		}
	}
	return append(out, run{name: "cifar10", job: "cifar10", seed: 2012},
		run{name: "fashion", job: "fashion", seed: 2012},
		run{name: "fullsize", job: "fullsize", seed: 2012, two: true},
		run{name: "fullsize-killed", job: "fullsize", seed: 2012, two: true, kill: true},
		run{name: "patches", job: "patches", seed: 2012, two: true},
		run{name: "patches-killed", job: "patches", seed: 2012, two: true, kill: true})
}

var (
	jobLine    = regexp.MustCompile(`(?m)^job: \S+`)
	seedLine   = regexp.MustCompile(`(?m)^seed: \d+`)
	rateLine   = regexp.MustCompile(`(?m)^  rate: [\d.]+`)
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
	if r.rate != "" {
		out = rateLine.ReplaceAllLiteralString(out, "  rate: "+r.rate)
	}
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
