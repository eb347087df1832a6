package main

import (
	"fmt"
	"runtime"
)

// maxThreads is more than any machine has.
const maxThreads = 4096

// cores is how many threads can run at once: those cores this process is bound to, and no more than what a container's
// limit amounts to, which GOMAXPROCS knows.
func cores() int { return min(runtime.NumCPU(), runtime.GOMAXPROCS(0), maxThreads) }

// checkThreads refuses what --threads cannot be.
func checkThreads(n int) error {
	if n < 1 || n > maxThreads {
		return usageError{fmt.Errorf("--threads %d; give between 1 and %d, or leave it out to use all %d cores", n,
			maxThreads, cores())}
	}
	return nil
}

// share is how many of a worker's threads cell i of n gets: as even as whole threads go, and never none.
func share(threads, i, n int) int { return max(threads*(i+1)/n-threads*i/n, 1) }
